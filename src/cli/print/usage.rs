//! What takes room on the disk, and what was removed of it.

use sandpen::api::{DiskUsage, PruneReply, PrunedEntry, UsageEntry};
use sandpen_types::disk_usage::Reclaim;
use sandpen_types::spec::VolumeName;
use sandpen_types::visible::visible;

use super::{CliError, aligned, amount, bytes, to_stderr};

/// Each kind, and the sums.
pub fn usage(usage: &DiskUsage) -> Result<u8, CliError> {
    let heading = ["KIND", "COUNT", "SIZE", "RECLAIMABLE", "WITH SANDBOXES"].map(str::to_owned);
    let row = |kind: &str, count: u64, sums: [u64; 3]| {
        let [size, reclaimable, with_sandboxes] = sums.map(amount);
        [visible(kind), count.to_string(), size, reclaimable, with_sandboxes]
    };
    let kinds = usage.kinds.iter();
    let rows = kinds
        .clone()
        .map(|of| row(&of.kind.replace('_', " "), of.count, [of.bytes, of.reclaimable_bytes, of.with_sandboxes_bytes]));
    let total = kinds.fold((0_u64, [0_u64; 3]), |(count, sums), of| {
        let [size, reclaimable, with_sandboxes] = sums;
        let sums = [
            size.saturating_add(of.bytes),
            reclaimable.saturating_add(of.reclaimable_bytes),
            with_sandboxes.saturating_add(of.with_sandboxes_bytes),
        ];
        (count.saturating_add(of.count), sums)
    });
    let rows = std::iter::once(heading).chain(rows).chain([row("total", total.0, total.1)]);
    bytes(aligned(rows).as_bytes())
}

/// Each thing.
pub fn usage_items(items: &[UsageEntry]) -> Result<u8, CliError> {
    let heading = ["KIND", "SIZE", "FREED BY", "WHAT"].map(str::to_owned);
    let rows = items.iter().map(|item| {
        let freed_by = match item.reclaim {
            Reclaim::Never => "-",
            Reclaim::Always => "prune",
            Reclaim::WithSandbox => "prune --sandboxes",
        };
        [visible(&item.kind.replace('_', " ")), amount(item.bytes), freed_by.to_owned(), visible(&item.what)]
    });
    bytes(aligned(std::iter::once(heading).chain(rows)).as_bytes())
}

/// What would be removed, on standard error.
pub fn planned(reply: &PruneReply) {
    to_stderr(&list(&reply.removed, "would be removed"));
    to_stderr(&format!("{} would be freed\n", amount(reply.freed_bytes)));
}

/// What was removed, or would be.
pub fn pruned(reply: &PruneReply, dry_run: bool) -> Result<u8, CliError> {
    let (done, freed) = if dry_run { ("would be removed", "would be freed") } else { ("removed", "freed") };
    let text = format!("{}{} {freed}\n", list(&reply.removed, done), amount(reply.freed_bytes));
    bytes(text.as_bytes())
}

/// The volumes that would be removed, on standard output.
pub fn planned_volumes(names: &[VolumeName]) -> Result<u8, CliError> {
    bytes(of_volumes(names).as_bytes())
}

/// The same on standard error, before a question.
pub fn asked_volumes(names: &[VolumeName]) {
    to_stderr(&of_volumes(names));
}

fn of_volumes(names: &[VolumeName]) -> String {
    names.iter().map(|name| format!("{name}: would be removed\n")).collect()
}

fn list(entries: &[PrunedEntry], done: &str) -> String {
    let rows = entries.iter().map(|entry| {
        let done =
            entry.error.as_deref().map_or_else(|| done.to_owned(), |error| format!("still there: {}", visible(error)));
        [visible(&entry.kind.replace('_', " ")), amount(entry.bytes), format!("{}: {done}", visible(&entry.what))]
    });
    aligned(rows)
}
