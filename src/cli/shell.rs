//! `sandpen shell`.

use std::io::{self, IsTerminal as _};

use sandpen::client::Client;
use sandpen_types::session::{SessionProgram, SessionSpec};
use sandpen_types::spec::WorkloadUser;

use super::args::NameArg;
use super::detach_keys::{self, DetachKeys};
use super::run::EnvArgs;
use super::session::{Wanted, on_this_terminal, show};
use super::{CliError, Global};

/// Open a shell in a running sandbox
///
/// The login shell of its user by the sandbox's /etc/passwd, /bin/sh where that names none, on this terminal. Where
/// standard input is no terminal, the shell reads its commands from there. It reads the profile, as at a login. Environment,
/// limits and directory are those of the sandbox's command (`ssh` begins in the home instead); HOME, USER, LOGNAME and SHELL are
/// the user's where that environment does not set them. The detach keys leave it running: `sandpen attach --session` comes back.
/// Exit codes are those of `sandpen exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen shell web
  sandpen shell -u nobody web
  echo 'df -h' | sandpen shell web")]
pub struct Args {
    /// User, and perhaps group, whose shell it is, names or numbers of the sandbox's /etc/passwd and /etc/group [default: that
    /// of the sandbox's command]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<WorkloadUser>,
    #[command(flatten)]
    env: EnvArgs,
    /// Keys that leave it on this terminal; '' for none
    #[arg(long, value_name = "KEYS", default_value = detach_keys::DEFAULT)]
    detach_keys: DetachKeys,
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let mut spec = SessionSpec {
        env: args.env.variables(true)?,
        user: args.user.clone(),
        stdin: true,
        ..SessionSpec::new(SessionProgram::Shell)
    };
    if io::stdin().is_terminal() {
        on_this_terminal(&mut spec);
    }
    spec.check()?;
    let options = global.client_options()?;
    let client = Client::connect(&options).await?;
    let session = client.exec(&options, &key, spec).await?;
    let (name, keys) = (args.name.text().to_owned(), args.detach_keys.clone());
    show(session, Wanted { name, input: true, is_begun: true, keys, raw: false }).await
}
