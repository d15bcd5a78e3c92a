//! `sandpen reconcile`.

use super::{CliError, Global, print};

/// Find and remove what belongs to no sandbox
///
/// Processes of ours without a sandbox, sandboxes without their process, left over runtime
/// directories, mounts, disks and cgroups. The daemon does it by itself when it starts; it is safe at any
/// time. The exit code is 1 when something could not be removed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let reply = global.connect().await?.reconcile().await?;
    if args.json {
        print::json(&reply)?
    } else {
        print::reconciled(&reply)?
    };
    let complete = reply.leftovers.iter().all(|leftover| leftover.error.is_none());
    Ok(if complete { 0 } else { super::FAILED })
}
