//! `sandpen prune`.

use std::collections::BTreeSet;

use sandpen::api::PruneRequest;

use super::ask::{Asking, is_yes};
use super::{CliError, Global, print};

/// Remove what nothing uses
///
/// Of the cache what no sandbox uses: templates, images of roots, copies of kernels that no sandbox was started with, files
/// that were never finished. Of the installed kernels those that are not current and that no sandbox has. Of the images
/// those without a name that no sandbox has, live or ended (a digest alone was pulled, or another image has the name now), and
/// layers that no image has: they would have to be pulled or loaded again. With --sandboxes also the ended sandboxes, with their
/// logs and disks. Never anything of a live sandbox, and never disks and volumes with a name: see `sandpen disk rm` and `sandpen
/// volume prune`. What is removed of the cache is made again when it is needed.
///
/// On a terminal it asks first; elsewhere it needs -f. The exit code is 1 when something could not be removed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen prune --dry-run             what would be removed
  sandpen prune -f                    remove it without asking
  sandpen prune --sandboxes           ended sandboxes as well")]
pub struct Args {
    /// Ended sandboxes too, with their logs and disks
    #[arg(short = 'a', long)]
    sandboxes: bool,
    #[command(flatten)]
    asking: Asking,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let must_ask = args.asking.must_ask()?;
    let mut request = PruneRequest { sandboxes: args.sandboxes, dry_run: args.asking.dry_run, only: None };
    let client = global.connect().await?;
    if must_ask {
        let planned = client.prune(PruneRequest { dry_run: true, ..request.clone() }).await?;
        if planned.removed.is_empty() {
            return print::pruned(&planned, true);
        }
        print::planned(&planned);
        if !is_yes("Remove all of this?") {
            return Ok(print::note("nothing was removed"));
        }
        // One that has ended since was not shown.
        let shown: BTreeSet<String> = planned.removed.into_iter().filter_map(|entry| entry.sandbox).collect();
        request.only = args.sandboxes.then(|| shown.into_iter().collect());
    }
    let reply = client.prune(request).await?;
    if args.json { print::json(&reply) } else { print::pruned(&reply, args.asking.dry_run) }?;
    let is_complete = reply.removed.iter().all(|entry| entry.error.is_none());
    Ok(if is_complete { 0 } else { super::FAILED })
}
