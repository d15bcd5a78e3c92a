//! `sandpen kill`.

use sandpen_types::session::SessionId;
use sandpen_types::signal::Signal;

use super::args::NamesArg;
use super::{CliError, Global, print};

/// Send a signal to sandboxes
///
/// KILL ends the microVM at once; any other signal goes to the command inside. With --job any signal goes to the processes of
/// that job.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or number of the signal
    #[arg(short, long, default_value = "KILL")]
    signal: Signal,
    /// A job of the sandbox: `sandpen jobs` lists them
    #[arg(long, value_name = "JOB")]
    job: Option<SessionId>,
    #[command(flatten)]
    names: NamesArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let keys = args.names.keys()?;
    if let Some(id) = args.job {
        let [key] = &keys[..] else { return Err(CliError::JobOfSeveral(id)) };
        global.connect().await?.signal_job(key, id, args.signal.number()).await?;
        return Ok(0);
    }
    let client = global.connect().await?;
    let kills = keys.iter().map(|key| client.kill(key, args.signal.number()));
    print::each(&keys, futures::future::join_all(kills).await, global.debug)
}
