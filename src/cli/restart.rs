//! `sandpen restart`.

use std::time::Duration;

use sandpen_types::signal::Signal;

use super::args::NamesArg;
use super::{CliError, Global, print};

/// Stop sandboxes and start them again, as they were
///
/// As `sandpen stop` and `sandpen start` do. Ended ones are started, and so is one that waits for its restart.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Grace in seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u32,
    /// Name or number of the signal that asks the command to end [default: that of `run --stop-signal`, else TERM]
    #[arg(short, long)]
    signal: Option<Signal>,
    #[command(flatten)]
    names: NamesArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let keys = args.names.keys()?;
    let client = global.connect().await?;
    let grace = Duration::from_secs(args.time.into());
    let restarts = keys.iter().map(|key| client.restart(key, grace, args.signal));
    print::each_started(&keys, futures::future::join_all(restarts).await, global.debug)
}
