//! `sandpen start`.

use super::args::NamesArg;
use super::{CliError, Global, print};

/// Start ended sandboxes again, as they were
///
/// With the same command, options, environment and disk, in the background; what they write follows in their logs. One with
/// a terminal or a standard input is used by `sandpen attach`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    names: NamesArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let keys = args.names.keys()?;
    let client = global.connect().await?;
    let starts = keys.iter().map(|key| client.start_again(key));
    print::each_started(&keys, futures::future::join_all(starts).await, global.debug)
}
