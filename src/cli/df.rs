//! `sandpen df`.

use super::{CliError, Global, print};

/// Show what takes room on the disk
///
/// Of the state directory, of the images and of the installed kernels: how many of each kind, what they take, what of that `sandpen prune`
/// would free, and what it would free besides with --sandboxes. Holes of files count nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen df                          kind by kind
  sandpen df -v                       each thing
  sandpen df --json | jq .            for programs")]
pub struct Args {
    /// Each thing on a line of its own
    #[arg(short, long)]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let usage = global.connect().await?.disk_usage(args.verbose).await?;
    match args.json {
        true => print::json(&usage),
        false if args.verbose => print::usage_items(&usage.items),
        false => print::usage(&usage),
    }
}
