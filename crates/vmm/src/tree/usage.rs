//! What a tree takes of the disk.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;

use super::{DIRECTORY, is_entry, open_below, split};

/// So many directories below each other are looked into, each of which is open meanwhile. What lies deeper is not counted:
/// it is somebody who nests for the sake of it.
pub const DEPTH_MAX: usize = 64;

/// Bytes of a block in `st_blocks` (stat(2)).
const STAT_BLOCK: u64 = 512;

/// One walk at a time: together they would have as many directories open as there are walks.
static WALK: Mutex<()> = Mutex::new(());

/// What a file, or all below a directory down to [`DEPTH_MAX`], takes of the disk, in bytes: holes count nothing, what is
/// mounted there neither. What is gone or cannot be read counts as nothing.
pub fn allocated(path: &Path) -> u64 {
    let _one = WALK.lock().unwrap_or_else(PoisonError::into_inner);
    walk(path).unwrap_or(0)
}

fn walk(path: &Path) -> io::Result<u64> {
    let (parent, name) = split(path)?;
    let meta = statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut bytes = blocks(&meta);
    if !is_directory(&meta) {
        return Ok(bytes);
    }
    let device = meta.st_dev;
    let mut open = vec![open_below(parent.as_fd(), &name, DIRECTORY).and_then(Dir::new)?];
    while let Some(directory) = open.last_mut() {
        let Some(Ok(entry)) = directory.read() else {
            open.pop();
            continue;
        };
        if !is_entry(entry.file_name()) {
            continue;
        }
        let directory = directory.fd()?;
        let Ok(meta) = statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if meta.st_dev != device {
            continue;
        }
        if is_directory(&meta) {
            match open_below(directory, entry.file_name(), DIRECTORY).and_then(Dir::new) {
                Ok(below) if open.len() < DEPTH_MAX => open.push(below),
                // What is mounted there is not ours.
                Err(Errno::XDEV) => continue,
                // One that is not looked into takes room itself.
                _ => {}
            }
        }
        bytes = bytes.saturating_add(blocks(&meta));
    }
    Ok(bytes)
}

fn is_directory(meta: &Stat) -> bool {
    FileType::from_raw_mode(meta.st_mode) == FileType::Directory
}

fn blocks(meta: &Stat) -> u64 {
    u64::try_from(meta.st_blocks).unwrap_or(0).saturating_mul(STAT_BLOCK)
}
