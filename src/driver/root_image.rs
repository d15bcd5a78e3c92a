//! Disk images of root directories: an ext4 file system with what is in a directory, made once for each
//! content and shared read-only by every microVM over it.
//!
//! ```text
//!   directory ─▶ fingerprint (names, sizes, times, owners …) ─▶ cache/images/root-FINGERPRINT.img
//!                                  there is none: mke2fs -d ─▶ draft ─▶ looked at again ─▶ named
//! ```
//!
//! A change in the directory changes its fingerprint, so the next start makes another image. Every image
//! has a size of whole [`IMAGE_STEP`]s, most of it a hole: so machines are alike that differ in their root
//! alone.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::disk::{DiskError, find_program};

/// The size of an image is a whole number of these: 64 GiB, which cost nothing.
pub(super) const IMAGE_STEP: u64 = 64 << 30;
/// Images that are kept; the ones that were not used for longest go.
const KEPT: usize = 16;
/// How often an image is begun anew because its directory changed meanwhile.
const TRIES: u32 = 3;
/// Goes into the fingerprint: raise it when the layout changes.
const LAYOUT: &[u8] = b"sandpen root image 1";
/// The file system's features: it is never written to, so it needs no journal.
const FEATURES: &str =
    "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize";
const BLOCK: u64 = 4096;
const SUFFIX: &str = ".img";

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    /// Something in the directory cannot be read.
    #[error("cannot read {path:?} for an image of the root directory; use --root virtiofs, or make it readable")]
    Read {
        /// What.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is no program for it.
    #[error(transparent)]
    Program(#[from] DiskError),
    /// It failed.
    #[error("mke2fs cannot make an image of {directory:?}: {said}")]
    Failed {
        /// The directory.
        directory: PathBuf,
        /// Its message.
        said: String,
    },
    /// The directory changes all the time.
    #[error("the root directory {0:?} changes while its image is made; use --root virtiofs, or wait until it is still")]
    Changing(PathBuf),
    /// The image cannot be written.
    #[error("{action} the root image {path:?}; is there room, and is the directory yours?")]
    File {
        /// What was being done.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ImageError + 'a {
    move |source| ImageError::File { action, path: path.to_owned(), source }
}

/// The image of `directory`, made where `cache` has none of this content. Blocks for as long as it takes
/// to read the directory's metadata, and to copy it where it is new.
///
/// # Errors
/// [`ImageError`].
pub(super) fn ensure(cache: &Path, directory: &Path) -> Result<PathBuf, ImageError> {
    let images = cache.join("images");
    DirBuilder::new().recursive(true).mode(0o700).create(&images).map_err(failed("making", &images))?;
    let mut survey = Survey::of(directory)?;
    for _ in 0..TRIES {
        let path = images.join(format!("root-{}{SUFFIX}", survey.fingerprint));
        if found(&path)? {
            return Ok(path);
        }
        // One makes it, others wait for that one; a waiter may find that it was made meanwhile.
        let lock_path = images.join("lock");
        let lock = File::options().create(true).append(true).open(&lock_path).map_err(failed("making", &lock_path))?;
        lock.lock().map_err(failed("locking", &lock_path))?;
        if found(&path)? {
            return Ok(path);
        }
        let draft = make(&images, directory, &survey)?;
        let again = Survey::of(directory)?;
        if again.fingerprint == survey.fingerprint {
            draft.as_file().sync_all().map_err(failed("writing", &path))?;
            draft.persist(&path).map_err(|error| failed("naming", &path)(error.error))?;
            File::open(&images).and_then(|dir| dir.sync_all()).map_err(failed("writing", &path))?;
            remove_oldest(&images);
            return Ok(path);
        }
        survey = again;
    }
    Err(ImageError::Changing(directory.to_owned()))
}

/// Whether the image is there; then it was used now.
fn found(path: &Path) -> Result<bool, ImageError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() > 0 && meta.len() % IMAGE_STEP == 0 => {
            // Only tells which were not used for longest.
            let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("looking at", path)(error)),
    }
}

fn make(images: &Path, directory: &Path, survey: &Survey) -> Result<tempfile::NamedTempFile, ImageError> {
    let program = find_program()?;
    let draft = tempfile::Builder::new().prefix(".draft-").tempfile_in(images).map_err(failed("making", images))?;
    let image = draft.path();
    let bytes = survey.image_bytes();
    draft.as_file().set_len(bytes).map_err(failed("making", image))?;
    let owner = format!("lazy_itable_init=0,nodiscard,root_owner={}:{}", survey.owner.0, survey.owner.1);
    let output = Command::new(program)
        .args(["-q", "-F", "-b", "4096", "-I", "256", "-m", "0", "-e", "remount-ro"])
        .args(["-N", &survey.inodes().to_string(), "-O", FEATURES, "-E", &owner, "-d"])
        .arg(directory)
        // By its name alone: a `?` in a path would begin options.
        .arg(Path::new(".").join(image.file_name().unwrap_or_default()))
        .current_dir(images)
        .stdin(Stdio::null())
        .output()
        .map_err(failed("making", image))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
        return Err(ImageError::Failed { directory: directory.to_owned(), said });
    }
    draft.as_file().set_len(bytes.next_multiple_of(IMAGE_STEP)).map_err(failed("making", image))?;
    Ok(draft)
}

/// Removes images beyond those that are kept. A microVM that uses one keeps it open.
fn remove_oldest(images: &Path) {
    let entries = fs::read_dir(images).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "img"))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    for (_, path) in found.into_iter().skip(KEPT) {
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(%error, ?path, "an old root image stays");
        }
    }
}

