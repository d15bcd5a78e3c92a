//! `sandpen kill`.

use sandpen_types::session::SessionId;
use sandpen_types::signal::Signal;

use super::args::NamesArg;
use super::{CliError, Global, print};

/// Send a signal to sandboxes
///
/// KILL ends the microVM at once; any other signal goes to the command inside. With --job or --session any signal goes to the
/// process group of that one alone.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or number of the signal
    #[arg(short, long, default_value = "KILL")]
    signal: Signal,
    /// A job of the sandbox: `sandpen jobs` lists them
    #[arg(long, value_name = "JOB")]
    job: Option<SessionId>,
    /// A session of the sandbox: `sandpen sessions` lists them
    #[arg(long, value_name = "SESSION", conflicts_with = "job")]
    session: Option<SessionId>,
    #[command(flatten)]
    names: NamesArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let keys = args.names.keys()?;
    let signal = args.signal.number();
    if let Some(id) = args.job.or(args.session) {
        let [key] = &keys[..] else { return Err(CliError::SessionOfSeveral(id)) };
        let client = global.connect().await?;
        match args.job {
            Some(_) => client.signal_job(key, id, signal).await?,
            None => client.signal_session(key, id, signal).await?,
        }
        return Ok(0);
    }
    let client = global.connect().await?;
    let kills = keys.iter().map(|key| client.kill(key, signal));
    print::each(&keys, futures::future::join_all(kills).await, global.debug)
}
