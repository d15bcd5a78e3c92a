//! `sandpen sessions`.

use super::args::NameArg;
use super::{CliError, Global, print};

/// List the sessions of a running sandbox
///
/// Commands that `sandpen exec`, `sandpen shell` or a program began beside the sandbox's own, oldest first; those included
/// that have ended and whose end nobody has taken yet. `sandpen attach --session` has one in the foreground, and
/// `sandpen kill --session` ends one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen sessions web
  sandpen sessions --json web")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let sessions = global.connect().await?.sessions(&args.name.key()?).await?;
    if args.json { print::json(&sessions) } else { print::sessions(&sessions) }
}
