//! `sandpen metrics`.

use super::{CliError, Global, print};

/// Show counters and gauges
///
/// Restarts, refusals, retries, faults of the host and how many sandboxes there are, in Prometheus' text
/// format. Counters begin at zero with each daemon.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen metrics | grep refused      what was refused, by reason
  sandpen metrics --json | jq .       one object for each number")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let metrics = global.connect().await?.metrics().await?;
    if args.json { print::json(&metrics) } else { print::bytes(sandpen::api::prometheus(&metrics).as_bytes()) }
}
