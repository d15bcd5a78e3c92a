//! `sandpen shutdown`.

use std::time::Duration;

use sandpen::client::{Client, ClientOptions};

use super::{CliError, Global, print};

/// End the daemon
///
/// Sandboxes run on, and the next daemon takes them over, unless --stop-sandboxes is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop all sandboxes first
    #[arg(long)]
    stop_sandboxes: bool,
    /// Grace in seconds for --stop-sandboxes
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10, requires = "stop_sandboxes")]
    time: u32,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    // It is not started only to be ended.
    let options = ClientOptions { daemon: None, ..global.client_options()? };
    let client = match Client::connect(&options).await {
        Err(error) if error.is_not_running() => return Ok(print::note("no daemon is running")),
        client => client?,
    };
    let grace = args.stop_sandboxes.then(|| Duration::from_secs(args.time.into()));
    client.shutdown(grace).await?;
    Ok(0)
}
