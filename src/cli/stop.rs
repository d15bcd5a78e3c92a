//! `sandpen stop`.

use std::time::Duration;

use super::args::NamesArg;
use super::{CliError, Global, print};

/// Stop sandboxes gracefully
///
/// The command gets SIGTERM; when it has not ended after the grace, the microVM is ended.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Grace in seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u32,
    #[command(flatten)]
    names: NamesArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let keys = args.names.keys()?;
    let client = global.connect().await?;
    let grace = Duration::from_secs(args.time.into());
    let stops = keys.iter().map(|key| client.stop(key, grace));
    print::each(&keys, futures::future::join_all(stops).await, global.debug)
}
