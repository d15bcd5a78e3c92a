//! What can be asked for by a path.

use super::{FilesClient, FilesError, OpenDirectory, OpenFile};
use crate::answer::{Answer, Entry, FileKind, Space, Stat};
use crate::error::{FileError, FileErrorKind};
use crate::path::checked;
use crate::request::{Change, OpenFlags, Request};

/// Most entries of a directory that are kept at once.
pub const ENTRIES_MAX: usize = 1_000_000;
/// Most bytes of their names, and of what symbolic links lead to.
pub const NAMES_MAX: usize = 256 << 20;

pub(super) const UNSUITABLE: FilesError = FilesError::Nonsense("an answer that does not suit its question");

/// What is done needs no words.
pub(super) fn done(answer: &Answer) -> Result<(), FilesError> {
    if *answer == Answer::Done { Ok(()) } else { Err(UNSUITABLE) }
}

pub(super) fn stat(answer: &Answer) -> Result<Stat, FilesError> {
    match answer {
        Answer::Stat(stat) => checked_stat(*stat),
        _ => Err(UNSUITABLE),
    }
}

pub(super) fn checked_stat(stat: Stat) -> Result<Stat, FilesError> {
    let is_time = [stat.accessed, stat.modified, stat.changed].iter().all(|time| time.nanos < 1_000_000_000);
    if is_time && stat.mode <= 0o7777 { Ok(stat) } else { Err(FilesError::Nonsense("attributes that no file has")) }
}

fn path(answer: Answer) -> Result<Vec<u8>, FilesError> {
    match answer {
        Answer::Path(path) if path.len() <= crate::PATH_MAX && !path.contains(&0) => Ok(path),
        Answer::Path(_) => Err(FilesError::Nonsense("a path that no file has")),
        _ => Err(UNSUITABLE),
    }
}

fn owned(path: &[u8]) -> Result<Vec<u8>, FilesError> {
    Ok(checked(path)?.to_vec())
}

/// All paths are absolute. Each fails with what the guest says ([`FilesError::File`]), and with what is wrong with it.
#[expect(clippy::missing_errors_doc, reason = "said above")]
impl FilesClient {
    async fn opened(&self, request: Request) -> Result<u32, FilesError> {
        match self.call(request).await? {
            Answer::Opened { handle } => Ok(handle),
            _ => Err(UNSUITABLE),
        }
    }

    async fn done(&self, request: Request) -> Result<(), FilesError> {
        done(&self.call(request).await?)
    }

    /// Opens a file; `mode` is that of one that is made.
    pub async fn open(&self, path: &[u8], flags: OpenFlags, mode: u32) -> Result<OpenFile, FilesError> {
        let handle = self.opened(Request::Open { path: owned(path)?, flags, mode }).await?;
        Ok(OpenFile::new(self, handle))
    }

    /// Begins a file that takes the place of another one, or is new, with [`OpenFile::commit`]; dropped before that, nothing
    /// has changed. `mode` is in the place of the other one's, `new_mode` that of one that is new.
    pub async fn replace(&self, path: &[u8], mode: Option<u32>, new_mode: u32) -> Result<OpenFile, FilesError> {
        let handle = self.opened(Request::Replace { path: owned(path)?, mode, new_mode }).await?;
        Ok(OpenFile::new(self, handle))
    }

    /// Opens a directory.
    pub async fn open_directory(&self, path: &[u8]) -> Result<OpenDirectory, FilesError> {
        let handle = self.opened(Request::OpenDirectory { path: owned(path)? }).await?;
        Ok(OpenDirectory::new(self, handle))
    }

    /// All that is in a directory, in the order of names; at most [`ENTRIES_MAX`] and [`NAMES_MAX`].
    pub async fn list(&self, path: &[u8]) -> Result<Vec<Entry>, FilesError> {
        let directory = self.open_directory(path).await?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        loop {
            let page = directory.next_page().await?;
            if page.is_empty() {
                break;
            }
            let names = page.iter().map(|entry| entry.name.len() + entry.target.as_ref().map_or(0, Vec::len));
            bytes += names.sum::<usize>();
            entries.extend(page);
            if entries.len() > ENTRIES_MAX || bytes > NAMES_MAX {
                return Err(FilesError::TooMuch { path: path.to_vec() });
            }
        }
        directory.close().await?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// What a file is like; `follow`: a symbolic link stands for what it leads to.
    pub async fn stat(&self, path: &[u8], follow: bool) -> Result<Stat, FilesError> {
        stat(&self.call(Request::Stat { path: owned(path)?, follow }).await?)
    }

    /// Changes attributes.
    pub async fn change(&self, path: &[u8], follow: bool, change: Change) -> Result<(), FilesError> {
        self.done(Request::Change { path: owned(path)?, follow, change }).await
    }

    /// Makes a directory; with `parents` also those above it, and one that is there is good as well.
    pub async fn make_directory(&self, path: &[u8], mode: u32, parents: bool) -> Result<(), FilesError> {
        self.done(Request::MakeDirectory { path: owned(path)?, mode, parents }).await
    }

    /// Removes an empty directory.
    pub async fn remove_directory(&self, path: &[u8]) -> Result<(), FilesError> {
        self.done(Request::RemoveDirectory { path: owned(path)? }).await
    }

    /// Removes anything but a directory.
    pub async fn remove(&self, path: &[u8]) -> Result<(), FilesError> {
        self.done(Request::Remove { path: owned(path)? }).await
    }

    /// Removes anything, with all that is in it.
    pub async fn remove_tree(&self, path: &[u8]) -> Result<(), FilesError> {
        self.done(Request::RemoveTree { path: owned(path)? }).await
    }

    /// Renames within a file system; `replace`: what is there goes.
    pub async fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> Result<(), FilesError> {
        self.done(Request::Rename { from: owned(from)?, to: owned(to)?, replace }).await
    }

    /// Makes a symbolic link at `path`, which leads to `target`, whatever that is.
    pub async fn symlink(&self, target: &[u8], path: &[u8]) -> Result<(), FilesError> {
        if target.is_empty() || target.len() > crate::PATH_MAX || target.contains(&0) {
            return Err(FileError { kind: FileErrorKind::InvalidName, path: Vec::new() }.into());
        }
        self.done(Request::Symlink { target: target.to_vec(), path: owned(path)? }).await
    }

    /// Where a symbolic link leads.
    pub async fn read_link(&self, of: &[u8]) -> Result<Vec<u8>, FilesError> {
        path(self.call(Request::ReadLink { path: owned(of)? }).await?)
    }

    /// Gives a file one more name.
    pub async fn link(&self, from: &[u8], to: &[u8]) -> Result<(), FilesError> {
        self.done(Request::Link { from: owned(from)?, to: owned(to)? }).await
    }

    /// A path without symbolic links, `.` and `..`, of what is there.
    pub async fn real_path(&self, of: &[u8]) -> Result<Vec<u8>, FilesError> {
        let path = path(self.call(Request::RealPath { path: owned(of)? }).await?)?;
        if path.first() == Some(&b'/') { Ok(path) } else { Err(FilesError::Nonsense("a path that is not absolute")) }
    }

    /// What the file system of a path has.
    pub async fn space(&self, path: &[u8]) -> Result<Space, FilesError> {
        match self.call(Request::Space { path: owned(path)? }).await? {
            Answer::Space(space) => Ok(space),
            _ => Err(UNSUITABLE),
        }
    }

    /// Whether there is a directory, through symbolic links.
    pub async fn is_directory(&self, path: &[u8]) -> Result<bool, FilesError> {
        Ok(self.stat(path, true).await?.kind == FileKind::Directory)
    }
}
