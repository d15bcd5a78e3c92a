//! What is ready and has not got its name yet.
//!
//! ```text
//!   written, by another name ──▶ queued ──▶ on the disk: all that is queued ──▶ renamed, in their order
//!                                   │
//!                                   └ given up ──▶ removed
//! ```
//!
//! A name leads to a whole file at any moment, also after the power is gone, or the machine whose disk it is: hence the wait
//! for the disk. One wait for many files, since each takes long.

use std::collections::HashSet;
use std::fs::File;
use std::io;

use rustix::fs::syncfs;

use super::made::Identity;
use crate::entry::Meta;

/// Most that is queued: things, bytes of their names and attributes, and bytes of files.
const COUNT_MAX: usize = 4096;
const TEXT_MAX: usize = 4 << 20;
const BYTES_MAX: u64 = 256 << 20;
/// So many files are waited for one by one.
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
    /// For a few files: where the kernel that has the rest outlives this program.
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
    /// By which all of their file system are waited for.
    last: Option<File>,
}

impl Queue {
    pub(super) fn new(wait: Wait) -> Self {
        Self { wait, steps: Vec::new(), paths: HashSet::new(), text: 0, bytes: 0, files: Vec::new(), last: None }
    }

    pub(super) fn push(&mut self, step: Step) {
        self.text += step.text();
        if let Step::Rename { path, .. } | Step::Link { path, .. } = &step {
            self.paths.insert(path.clone());
        }
        self.steps.push(step);
    }

    /// A file whose step was queued.
    pub(super) fn file(&mut self, file: File, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.files.len() < FEW {
            self.files.push(file);
        } else {
            self.last = Some(file);
        }
    }

    /// Whether something that is no directory is going to be at a path.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        self.paths.contains(path)
    }

    pub(super) fn is_full(&self) -> bool {
        self.steps.len() >= COUNT_MAX || self.text >= TEXT_MAX || self.bytes >= BYTES_MAX
    }

    /// What is to be done, now that all is on the disk.
    pub(super) fn take(&mut self) -> io::Result<Vec<Step>> {
        match (&self.last, self.wait) {
            (None, _) => self.files.iter().try_for_each(File::sync_all)?,
            (Some(last), Wait::ForAll) => syncfs(last)?,
            (Some(_), Wait::ForFew) => {}
        }
        (self.text, self.bytes) = (0, 0);
        self.paths.clear();
        self.files.clear();
        self.last = None;
        Ok(std::mem::take(&mut self.steps))
    }

    /// All that was not done.
    pub(super) fn give_up(&mut self) -> Vec<Step> {
        self.files.clear();
        self.last = None;
        std::mem::take(&mut self.steps)
    }
}
