//! `sandpen ssh-proxy`, which `ssh-config` tells ssh to run: an SSH server on standard input and output.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandpen::client::{Client, ClientError};
use sandpen_ssh::host_key::HostKey;
use sandpen_ssh::{Target, serve};
use sandpen_types::error_chain::error_chain;
use sandpen_types::state_dir::StateDir;
use tokio::sync::{mpsc, oneshot};

use super::args::NameArg;
use super::{CliError, Global, print, stdin, stdio};

/// Pieces that wait to be written.
const PIECES: usize = 2;
/// How long the last bytes may take.
const WRITE_LIMIT: Duration = Duration::from_secs(3);

/// Serve an SSH client on standard input and output
///
/// For the ProxyCommand of `sandpen ssh-config`, and nobody's own.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub struct Args {
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let (key, name) = (args.name.key()?, args.name.text().to_owned());
    let options = global.client_options()?;
    let client = Client::connect(&options).await?;
    let sandbox = client.inspect(&key).await?;
    if !sandbox.is_active() {
        return Err(CliError::NotRunning(name));
    }
    let host_key = HostKey::of_file(&StateDir::new(options.state_dir.clone()).ssh_host_key())?;
    let (output, written) = writer().map_err(CliError::Thread)?;
    let ended = {
        let (client, options, key) = (client.clone(), options.clone(), key.clone());
        async move {
            match client.wait(&options, &key).await {
                Ok(_) | Err(ClientError::RemovedMeanwhile { .. }) => format!("sandbox {name} has ended"),
                Err(error) => format!("sandbox {name} is out of sight: {}", error_chain(&error)),
            }
        }
    };
    let target = Target { client, options, key, user: sandbox.user, note };
    let served = serve(target, Arc::new(host_key), stdin::open(), output, ended).await;
    let _ = tokio::time::timeout(WRITE_LIMIT, written).await;
    served?;
    Ok(0)
}

fn note(text: &str) {
    print::note(text);
}

/// A thread that writes to standard output, which may block; and when it has written all.
fn writer() -> io::Result<(mpsc::Sender<Bytes>, oneshot::Receiver<()>)> {
    let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES);
    let (done, written) = oneshot::channel();
    std::thread::Builder::new().name("stdout".to_owned()).spawn(move || {
        let mut stdout = stdio::stdout();
        while let Some(piece) = pieces.blocking_recv() {
            // Whoever sends sees that nobody takes it.
            if stdout.write_all(&piece).and_then(|()| stdout.flush()).is_err() {
                break;
            }
        }
        let _ = done.send(());
    })?;
    Ok((sender, written))
}
