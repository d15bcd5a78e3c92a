//! `sandpen jobs`.

use super::args::NameArg;
use super::{CliError, Global, print};

/// List the jobs of a sandbox
///
/// Commands that `sandpen exec -d` or a program began beside the sandbox's own, oldest first: those that run, and the newest 64
/// of those that have ended, also after the sandbox has. What each wrote, `sandpen logs --job` shows; `sandpen wait --job` waits
/// for its end, `sandpen kill --job` signals it, and `sandpen attach --job` has it in the foreground.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen jobs web
  sandpen jobs --json web")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let jobs = global.connect().await?.jobs(&args.name.key()?).await?;
    if args.json { print::json(&jobs) } else { print::jobs(&jobs) }
}
