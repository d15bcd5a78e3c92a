//! A whole cache: one budget of bytes for all entries in it, and what a budget never takes.
//!
//! ```text
//!   DIRECTORY/ENTRY
//!   DIRECTORY/KIND/ENTRY              entries of a kind, beside each other
//!   DIRECTORY/uses/GROUP/USER         which entries somebody uses, one a line; they stay while this file is there
//! ```

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, DirEntry, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::allocated_by;
use crate::draft;

/// Where the lists of users are.
const USES: &str = "uses";

/// Held while it is decided what goes, and while somebody says what he uses: whoever looks for an entry after he has
/// said so finds that it stays, or that it is gone.
static DECIDING: Mutex<()> = Mutex::new(());

/// A cache directory with its budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    directory: PathBuf,
    bytes: u64,
}

impl Cache {
    /// The cache in `directory`, of at most so many bytes on the disk (where holes of files count nothing).
    pub fn new(directory: PathBuf, bytes: u64) -> Self {
        Self { directory, bytes }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Removes what nobody uses and was not used for longest, until the rest is within the budget. What somebody uses
    /// stays, and counts; so does the entry that was used last. Whoever has one open keeps its content. Blocking.
    pub fn keep_within_budget(&self) {
        let _deciding = DECIDING.lock().unwrap_or_else(PoisonError::into_inner);
        let used = self.used();
        let mut found = self.entries();
        found.sort_by(|a, b| b.cmp(a));
        let is_used = |entry: &Entry| entry.path.strip_prefix(&self.directory).is_ok_and(|name| used.contains(name));
        let mut bytes: u64 = found.iter().filter(|entry| is_used(entry)).map(|entry| entry.bytes).sum();
        let mut is_over = false;
        for (before, entry) in found.iter().enumerate().filter(|(_, entry)| !is_used(entry)) {
            bytes = bytes.saturating_add(entry.bytes);
            is_over |= bytes > self.bytes;
            if is_over
                && before > 0
                && let Err(error) = fs::remove_file(&entry.path)
            {
                tracing::debug!(%error, path = ?entry.path, "an old entry of a cache stays");
            }
        }
    }

    /// What is in it, files in the making too, sorted by their paths. Blocking.
    pub fn kept(&self) -> Vec<Kept> {
        let used = self.used();
        let entries = self.entries().into_iter().map(|Entry { path, bytes, .. }| {
            let is_used = path.strip_prefix(&self.directory).is_ok_and(|name| used.contains(name));
            Kept { path, bytes, is_used, is_draft: false }
        });
        let drafts = self.drafts().into_iter().filter_map(|path| {
            let bytes = allocated_by(&fs::symlink_metadata(&path).ok()?);
            Some(Kept { bytes, is_used: draft::is_held(&path), is_draft: true, path })
        });
        let mut kept: Vec<_> = entries.chain(drafts).collect();
        kept.sort_by(|a, b| a.path.cmp(&b.path));
        kept
    }

    /// Removes all that nobody uses and `keep` does not want, and drafts that nobody holds; says which. Whoever says at the
    /// same moment that he uses an entry finds that it stays, or that it is gone. Blocking.
    pub fn remove_unused(&self, keep: impl Fn(&Path) -> bool) -> Vec<Removed> {
        let _deciding = DECIDING.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = self.kept().into_iter().filter(|kept| !kept.is_used && (kept.is_draft || !keep(&kept.path)));
        let removed = unused.filter_map(|kept| {
            let removed = if kept.is_draft { draft::remove_abandoned(&kept.path) } else { fs::remove_file(&kept.path) };
            match removed {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock) => None,
                removed => Some(Removed { kept, error: removed.err() }),
            }
        });
        removed.collect()
    }

    /// Removes files that nobody makes any more, their makers died; says which. Blocking.
    pub fn sweep(&self) -> Vec<PathBuf> {
        self.directories().iter().flat_map(|directory| draft::sweep(directory)).collect()
    }

