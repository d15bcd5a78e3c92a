//! `sandpen stop`.

use super::args::{NamesArg, StopArgs};
use super::{CliError, Global, print};

/// Stop sandboxes gracefully
///
/// The command gets a signal, SIGTERM by default; when it has not ended after the grace, the microVM is ended.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    how: StopArgs,
    #[command(flatten)]
    names: NamesArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let keys = args.names.keys()?;
    let client = global.connect().await?;
    let stops = keys.iter().map(|key| client.stop_with(key, args.how.grace(), args.how.signal));
    print::each(&keys, futures::future::join_all(stops).await, global.debug)
}
