//! Writes kernels below the data directory, whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg, RenameFlags};

use crate::kernel_file::{UnpackedKernel, is_version};
use crate::manifest::{FILE_NAME, FileRecord, InstalledKernel, InstalledModule, Manifest};
use crate::modules::Module;
use crate::{KernelError, ManifestError};

/// Directories with this prefix are installs under way, or what a killed one left.
const TEMPORARY_PREFIX: &str = ".installing-";
const CURRENT: &str = "current";

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> KernelError {
    move |source| KernelError::Write { action, path: path.to_owned(), source }
}

/// `<data>/kernel`, locked against other installs.
pub(crate) struct Store {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Store {
    /// Makes the directory where needed, waits for other installs and clears what killed ones left.
    pub(crate) fn lock(data_dir: &Path) -> Result<Self, KernelError> {
        let directory = data_dir.join("kernel");
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&directory).map_err(failed("create", &directory))?;
        let path = directory.join("lock");
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let file = options.open(&path).map_err(failed("open", &path))?;
        let lock =
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| failed("lock", &path)(errno.into()))?;
        let store = Self { directory, _lock: lock };
        store.clear()?;
        Ok(store)
    }

    fn clear(&self) -> Result<(), KernelError> {
        let entries = fs::read_dir(&self.directory).map_err(failed("read", &self.directory))?;
        for entry in entries.filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                fs::remove_dir_all(entry.path()).map_err(failed("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    /// A directory beside the kernels, removed when dropped.
    pub(crate) fn temporary(&self) -> Result<tempfile::TempDir, KernelError> {
        tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .tempdir_in(&self.directory)
            .map_err(failed("create a directory in", &self.directory))
    }

    /// Writes a kernel and makes it the current one.
    pub(crate) fn install(
        &self,
        kernel: &UnpackedKernel,
        modules: &[Module],
        builtin: Vec<String>,
        origin: String,
    ) -> Result<InstalledKernel, KernelError> {
        let records = modules.iter().map(|module| InstalledModule {
            name: module.name.clone(),
            depends: module.depends.clone(),
            aliases: module.aliases.clone(),
            file: FileRecord::of(&module.bytes),
        });
        let vmlinux = FileRecord::of(&kernel.vmlinux);
        let manifest = Manifest::new(kernel.version.clone(), origin, vmlinux, records.collect(), builtin);
        let target = self.directory.join(&kernel.version);
        let kept =
            InstalledKernel::open(target.clone()).ok().filter(|installed| installed.manifest().same_files(&manifest));
        if kept.is_none() {
            self.write(kernel, modules, &manifest, &target)?;
        }
        write_whole(&self.directory.join(CURRENT), format!("{}\n", kernel.version).as_bytes())?;
        InstalledKernel::open(target.clone()).map_err(|source| KernelError::Damaged { directory: target, source })
    }

    fn write(
        &self,
        kernel: &UnpackedKernel,
        modules: &[Module],
        manifest: &Manifest,
        target: &Path,
    ) -> Result<(), KernelError> {
        let temporary = self.temporary()?;
        let staged = temporary.path().join("kernel");
        let module_dir = staged.join("modules");
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&module_dir).map_err(failed("create", &module_dir))?;
        write_synced(&staged.join("vmlinux"), &kernel.vmlinux)?;
        for module in modules {
            write_synced(&module_dir.join(format!("{}.ko", module.name)), &module.bytes)?;
        }
        let path = staged.join(FILE_NAME);
        let text = serde_json::to_vec_pretty(manifest).map_err(|e| failed("write", &path)(e.into()))?;
        write_synced(&path, &text)?;
        sync_directory(&module_dir)?;
        sync_directory(&staged)?;
        // An older one of this version is exchanged, and goes away with the temporary directory.
        let exchange =
            |flags| nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &staged, nix::fcntl::AT_FDCWD, target, flags);
        match exchange(RenameFlags::RENAME_NOREPLACE) {
            Err(nix::errno::Errno::EEXIST) => exchange(RenameFlags::RENAME_EXCHANGE),
            other => other,
        }
        .map_err(|errno| failed("rename the new kernel to", target)(errno.into()))
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), KernelError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(failed("write", path))
}

