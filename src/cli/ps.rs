//! `sandpen ps`.

use super::{CliError, Global, print};

/// List sandboxes
///
/// The JSON of --json is an array of objects as `sandpen inspect` shows them, without the history.
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list")]
pub struct Args {
    /// Also those that have ended or never started
    #[arg(short, long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let sandboxes = global.connect().await?.list(args.all).await?;
    if args.json { print::json(&sandboxes) } else { print::table(&sandboxes) }
}