/// What is in a directory.
struct Survey {
    fingerprint: String,
    files: u64,
    blocks: u64,
    owner: (u32, u32),
}

impl Survey {
    /// Looks at everything below `directory`, on the same file system or not.
    fn of(directory: &Path) -> Result<Self, ImageError> {
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| ImageError::Read { path, source }
        };
        let meta = fs::metadata(directory).map_err(read(directory))?;
        let mut survey = Self { fingerprint: String::new(), files: 1, blocks: 1, owner: (meta.uid(), meta.gid()) };
        let mut hash = Sha256::new();
        hash.update(LAYOUT);
        hash.update(directory.as_os_str().as_bytes());
        add(&mut hash, &meta);
        let mut pending = vec![directory.to_owned()];
        while let Some(parent) = pending.pop() {
            let entries: io::Result<Vec<_>> = fs::read_dir(&parent).and_then(Iterator::collect);
            let mut entries = entries.map_err(read(&parent))?;
            entries.sort_by_key(fs::DirEntry::file_name);
            hash.update((entries.len() as u64).to_le_bytes());
            for entry in entries {
                let name = entry.file_name();
                let path = entry.path();
                let meta = entry.metadata().map_err(read(&path))?;
                hash.update((name.len() as u64).to_le_bytes());
                hash.update(name.as_bytes());
                add(&mut hash, &meta);
                survey.files += 1;
                // Also a block for the directory entry and the extents of an odd file.
                survey.blocks += meta.len().div_ceil(BLOCK) + 1;
                if meta.is_dir() {
                    pending.push(path);
                }
            }
        }
        survey.fingerprint = crate::kernel::hex(&hash.finalize()[..16]);
        Ok(survey)
    }

    /// More than the directory has: mke2fs takes some for itself.
    fn inodes(&self) -> u64 {
        self.files + self.files / 16 + 64
    }

    /// Room for the contents, the inodes and what the file system needs for itself. What is not used is a hole.
    fn image_bytes(&self) -> u64 {
        let inodes = self.inodes() * 256 / BLOCK + 1;
        let blocks = self.blocks + inodes;
        (blocks + blocks / 8 + 4096) * BLOCK
    }
}

/// All that changes when a file does. (The time of the last status change cannot be set by a user.)
fn add(hash: &mut Sha256, meta: &Metadata) {
    for number in [meta.dev(), meta.ino(), meta.rdev(), meta.size(), u64::from(meta.mode()), meta.nlink()] {
        hash.update(number.to_le_bytes());
    }
    for number in [meta.uid(), meta.gid()] {
        hash.update(number.to_le_bytes());
    }
    for number in [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()] {
        hash.update(number.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use sandpen_skip::{Reason, skip};

    use super::*;

    fn root(dir: &Path) -> PathBuf {
        let root = dir.join("odd ?root, a=b");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(root.join("bin/file"), vec![7; 3 << 20]).unwrap();
        symlink("bin/file", root.join("link")).unwrap();
        root
    }

    fn count(cache: &Path) -> usize {
        let is_image = |name: std::ffi::OsString| name.to_string_lossy().ends_with(SUFFIX);
        fs::read_dir(cache.join("images"))
            .unwrap()
            .filter(|entry| is_image(entry.as_ref().unwrap().file_name()))
            .count()
    }

    #[test]
    fn an_image_is_made_once_for_each_content() {
        if let Err(error) = find_program() {
            return skip(Reason::NoMke2fs, error);
        }
        let dir = tempfile::tempdir().unwrap();
        let (root, cache) = (root(dir.path()), dir.path().join("cache"));
        let first = ensure(&cache, &root).unwrap();
        let meta = fs::metadata(&first).unwrap();
        assert_eq!((meta.len() % IMAGE_STEP, meta.mode() & 0o777), (0, 0o600));
        assert!(meta.blocks() * 512 < 8 << 20, "{} blocks", meta.blocks());
        assert_eq!(ensure(&cache, &root).unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().ino(), meta.ino());
        // A change that keeps size and time of modification.
        let file = root.join("bin/file");
        let modified = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, vec![8; 3 << 20]).unwrap();
        File::open(&file).unwrap().set_modified(modified).unwrap();
        let second = ensure(&cache, &root).unwrap();
        assert_ne!(second, first);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_ne!(ensure(&cache, &root).unwrap(), second);
        assert_eq!(count(&cache), 3);
        // One that was cut short is made again.
        File::options().write(true).open(&second).unwrap().set_len(4096).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        ensure(&cache, &root).unwrap();
        let drafts = fs::read_dir(cache.join("images")).unwrap();
        assert!(drafts.flatten().all(|entry| !entry.file_name().to_string_lossy().starts_with(".draft")));
    }

    #[test]
    fn old_images_go() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..KEPT + 3 {
            let file = File::create(dir.path().join(format!("root-{number}.img"))).unwrap();
            let age = std::time::Duration::from_secs(1000 - number as u64);
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        File::create(dir.path().join("lock")).unwrap();
        remove_oldest(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), KEPT + 1);
        assert!(!dir.path().join("root-2.img").exists() && dir.path().join("root-3.img").exists());
    }

    #[test]
    fn what_cannot_be_had_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let gone = ensure(dir.path(), &dir.path().join("gone"));
        assert!(matches!(gone, Err(ImageError::Read { .. })), "{gone:?}");
        fs::write(dir.path().join("file"), "").unwrap();
        let root = root(dir.path());
        assert!(matches!(ensure(&dir.path().join("file"), &root), Err(ImageError::File { .. })));
    }
}
