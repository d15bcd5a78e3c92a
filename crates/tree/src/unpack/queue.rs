//! What is ready and has not got its name yet.
//!
//! ```text
//!   written, by another name ──▶ queued ──▶ on the disk: all that is queued ──▶ renamed, in their order
//!                                   │
//!                                   └ given up ──▶ removed
//! ```
//!
//! A name leads to a whole file at any moment, also after the power is gone, or the machine whose disk it is: hence the wait
//! for the disk. One wait for many files, since each takes long. Where nothing is waited for, nothing stays queued. Each file
//! is closed before it has its name, and not only dropped: file systems behind a network say then that they had no room.

use std::collections::HashSet;
use std::fs::File;
use std::io;

use nix::unistd::close;
use rustix::fs::syncfs;

use super::made::Identity;
use crate::entry::Meta;

/// Most that is queued: things, bytes of their names and attributes, and bytes of files.
const COUNT_MAX: usize = 4096;
const TEXT_MAX: usize = 4 << 20;
const BYTES_MAX: u64 = 64 << 20;
/// So many files are waited for one by one, and where a few are waited for, these are few.
const FEW: usize = 4;

/// What is done once all before it is on the disk.
#[derive(Debug)]
pub(super) enum Step {
    /// Gives what lies beside it its name.
    Rename { path: Vec<u8>, temporary: Vec<u8> },
    /// One more name of a file.
    Link { target: Vec<u8>, identity: Identity, path: Vec<u8> },
    /// A directory has all that it shall have.
    Directory { path: Vec<u8>, meta: Meta },
}

impl Step {
    fn text(&self) -> usize {
        match self {
            Self::Rename { path, temporary } => path.len() + temporary.len(),
            Self::Link { target, path, .. } => target.len() + path.len(),
            Self::Directory { path, meta } => {
                path.len() + meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
            }
        }
    }
}

/// How long is waited for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until all is there: where the machine may go at any moment.
    ForAll,
    /// In copies of a few names: where the kernel that has the rest outlives this program.
    ForFew,
}

pub(super) struct Queue {
    wait: Wait,
    steps: Vec<Step>,
    /// The paths of what is no directory among them.
    paths: HashSet<Vec<u8>>,
    text: usize,
    bytes: u64,
    /// The first files that are queued.
    files: Vec<File>,
    /// Whether there were more.
    has_more: bool,
    /// How many names there were that are no directories', up to one more than few.
    names: usize,
}

impl Queue {
    pub(super) fn new(wait: Wait) -> Self {
        Self {
            wait,
            steps: Vec::new(),
            paths: HashSet::new(),
            text: 0,
            bytes: 0,
            files: Vec::new(),
            has_more: false,
            names: 0,
        }
    }

    pub(super) fn push(&mut self, step: Step) {
        self.text += step.text();
        if let Step::Rename { path, .. } | Step::Link { path, .. } = &step {
            self.paths.insert(path.clone());
            self.names = (self.names + 1).min(FEW + 1);
        }
        self.steps.push(step);
    }

    /// A file whose step is to be queued, unless it turns out not to be whole.
    pub(super) fn file(&mut self, file: File, bytes: u64) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.files.len() < FEW && self.waits() {
            self.files.push(file);
            return Ok(());
        }
        self.has_more = true;
        Ok(close(file)?)
    }

    /// Whether the disk is waited for.
    fn waits(&self) -> bool {
        self.wait == Wait::ForAll || self.names <= FEW
    }

    /// Whether something that is no directory is going to be at a path.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        self.paths.contains(path)
    }

    pub(super) fn is_full(&self) -> bool {
        let is_due = !self.waits() && !self.paths.is_empty();
        is_due || self.steps.len() >= COUNT_MAX || self.text >= TEXT_MAX || self.bytes >= BYTES_MAX
    }

    /// What is to be done, now that all is on the disk.
    pub(super) fn take(&mut self) -> io::Result<Vec<Step>> {
        match self.files.first() {
            // The first one has been open since before any of this was written, and is told of all that failed.
            Some(first) if self.has_more && self.waits() => syncfs(first)?,
            Some(_) if self.waits() => self.files.iter().try_for_each(File::sync_all)?,
            _ => {}
        }
        self.files.drain(..).try_for_each(close)?;
        (self.text, self.bytes, self.has_more) = (0, 0, false);
        self.paths.clear();
        Ok(std::mem::take(&mut self.steps))
    }

    /// All that was not done.
    pub(super) fn give_up(&mut self) -> Vec<Step> {
        self.files.clear();
        std::mem::take(&mut self.steps)
    }
}
