//! What is in a directory, told without its contents: one walk, whose memory grows with the depth of the tree
//! alone.
//!
//! ```text
//!   entry     = hash(name, what changes with the file, and of a directory: its own)
//!   directory = hash(how many entries, their sum)          so their order does not matter
//! ```

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx};
pub(super) use sandpen_images::walk::DEPTH_MAX;
use sha2::{Digest as _, Sha256};

use super::RootDiskError;
use crate::real_directory::{self, is_link};
use crate::shares::ShareError;
use crate::work::Stop;

/// Goes into the fingerprint: raise it when the layout of the disk changes, or what is hashed here.
const LAYOUT: &[u8] = b"sandpen root disk 3";
const BLOCK: u64 = 4096;

/// What is in a directory.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    pub(super) fingerprint: String,
    blocks: u64,
}

/// A directory that is being walked.
struct Level {
    entries: Dir,
    /// Its part of the path.
    name: PathBuf,
    hash: Sha256,
    count: u64,
    sum: Sum,
}

impl Level {
    fn new(directory: OwnedFd, name: PathBuf, hash: Sha256) -> io::Result<Self> {
        Ok(Self { entries: Dir::new(directory)?, name, hash, count: 0, sum: Sum::default() })
    }

    fn add(&mut self, entry: Sha256) {
        self.count += 1;
        self.sum.add(&entry.finalize().into());
    }

    /// The directory's hash.
    fn end(self) -> Sha256 {
        self.hash.chain_update(self.count.to_le_bytes()).chain_update(self.sum.bytes())
    }
}

impl Survey {
    /// Looks at everything below `directory`, on the same file system or not. Links are not followed.
    pub(super) fn of(directory: &Path, stop: &Stop) -> Result<Self, RootDiskError> {
        let unreadable = |source: io::Error| RootDiskError::Read { path: directory.to_owned(), source };
        let opened = real_directory::open(directory, OFlags::RDONLY).map_err(|error| match is_link(&error) {
            true => RootDiskError::Directory(ShareError::Link(directory.to_owned())),
            false => unreadable(error),
        })?;
        let meta = statx(&opened, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        let meta = meta.map_err(|errno| unreadable(errno.into()))?;
        let mut survey = Self { fingerprint: String::new(), blocks: 1 };
        let mut hash = Sha256::new_with_prefix(LAYOUT);
        add(&mut hash, directory.as_os_str().as_bytes(), &meta);
        let root = Level::new(opened, directory.to_owned(), hash);
        let mut levels = vec![root.map_err(unreadable)?];
        loop {
            match survey.next(&mut levels, stop)? {
                Some(below) if levels.len() < DEPTH_MAX => levels.push(below),
                Some(_) => return Err(RootDiskError::TooDeep(path_of(&levels))),
                // The last level is at its end.
                None => {
                    let ended = levels.pop().map(Level::end);
                    match (ended, levels.last_mut()) {
                        (Some(ended), Some(above)) => above.add(ended),
                        (Some(ended), None) => {
                            survey.fingerprint = sandpen_cache::hex(&ended.finalize()[..16]);
                            return Ok(survey);
                        }
                        (None, _) => return Ok(survey),
                    }
                }
            }
        }
    }

    /// Goes on in the last level up to the next directory in it; `None` at its end.
    fn next(&mut self, levels: &mut [Level], stop: &Stop) -> Result<Option<Level>, RootDiskError> {
        loop {
            let read = |levels: &[Level], source| RootDiskError::Read { path: path_of(levels), source };
            stop.check().map_err(|error| read(levels, error))?;
            let Some(entry) = levels.last_mut().and_then(|level| level.entries.read()) else { return Ok(None) };
            let entry = entry.map_err(|errno| read(levels, errno.into()))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            match self.enter(levels, name) {
                Ok(None) => {}
                Ok(directory) => return Ok(directory),
                Err(source) => return Err(RootDiskError::Read { path: path_of(levels).join(name), source }),
            }
        }
    }

    /// Takes an entry of the last level in; a directory is only opened.
    fn enter(&mut self, levels: &mut [Level], name: &OsStr) -> io::Result<Option<Level>> {
        let Some(level) = levels.last_mut() else { return Ok(None) };
        let parent = level.entries.fd()?;
        let meta = statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
        let mut hash = Sha256::new();
        add(&mut hash, name.as_bytes(), &meta);
        // Also a block for what is said of it.
        self.blocks = self.blocks.saturating_add(meta.stx_size.div_ceil(BLOCK) + 1);
        if FileType::from_raw_mode(meta.stx_mode.into()) == FileType::Directory {
            return Level::new(open_below(parent, name)?, name.into(), hash).map(Some);
        }
        level.add(hash);
        Ok(None)
    }

    /// What its files may take of a disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.blocks.saturating_mul(BLOCK)
    }
}

fn path_of(levels: &[Level]) -> PathBuf {
    levels.iter().map(|level| &level.name).collect()
}

fn open_below(parent: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

/// All that changes when a file does. (The time of the last status change cannot be set by a user.)
fn add(hash: &mut Sha256, name: &[u8], meta: &Statx) {
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name);
    for number in [meta.stx_ino, meta.stx_size] {
        hash.update(number.to_le_bytes());
    }
    let devices = [meta.stx_dev_major, meta.stx_dev_minor, meta.stx_rdev_major, meta.stx_rdev_minor];
    for number in devices.into_iter().chain([meta.stx_uid, meta.stx_gid, meta.stx_nlink, meta.stx_mode.into()]) {
        hash.update(number.to_le_bytes());
    }
    for time in [meta.stx_mtime, meta.stx_ctime] {
        hash.update(time.tv_sec.to_le_bytes());
        hash.update(time.tv_nsec.to_le_bytes());
    }
}

/// A sum of hashes, modulo 2^256: the same in any order, and nobody can choose what makes up for a change, since
/// every hash has a time in it that the kernel alone sets.
#[derive(Debug, Default)]
struct Sum([u64; 4]);

impl Sum {
    fn add(&mut self, hash: &[u8; 32]) {
        let (words, _) = hash.as_chunks::<8>();
        let mut carry = false;
        for (sum, word) in self.0.iter_mut().zip(words) {
            (*sum, carry) = sum.carrying_add(u64::from_le_bytes(*word), carry);
        }
    }

    fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *to = word.to_le_bytes();
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_the_same_in_any_order_and_carries() {
        let sum = |hashes: &[[u8; 32]]| {
            let mut sum = Sum::default();
            for hash in hashes {
                sum.add(hash);
            }
            sum.bytes()
        };
        let (mut one, mut two) = ([0; 32], [0; 32]);
        one[0] = 1;
        two[31] = 7;
        assert_eq!(sum(&[one, two, [0xff; 32]]), sum(&[[0xff; 32], two, one]));
        assert_eq!(sum(&[[0xff; 32], one]), [0; 32]);
        let mut carried = [0; 32];
        carried[8] = 1;
        assert_eq!(sum(&[[[0xff; 8].as_slice(), &[0; 24]].concat().try_into().unwrap(), one]), carried);
    }
}