    /// Files in the making, by their paths. Blocking.
    pub fn drafts(&self) -> Vec<PathBuf> {
        self.directories().iter().flat_map(|directory| draft::drafts(directory)).collect()
    }

    /// It, and the directories of its kinds.
    fn directories(&self) -> Vec<PathBuf> {
        let of_kinds = entries_of(&self.directory).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let of_kinds = of_kinds.filter(|entry| entry.file_name() != USES).map(|entry| entry.path());
        std::iter::once(self.directory.clone()).chain(of_kinds).collect()
    }

    fn entries(&self) -> Vec<Entry> {
        let files = self.directories().into_iter().flat_map(|directory| entries_of(&directory).collect::<Vec<_>>());
        let whole = files.filter(|file| !is_hidden(&file.file_name()));
        whole.filter_map(|file| Entry::of(&file)).collect()
    }

    /// What somebody uses, by their paths in it.
    fn used(&self) -> HashSet<PathBuf> {
        let groups = entries_of(&self.directory.join(USES)).map(|group| group.path());
        let users = groups.flat_map(|group| entries_of(&group).collect::<Vec<_>>());
        let lists = users.filter_map(|user| fs::read_to_string(user.path()).ok());
        lists.flat_map(|list| list.lines().map(PathBuf::from).collect::<Vec<_>>()).collect()
    }
}

/// A file of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it is.
    pub path: PathBuf,
    /// What it takes of the disk, in bytes: holes count nothing.
    pub bytes: u64,
    /// Whether somebody uses it; of a draft, whether somebody writes to it.
    pub is_used: bool,
    /// Whether it is still being made, or was when its maker died.
    pub is_draft: bool,
}

/// A file that nobody used; it is gone unless `error` says why not.
#[derive(Debug)]
pub struct Removed {
    /// Which one.
    pub kept: Kept,
    /// Why it is still there.
    pub error: Option<io::Error>,
}

/// An entry, in the order of its use.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    used: SystemTime,
    path: PathBuf,
    bytes: u64,
}

impl Entry {
    fn of(file: &DirEntry) -> Option<Self> {
        let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
        Some(Self { used: meta.modified().ok()?, path: file.path(), bytes: allocated_by(&meta) })
    }
}

fn entries_of(directory: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten()
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().first() == Some(&b'.')
}

/// Notes that an entry was used now. Without that note it only goes sooner, so what the system says is of no interest.
pub fn mark_used(path: &Path) {
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Somebody who uses entries of a cache, from one moment on until his list is removed: also when this process has died
/// meanwhile.
#[derive(Debug)]
pub struct CacheUser {
    cache: Cache,
    /// Where it is written what he uses; `None` for somebody whom nobody remembers.
    list: Option<PathBuf>,
    used: Mutex<Vec<PathBuf>>,
}

impl CacheUser {
    /// Somebody who uses nothing yet. His list begins anew with the first entry.
    pub fn new(cache: Cache, list: PathBuf) -> Self {
        Self { cache, list: Some(list), used: Mutex::default() }
    }

    /// Somebody whose use keeps nothing from going.
    pub fn passing(cache: Cache) -> Self {
        Self { cache, list: None, used: Mutex::default() }
    }

    /// What he uses is an entry of.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Says that he uses the entry with this path, or will when it is made. To be called before it is looked whether
    /// it is there. Blocking, for microseconds.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn uses(&self, entry: &Path) -> io::Result<()> {
        let (Some(list), Ok(name)) = (&self.list, entry.strip_prefix(&self.cache.directory)) else { return Ok(()) };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.iter().any(|other| other == name) {
            return Ok(());
        }
        let lines: String =
            used.iter().map(PathBuf::as_path).chain([name]).map(|name| format!("{}\n", name.display())).collect();
        let directory = list.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let _deciding = DECIDING.lock().unwrap_or_else(PoisonError::into_inner);
        crate::make_directory(directory)?;
        // Nobody depends on it after a power failure: what it names can be made again.
        let whole = directory.join(".new");
        fs::write(&whole, lines)?;
        fs::rename(whole, list)?;
        used.push(name.to_owned());
        Ok(())
    }
}
