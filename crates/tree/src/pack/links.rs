//! Files with several names, of which one was packed: device and inode, and the first name.

use std::collections::HashMap;

use rustix::fs::Statx;

/// Most bytes of all that are kept.
const BYTES_MAX: usize = 16 << 20;
/// About what one takes besides its path.
const EACH: usize = 96;

/// The table. One goes when all names of it were found: a tree whose files have no names elsewhere keeps few.
#[derive(Debug, Default)]
pub(super) struct Links {
    known: HashMap<(u32, u32, u64), First>,
    bytes: usize,
}

#[derive(Debug)]
struct First {
    path: Vec<u8>,
    /// Names that were not found yet.
    left: u32,
}

fn key(looked: &Statx) -> (u32, u32, u64) {
    (looked.stx_dev_major, looked.stx_dev_minor, looked.stx_ino)
}

impl Links {
    /// The first name of a file.
    pub(super) fn find(&mut self, looked: &Statx) -> Option<Vec<u8>> {
        let first = self.known.get_mut(&key(looked))?;
        first.left = first.left.saturating_sub(1);
        if first.left > 0 {
            return Some(first.path.clone());
        }
        let first = self.known.remove(&key(looked))?;
        self.bytes -= EACH + first.path.len();
        Some(first.path)
    }

    /// Keeps a file's first name; false where there is no more room.
    pub(super) fn add(&mut self, looked: &Statx, path: &[u8]) -> bool {
        let bytes = EACH + path.len();
        if self.bytes + bytes > BYTES_MAX {
            return false;
        }
        self.bytes += bytes;
        self.known.insert(key(looked), First { path: path.to_owned(), left: looked.stx_nlink - 1 });
        true
    }
}
