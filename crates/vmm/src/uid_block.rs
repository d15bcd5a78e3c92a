//! The host's uids of one state directory's sandboxes: one for each, where the host's root runs them.
//!
//! ```text
//!   /run/sandpen/uids/lock        locked while somebody chooses
//!   /run/sandpen/uids/N           the path of the state directory that has the block N
//! ```
//!
//! A block belongs to a state directory until the host restarts, or that directory is gone: its microVMs live on without
//! a daemon. Which of the block's uids a sandbox has follows from its row's number, so it is in the row and stays the same.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::process_owner::SANDBOX_UIDS;

/// How many there are in a block: the next sandbox but so many has the uid of the first one again.
const BLOCK: u32 = 1 << 20;
/// Where the blocks' owners are named; emptied when the host restarts.
const DIRECTORY: &str = "/run/sandpen/uids";

/// The uids of one state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UidBlock {
    first: u32,
}

/// Why there is no block.
#[derive(Debug, thiserror::Error)]
pub enum UidBlockError {
    /// A file of the owners'.
    #[error("{action} {path:?}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It could be somebody else's.
    #[error("{0:?} is not this user's alone; remove it")]
    Foreign(PathBuf),
    /// There are as many state directories as blocks.
    #[error(
        "all {0} blocks of uids are taken; remove state directories that are of no use (their paths are in {DIRECTORY})"
    )]
    None(u32),
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UidBlockError {
    let path = path.to_owned();
    move |source| UidBlockError::File { action, path, source }
}

impl UidBlock {
    /// The block of a state directory, which exists; a new one if it has none. For the host's root. Blocking, for
    /// milliseconds.
    ///
    /// # Errors
    /// [`UidBlockError`].
    pub fn claim(state_dir: &Path) -> Result<Self, UidBlockError> {
        Self::claim_in(Path::new(DIRECTORY), state_dir)
    }

    fn claim_in(directory: &Path, state_dir: &Path) -> Result<Self, UidBlockError> {
        let state_dir = state_dir.canonicalize().map_err(failed("looking for", state_dir))?;
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("making", directory))?;
        let meta = fs::symlink_metadata(directory).map_err(failed("looking at", directory))?;
        if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
            return Err(UidBlockError::Foreign(directory.to_owned()));
        }
        fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(failed("protecting", directory))?;
        let path = directory.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let lock: File = options.open(&path).map_err(failed("opening", &path))?;
        lock.lock().map_err(failed("locking", &path))?;

        let mut free = None;
        let blocks = (SANDBOX_UIDS.end() - SANDBOX_UIDS.start() + 1) / BLOCK;
        for block in 0..blocks {
            let path = directory.join(block.to_string());
            match fs::read(&path) {
                Ok(owner) if owner == state_dir.as_os_str().as_bytes() => return Ok(Self::of(block)),
                Ok(owner) => {
                    let owner = Path::new(std::ffi::OsStr::from_bytes(&owner));
                    // Written in part: its writer was killed, and has not told anybody of it. One that cannot be looked at
                    // (a file system that does not answer) is not gone.
                    let is_gone = !owner.is_absolute() || matches!(owner.try_exists(), Ok(false));
                    free = free.or_else(|| is_gone.then_some(block));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => free = free.or(Some(block)),
                Err(error) => return Err(failed("reading", &path)(error)),
            }
        }
        let block = free.ok_or(UidBlockError::None(blocks))?;
        let path = directory.join(block.to_string());
        let draft = directory.join("draft");
        fs::write(&draft, state_dir.as_os_str().as_bytes()).map_err(failed("writing", &draft))?;
        fs::rename(&draft, &path).map_err(failed("writing", &path))?;
        Ok(Self::of(block))
    }

    fn of(block: u32) -> Self {
        Self { first: SANDBOX_UIDS.start() + block * BLOCK }
    }

    /// The uid of the sandbox with this row number.
    pub fn uid(self, row: i64) -> u32 {
        self.first + u32::try_from(row.rem_euclid(i64::from(BLOCK))).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_directory_has_its_own_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| {
            fs::create_dir_all(dir.path().join(name)).unwrap();
            UidBlock::claim_in(&dir.path().join("uids"), &dir.path().join(name)).unwrap()
        };
        let (a, b) = (of("a"), of("b"));
        assert_eq!((a.first, b.first), (0x7000_0000, 0x7010_0000));
        assert_eq!((of("a"), of("b")), (a, b));
        fs::remove_dir(dir.path().join("a")).unwrap();
        assert_eq!(of("c"), a, "nobody has it any more");
        assert_eq!(of("a").first, 0x7020_0000);
        fs::write(dir.path().join("uids/1"), "").unwrap();
        assert_eq!(of("d"), b);
        assert!(UidBlock::claim_in(&dir.path().join("uids"), &dir.path().join("gone")).is_err());
    }

    #[test]
    fn uids_stay_within_the_block() {
        let block = UidBlock::of(255);
        assert_eq!(block.uid(0), 0x7FF0_0000);
        assert_eq!(block.uid((1 << 20) - 1), 0x7FFF_FFFF);
        assert_eq!(block.uid(1 << 20), block.uid(0));
        assert!(SANDBOX_UIDS.contains(&block.uid(i64::MAX)) && SANDBOX_UIDS.contains(&block.uid(-1)));
    }

    #[test]
    fn a_link_in_its_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("uids")).unwrap();
        let claimed = UidBlock::claim_in(&dir.path().join("uids"), dir.path());
        assert!(matches!(claimed, Err(UidBlockError::Foreign(_))), "{claimed:?}");
    }
}
