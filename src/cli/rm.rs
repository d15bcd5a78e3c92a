//! `sandpen rm`.

use super::args::NamesArg;
use super::{CliError, Global, print};

/// Remove ended sandboxes with their logs
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kill those that still run first
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    names: NamesArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let keys = args.names.keys()?;
    let client = global.connect().await?;
    let removals = keys.iter().map(|key| client.remove(key, args.force));
    print::each(&keys, futures::future::join_all(removals).await, global.debug)
}
