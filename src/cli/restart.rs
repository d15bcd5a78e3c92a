//! `sandpen restart`.

use super::args::{NamesArg, StopArgs};
use super::{CliError, Global, print};

/// Stop sandboxes and start them again, as they were
///
/// As `sandpen stop` and `sandpen start` do. Ended ones are started, and so is one that waits for its restart.
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
    let restarts = keys.iter().map(|key| client.restart(key, args.how.grace(), args.how.signal));
    print::each_started(&keys, futures::future::join_all(restarts).await, global.debug)
}
