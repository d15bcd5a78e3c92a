//! What a client has open, by numbers.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::Fault;
use super::directory::Directory;
use super::replace::Replacement;
use crate::HANDLES_MAX;
use crate::error::{FileError, FileErrorKind};

/// All that is open. A number is used again only when all others were.
#[derive(Default)]
pub(super) struct Handles {
    open: BTreeMap<u32, Open>,
    next: u32,
}

impl Handles {
    pub(super) fn check_room(&self) -> Result<(), Fault> {
        if self.open.len() >= HANDLES_MAX { Err(Fault(FileErrorKind::TooManyOpen)) } else { Ok(()) }
    }

    pub(super) fn add(&mut self, open: Open) -> u32 {
        while self.open.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let handle = self.next;
        self.next = handle.wrapping_add(1);
        self.open.insert(handle, open);
        handle
    }

    pub(super) fn get(&mut self, handle: u32) -> Result<&mut Open, FileError> {
        self.open.get_mut(&handle).ok_or_else(not_open)
    }

    pub(super) fn remove(&mut self, handle: u32) -> Result<Open, FileError> {
        self.open.remove(&handle).ok_or_else(not_open)
    }
}

fn not_open() -> FileError {
    FileError { kind: FileErrorKind::NotOpen, path: Vec::new() }
}

/// Something that is open.
pub(super) struct Open {
    path: Vec<u8>,
    what: What,
}

enum What {
    File(OwnedFd),
    Directory(Directory),
    Replacement(Replacement),
}

impl Open {
    pub(super) fn file(file: OwnedFd, path: &[u8]) -> Self {
        Self { path: path.to_vec(), what: What::File(file) }
    }

    pub(super) fn directory(directory: Directory, path: &[u8]) -> Self {
        Self { path: path.to_vec(), what: What::Directory(directory) }
    }

    pub(super) fn replacement(begun: Replacement, path: &[u8]) -> Self {
        Self { path: path.to_vec(), what: What::Replacement(begun) }
    }

    /// As it was asked for.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match &self.what {
            What::File(file) => file.as_fd(),
            What::Directory(directory) => directory.as_fd(),
            What::Replacement(begun) => begun.as_fd(),
        }
    }

    pub(super) fn readable(&self) -> Result<BorrowedFd<'_>, Fault> {
        match &self.what {
            What::Directory(_) => Err(Fault(FileErrorKind::IsDirectory)),
            _ => Ok(self.fd()),
        }
    }

    pub(super) fn writable(&self) -> Result<BorrowedFd<'_>, Fault> {
        self.readable()
    }

    pub(super) fn listed(&mut self) -> Result<&mut Directory, Fault> {
        match &mut self.what {
            What::Directory(directory) => Ok(directory),
            _ => Err(Fault(FileErrorKind::NotDirectory)),
        }
    }

    /// Puts what was begun in its place; once.
    pub(super) fn commit(&mut self) -> Result<(), Fault> {
        match &mut self.what {
            What::Replacement(begun) => begun.commit(),
            _ => Err(Fault(FileErrorKind::NotOpen)),
        }
    }
}
