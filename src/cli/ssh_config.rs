//! `sandpen ssh-config`.

use std::ffi::OsStr;
use std::io;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use sandpen::client::Client;
use sandpen_ssh::config::{SshConfig, known_hosts};
use sandpen_ssh::host_key::HostKey;
use sandpen_types::state_dir::StateDir;

use super::args::{NameArg, short_name};
use super::{CliError, Global, print};

/// Print what ssh needs to reach a sandbox
///
/// A block for ~/.ssh/config, by which ssh, scp, sftp, rsync and editors reach the sandbox as `sandpen-NAME` or `NAME.sandpen`:
/// without a network, a port or a server in it. Each connection runs `sandpen` as its ProxyCommand, and whoever may use the
/// daemon needs no key. The block holds for as long as there is a sandbox of this name, also when it is started again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen ssh-config web >> ~/.ssh/config && ssh sandpen-web
  sandpen ssh-config web > web.ssh && ssh -F web.ssh sandpen-web make
  scp -r -F web.ssh web.sandpen:/srv .")]
pub struct Args {
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let options = global.client_options()?;
    let sandbox = Client::connect(&options).await?.inspect(&key).await?;
    let (state_dir, data_dir) =
        (options.state_dir, std::path::absolute(global.data_dir()).map_err(CliError::CurrentDir)?);
    let dir = StateDir::new(state_dir.clone());
    let host_key = HostKey::of_file(&dir.ssh_host_key())?;
    let known = dir.ssh_known_hosts();
    write(&known, &known_hosts(&host_key)).map_err(|source| CliError::KnownHosts { path: known.clone(), source })?;
    let program = std::env::current_exe().map_err(CliError::OwnProgram)?;
    let name = short_name(key.config.as_str(), key.name.as_str());
    let words = ["--state-dir".as_ref(), state_dir.as_os_str(), "--data-dir".as_ref(), data_dir.as_os_str()];
    let last: [&OsStr; 2] = ["ssh-proxy".as_ref(), name.as_ref()];
    let proxy = [&[program.as_os_str()], &words[..], &last].concat();
    let config = SshConfig { key: &key, user: sandbox.user.as_ref(), proxy: &proxy, known_hosts: &known };
    print::bytes(config.text()?.as_bytes())
}

/// Whole or not at all: others may read it just now.
fn write(path: &PathBuf, text: &str) -> io::Result<()> {
    let mut draft = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
    draft.write_all(text.as_bytes())?;
    draft.persist(path).map_err(|error| error.error)?;
    Ok(())
}
