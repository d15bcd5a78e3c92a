//! `sandpen kill`.

use sandpen_types::signal::Signal;

use super::args::NamesArg;
use super::{CliError, Global, print};

/// Send a signal to sandboxes
///
/// KILL ends the microVM at once; any other signal goes to the command inside.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or number of the signal
    #[arg(short, long, default_value = "KILL")]
    signal: Signal,
    #[command(flatten)]
    names: NamesArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let keys = args.names.keys()?;
    let client = global.connect().await?;
    let kills = keys.iter().map(|key| client.kill(key, args.signal.number()));
    print::each(&keys, futures::future::join_all(kills).await, global.debug)
}
