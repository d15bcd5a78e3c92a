//! How much of a cache stays: what was used last.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

/// The most that is kept of one kind of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Entries.
    pub entries: usize,
    /// Bytes on the disk, where holes of files count nothing.
    pub bytes: u64,
}

impl Budget {
    /// So many entries, whatever their size.
    pub const fn of_entries(entries: usize) -> Self {
        Self { entries, bytes: u64::MAX }
    }
}

/// Notes that an entry was used now. Without that note it only goes sooner, so what the system says is of no interest.
pub fn mark_used(path: &Path) {
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Removes the entries of a directory that were not used for longest and are beyond the budget; the one that was used
/// last stays in any case. `is_entry` tells by their names which files count. Whoever has one open keeps its content.
/// Blocking.
pub fn keep_newest(directory: &Path, is_entry: impl Fn(&str) -> bool, budget: Budget) {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let entries = files.filter(|file| file.file_name().to_str().is_some_and(&is_entry));
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let meta = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((meta.modified().ok()?, entry.path(), meta.blocks().saturating_mul(512)))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    let mut bytes = 0_u64;
    let kept = found.iter().enumerate().take_while(|(before, (_, _, size))| {
        bytes = bytes.saturating_add(*size);
        *before == 0 || (*before < budget.entries && bytes <= budget.bytes)
    });
    let kept = kept.count();
    for (_, path, _) in found.into_iter().skip(kept) {
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(%error, ?path, "an old entry of a cache stays");
        }
    }
}
