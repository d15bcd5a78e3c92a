//! Layers that came in part: their packed bytes from the first one on, as far as they came, so that the next who asks for
//! one goes on there.
//!
//! ```text
//!   nobody's ──locked──▶ one's: read, then written at its end ──▶ removed, when the layer is there or it is of no use
//!      ▲                                  │
//!      └────── its holder died or left ───┘      nobody's for a week ──▶ removed
//! ```
//!
//! Nothing of it is synced: what a power failure leaves may be anything, and whoever reads it checks the digest of the
//! whole. Nor is a name believed: whatever unpacks layers may write into the store, and must not have another file read
//! or written by us, so that no link is followed.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, statat, unlinkat};
use rustix::io::Errno;
use sandpen_types::image::ImageDigest;

use super::{Store, StoreError, files};

/// The directory below the store's own.
pub(super) const DIRECTORY: &str = "partial";
/// How long one is kept that nobody asks for.
const KEPT_FOR: Duration = Duration::from_hours(7 * 24);

/// A layer that came in part, and is ours until this is dropped; its file stays then.
#[derive(Debug)]
pub struct PartialLayer {
    directory: OwnedFd,
    name: String,
    path: PathBuf,
    file: File,
    bytes: u64,
}

/// One that nobody holds now, or that somebody does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPartial {
    /// The digest of all its bytes, as they are packed.
    pub packed: ImageDigest,
    /// What it takes of the disk, in bytes.
    pub bytes: u64,
    /// When something of it came last.
    pub modified: SystemTime,
    /// Whether somebody reads or writes it.
    pub is_held: bool,
}

impl Store {
    /// What there is of a layer with this digest and size of its packed bytes, from its first byte on, made empty where
    /// there is nothing. `None` if somebody else has it.
    ///
    /// # Errors
    /// What the system said; also where there is something else under this name.
    pub fn partial(&self, packed: &ImageDigest, size: u64) -> Result<Option<PartialLayer>, StoreError> {
        let found = self.take_partial(packed, OFlags::CREATE)?;
        let Some(mut partial) = found else { return Ok(None) };
        if partial.bytes > size {
            // It cannot be of this layer.
            partial.cut(0)?;
        }
        Ok(Some(partial))
    }

    /// Removes what there is of a layer, unless somebody has it.
    ///
    /// # Errors
    /// What the system said.
    pub fn remove_partial(&self, packed: &ImageDigest) -> Result<(), StoreError> {
        match self.take_partial(packed, OFlags::empty()) {
            Ok(Some(partial)) => partial.remove(),
            Ok(None) => Ok(()),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The path of what there is of a layer, for people.
    pub fn partial_path(&self, packed: &ImageDigest) -> PathBuf {
        self.directory.join(DIRECTORY).join(packed.hex())
    }

    /// All of them, the oldest first, and whether somebody has each.
    ///
    /// # Errors
    /// What the system said.
    pub fn partials(&self) -> Result<Vec<StoredPartial>, StoreError> {
        let mut partials = self.listed_partials()?;
        for partial in &mut partials {
            partial.is_held = matches!(self.take_partial(&partial.packed, OFlags::empty()), Ok(None));
        }
        Ok(partials)
    }

    /// All of them, the oldest first, as if nobody had any: whoever looks takes one for a moment, and who asks for it in
    /// that moment does not get it.
    pub(super) fn listed_partials(&self) -> Result<Vec<StoredPartial>, StoreError> {
        let mut partials = Vec::new();
        for packed in files::digests(&self.directory.join(DIRECTORY))? {
            let path = self.partial_path(&packed);
            // One that goes meanwhile is none.
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            let modified = meta.modified().map_err(StoreError::io("look at", &path))?;
            let bytes = sandpen_cache::allocated_by(&meta);
            partials.push(StoredPartial { packed, bytes, modified, is_held: false });
        }
        partials.sort_by_key(|partial| (partial.modified, partial.packed));
        Ok(partials)
    }

    /// Removes what nobody holds and nobody has asked for in a week.
    pub(super) fn sweep_partials(&self) -> Result<(), StoreError> {
        let is_old = |partial: &&StoredPartial| partial.modified.elapsed().is_ok_and(|age| age > KEPT_FOR);
        for partial in self.listed_partials()?.iter().filter(is_old) {
            self.discard(partial);
        }
        Ok(())
    }

    /// Removes what nobody holds; what stays for some fault is found by the next one. Whether it is gone.
    pub(super) fn discard(&self, partial: &StoredPartial) -> bool {
        match self.remove_partial(&partial.packed) {
            Ok(()) => fs::symlink_metadata(self.partial_path(&partial.packed)).is_err(),
            Err(error) => {
                tracing::warn!(%error, "what came of a layer stays");
                false
            }
        }
    }

    /// Opens one and takes it alone; `None` if somebody else has it. A link, or whatever else is no file of its own, is
    /// removed.
    fn take_partial(&self, packed: &ImageDigest, how: OFlags) -> Result<Option<PartialLayer>, StoreError> {
        let path = self.partial_path(packed);
        let failed = |action| {
            let path = path.clone();
            move |error: Errno| StoreError::io(action, path)(error.into())
        };
        let directory = {
            let path = self.directory.join(DIRECTORY);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&path, flags, Mode::empty());
            opened.map_err(|error| StoreError::io("open", &path)(error.into()))?
        };
        let name = packed.hex();
        let flags = how | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        loop {
            let opened = match openat(&directory, &name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(opened) => opened,
                Err(Errno::LOOP) => {
                    unlinkat(&directory, &name, AtFlags::empty()).map_err(failed("remove"))?;
                    continue;
                }
                Err(error) => return Err(failed("open")(error)),
            };
            let stat = fstat(&opened).map_err(failed("look at"))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
                unlinkat(&directory, &name, AtFlags::empty()).map_err(failed("remove"))?;
                continue;
            }
            let file = File::from(opened);
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
            }
            // Whoever had it before may have removed it.
            let there = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW);
            if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)) {
                let bytes = file.metadata().map_err(StoreError::io("look at", &path))?.len();
                return Ok(Some(PartialLayer { directory, name, path, file, bytes }));
            }
        }
    }
}

impl PartialLayer {
    /// How many bytes there are, from the first one on.
    pub fn size(&self) -> u64 {
        self.bytes
    }

    /// Leaves so many of them. What is read next is the first one.
    ///
    /// # Errors
    /// What the system said.
    pub fn cut(&mut self, bytes: u64) -> Result<(), StoreError> {
        let bytes = bytes.min(self.bytes);
        let cut = self.file.set_len(bytes).and_then(|()| self.file.rewind());
        cut.map_err(StoreError::io("shorten", &self.path))?;
        self.bytes = bytes;
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// What the system said.
    pub fn remove(self) -> Result<(), StoreError> {
        // While it is locked, so that nobody has it who does not see that it is gone.
        match unlinkat(self.directory.as_fd(), &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(StoreError::io("remove", &self.path)(error.into())),
        }
    }
}

/// The bytes that there are. They are to be read to their end before more is written.
impl Read for PartialLayer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

/// More bytes, behind those that were read.
impl Write for PartialLayer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += u64::try_from(written).unwrap_or(u64::MAX);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