/// Writes a file that everybody may read: whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), KernelError> {
    sandpen_cache::write(path, 0o644, bytes).map_err(failed("write", path))
}

fn sync_directory(path: &Path) -> Result<(), KernelError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("sync", path))
}

/// The kernel of a version in a data directory.
pub(crate) fn find_version(data_dir: &Path, version: &str) -> Result<Option<InstalledKernel>, KernelError> {
    let directory = data_dir.join("kernel").join(version);
    if !is_version(version) || directory.symlink_metadata().is_err() {
        return Ok(None);
    }
    let opened = InstalledKernel::open(directory.clone());
    opened.map(Some).map_err(|source| KernelError::Damaged { directory, source })
}

/// The current kernel of a data directory.
pub(crate) fn find(data_dir: &Path) -> Result<InstalledKernel, KernelError> {
    let directory = data_dir.join("kernel");
    let path = directory.join(CURRENT);
    let version = match fs::read_to_string(&path) {
        Ok(text) => text.trim_end().to_owned(),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Err(KernelError::NotInstalled(directory));
        }
        Err(source) => return Err(KernelError::Write { action: "read", path, source }),
    };
    let damaged = |directory, source| KernelError::Damaged { directory, source };
    if !is_version(&version) {
        return Err(damaged(directory, ManifestError::Content(version)));
    }
    let target = directory.join(version);
    InstalledKernel::open(target.clone()).map_err(|source| damaged(target, source))
}

/// An installed kernel, or the libkrunfw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it is.
    pub path: PathBuf,
    /// What it takes of the disk, in bytes.
    pub bytes: u64,
    /// Whether it is another version than the current one, which guests boot.
    pub is_old: bool,
}

/// How long a start may be on its way with the version that was current when it began.
const SETTLED_AFTER: Duration = Duration::from_mins(10);

/// All kernels that are installed.
pub(crate) fn kept(data_dir: &Path) -> Vec<Kept> {
    let directory = data_dir.join("kernel");
    let current = fs::read_to_string(directory.join(CURRENT)).unwrap_or_default();
    let settled = is_settled(&directory.join(CURRENT));
    let mut kept = Vec::new();
    for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let Ok(meta) = entry.metadata() else { continue };
        let is_version = meta.is_dir() && is_version(&name) && entry.path().join(FILE_NAME).is_file();
        if is_version || (meta.is_file() && name.starts_with("libkrunfw")) {
            let is_old = is_version && settled && name != current.trim_end();
            kept.push(Kept { bytes: bytes_below(&entry.path()), path: entry.path(), is_old });
        }
    }
    kept.sort_by(|a, b| a.path.cmp(&b.path));
    kept
}

/// Whether the current version is that for so long that nobody is about to boot another one.
fn is_settled(current: &Path) -> bool {
    let changed = fs::metadata(current).and_then(|meta| meta.modified());
    changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|since| since >= SETTLED_AFTER))
}

/// Removes an old one; `None` where it is not old any more, or somebody is installing one now.
pub(crate) fn remove_old(data_dir: &Path, old: &Kept) -> Option<std::io::Result<()>> {
    let directory = data_dir.join("kernel");
    // Nobody installs meanwhile: what is current stays that.
    let file = OpenOptions::new().read(true).write(true).open(directory.join("lock")).ok()?;
    let _lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
    if !kept(data_dir).iter().any(|kept| kept.path == old.path && kept.is_old) {
        return None;
    }
    // Whole or not at all, as it came; what is left of it is cleared by the next install.
    let away = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempdir_in(&directory);
    Some(away.and_then(|away| {
        fs::rename(&old.path, away.path().join("kernel"))?;
        away.close()
    }))
}

/// What a file, or all below a directory, takes of the disk.
fn bytes_below(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let own = sandpen_cache::allocated_by(&meta);
    if !meta.is_dir() {
        return own;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.fold(own, |bytes, entry| bytes.saturating_add(bytes_below(&entry.path())))
}
