//! Disks for the writable layer of a root: a sparse file with an ext4 file system, as large as
//! the sandbox may write.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandpen_types::spec::DISK_DEFAULT_BYTES;
use sandpen_types::state_dir::DISK_DRAFT_PREFIX;
use sandpen_vmm::blocking::blocking;
use tokio_util::sync::CancellationToken;

use super::disk_maker::DiskMaker;
use super::mke2fs::Mke2fsError;
use super::work::{Lane, Outcome, Piece, Stop, WorkError};

/// Modules that the guest's kernel needs for a root of layers on a disk.
pub const MODULES: [&str; 3] = ["virtio_blk", "ext4", "overlay"];
/// A module that it needs besides for a root that is an image.
pub const IMAGE_MODULE: &str = "erofs";
/// A module that ext4's checksums need where the kernel has it as a file.
pub(super) const OPTIONAL_MODULES: [&str; 1] = ["crc32c_generic"];
/// The serial number of the disk of the writable layer, by which the guest knows it from root disks.
pub(super) const SERIAL: &str = "sandpen-disk";

/// The serial number of a root disk, of a layer; at most 20 bytes (`VIRTIO_BLK_ID_BYTES`).
pub(super) fn root_disk_serial(number: usize) -> String {
    format!("sandpen-image-{number}")
}

/// All of the file system's features, whatever the host's configuration says: Linux 4.18 and later
/// mount it.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
/// Up to this size files are expected to be small.
const SMALL_BYTES: u64 = 512 << 20;

/// How long it may take to make one: most of it is a hole, whatever its size.
const MAKING_LIMIT: Duration = Duration::from_mins(2);

/// Disks in the making.
static MAKING: Lane<(), DiskError> = Lane::new(4);

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The program that makes file systems.
    #[error("making a file system of {bytes} bytes")]
    Mke2fs {
        /// The size.
        bytes: u64,
        /// The cause.
        #[source]
        source: Mke2fsError,
    },
    /// The disk cannot be written.
    #[error("{action} the disk {path:?}; is there room, and is the directory yours?")]
    File {
        /// What was being done.
        action: &'static str,
        /// The disk.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something else is in its place.
    #[error("{0:?} is not a disk; remove it")]
    NotAFile(PathBuf),
    /// A kept disk has another size than the one asked for.
    #[error(
        "the disk {path:?} is there already, with {found} bytes instead of {wanted}; \
         leave the size out, use another name or remove it with `sandpen disk rm`"
    )]
    Size {
        /// The disk.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// What was asked for.
        wanted: u64,
    },
}

/// Makes the disk where there is none: whole or not at all.
///
/// # Errors
/// [`DiskError`], and those of work.
pub(super) async fn ensure(
    maker: &Arc<DiskMaker>,
    path: &Path,
    bytes: Option<u64>,
    cancel: &CancellationToken,
) -> Outcome<(), DiskError> {
    let looked_at = path.to_owned();
    let looked = blocking(move || is_there(&looked_at, bytes)).await.map_err(|_| WorkError::Lost)?;
    if looked.map_err(WorkError::Failed)? {
        return Ok(());
    }
    let piece = Piece {
        key: format!("{bytes:?} {}", path.display()),
        what: format!("making the disk {}", path.display()),
        limit: MAKING_LIMIT,
        advice: "try again when the host's disk is less busy",
    };
    let (maker, path) = (maker.clone(), path.to_owned());
    let made = move |stop: &Stop| match is_there(&path, bytes)? {
        true => Ok(()),
        false => make(&maker, &path, bytes.unwrap_or(DISK_DEFAULT_BYTES), stop),
    };
    MAKING.on_thread(piece, cancel, made).await
}

/// Whether there is a disk, of this size if one is wanted.
fn is_there(path: &Path, bytes: Option<u64>) -> Result<bool, DiskError> {
    let failed = |action| move |source| DiskError::File { action, path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => match bytes {
            Some(wanted) if wanted != meta.len() => {
                Err(DiskError::Size { path: path.to_owned(), found: meta.len(), wanted })
            }
            _ => Ok(true),
        },
        Ok(_) => Err(DiskError::NotAFile(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("looking at")(error)),
    }
}

fn make(maker: &DiskMaker, path: &Path, bytes: u64, stop: &Stop) -> Result<(), DiskError> {
    let failed = |action| move |source| DiskError::File { action, path: path.to_owned(), source };
    let directory = path.parent().ok_or_else(|| DiskError::NotAFile(path.to_owned()))?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("making"))?;
    let draft = tempfile::Builder::new().prefix(DISK_DRAFT_PREFIX).tempfile_in(directory).map_err(failed("making"))?;
    draft.as_file().set_len(bytes).map_err(failed("making"))?;
    let inode_ratio = if bytes <= SMALL_BYTES { "4096" } else { "16384" };
    // The file is new, so there is nothing to discard, and what is not written reads as zeros.
    let extended = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0";
    let arguments = ["-i", inode_ratio, "-O", FEATURES, "-E", extended].map(OsString::from).into();
    let made = maker.mke2fs(arguments, draft.as_file(), draft.path(), stop);
    made.map_err(|source| DiskError::Mke2fs { bytes, source })?;
    draft.as_file().sync_all().map_err(failed("writing"))?;
    draft.persist_noclobber(path).map_err(|error| failed("naming")(error.error))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("writing"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use sandpen_skip::{Reason, skip};

    use super::*;

    async fn ensure(path: &Path, bytes: Option<u64>) -> Result<(), String> {
        let made = super::ensure(&crate::tests::maker(), path, bytes, &CancellationToken::new()).await;
        made.map_err(|error| format!("{error:?}"))
    }

    #[tokio::test]
    async fn a_disk_is_sparse_private_and_made_once() {
        if let Err(error) = crate::mke2fs::find() {
            return skip(Reason::NoMke2fs, error);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("odd ?offset=1, name/a.img");
        ensure(&path, Some(64 << 20)).await.unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (64 << 20, 0o600));
        assert!(meta.blocks() * 512 < 4 << 20, "{} blocks", meta.blocks());
        let superblock = std::fs::read(&path).unwrap();
        assert_eq!(superblock[1024 + 56..1024 + 58], [0x53, 0xEF], "no ext4 file system");
        ensure(&path, None).await.unwrap();
        let error = ensure(&path, Some(32 << 20)).await.unwrap_err();
        assert!(error.contains("Size {") && error.contains("found: 67108864"), "{error}");
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), meta.ino());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a draft is left");
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ensure(dir.path(), None).await.unwrap_err().contains("NotAFile("));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/nowhere", &link).unwrap();
        assert!(ensure(&link, None).await.unwrap_err().contains("NotAFile("));
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = ensure(&dir.path().join("file/a.img"), None).await.unwrap_err();
        assert!(error.contains("File {"), "{error}");
    }
}
