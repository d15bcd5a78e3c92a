//! `sandpen prune`.

use std::io::{self, IsTerminal as _, Write as _};

use sandpen::api::PruneRequest;

use super::{CliError, Global, print};

/// Remove what nothing uses
///
/// Of the cache what no sandbox uses: templates, images of roots, copies of kernels that no sandbox was started with, files
/// that were never finished. Of the installed kernels those that are not current and that no sandbox has. With --sandboxes
/// also the ended sandboxes, with their logs and disks. Never anything of a live sandbox, and never disks with a name: see
/// `sandpen disk rm`. What is removed of the cache is made again when it is needed.
///
/// On a terminal it asks first; elsewhere it needs -f. The exit code is 1 when something could not be removed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen prune --dry-run             what would be removed
  sandpen prune -f                    remove it without asking
  sandpen prune --sandboxes           ended sandboxes as well")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line are")]
pub struct Args {
    /// Ended sandboxes too, with their logs and disks
    #[arg(short = 'a', long)]
    sandboxes: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let request = PruneRequest { sandboxes: args.sandboxes, dry_run: args.dry_run };
    let must_ask = !args.force && !args.dry_run;
    if must_ask && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(CliError::NotAsked);
    }
    let client = global.connect().await?;
    if must_ask {
        let planned = client.prune(PruneRequest { dry_run: true, ..request }).await?;
        if planned.removed.is_empty() {
            return print::pruned(&planned, true);
        }
        print::planned(&planned);
        if !is_yes() {
            return Ok(print::note("nothing was removed"));
        }
    }
    let reply = client.prune(request).await?;
    if args.json { print::json(&reply) } else { print::pruned(&reply, args.dry_run) }?;
    let is_complete = reply.removed.iter().all(|entry| entry.error.is_none());
    Ok(if is_complete { 0 } else { super::FAILED })
}

/// Whether the user types a yes.
fn is_yes() -> bool {
    let mut answer = String::new();
    let mut stderr = io::stderr().lock();
    let asked = stderr.write_all(b"Remove all of this? [y/N] ").and_then(|()| stderr.flush());
    asked.and_then(|()| io::stdin().read_line(&mut answer)).is_ok()
        && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}
