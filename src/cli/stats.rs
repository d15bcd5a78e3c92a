//! `sandpen stats`.

use std::time::Duration;

use sandpen::client::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::args::ConfigArg;
use super::{CliError, Global, print};

/// From one sample to the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// Show what sandboxes take, as it changes
///
/// Of the host: processor time and memory of the VMM and the processes beside it, and what the sandbox's disk takes. Of the
/// guest, as it says itself: processor time, memory, the file system of its /, threads. What a guest does not say within a
/// second is "-". 100% is one processor. On a terminal the table is drawn anew each second; where that is narrow, the less
/// important columns are left out.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen stats                       all that run
  sandpen stats web db                these
  sandpen stats --no-stream           once: what was taken within a second
  sandpen stats --json | jq .         one JSON object per line, sandbox and second")]
pub struct Args {
    /// Those that have ended too
    #[arg(short, long)]
    all: bool,
    /// Look twice, a second apart, show it and end
    #[arg(long)]
    no_stream: bool,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
    /// Only these sandboxes: NAME or CONFIG/NAME
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let keys = args.names.iter().map(|name| args.config.key(name)).collect::<Result<Vec<_>, _>>()?;
    let options = global.client_options()?;
    // What went away in order is waited for, not started: whoever ended it meant it.
    let mut reader = Client::connect(&options).await?.stats_reader(&options, keys, args.all);
    let mut printer = print::StatsPrinter::new(args.json, !args.no_stream);
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut resized = signal(SignalKind::window_change()).map_err(CliError::Signals)?;
    let mut looks = 0_u32;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = resized.recv() => {
                printer.redraw()?;
                continue;
            }
        }
        let stats = reader.sample().await?;
        looks = looks.saturating_add(1);
        let is_wanted = printer.sample(stats)?;
        if !is_wanted || (args.no_stream && looks > 1) {
            return Ok(0);
        }
    }
}
