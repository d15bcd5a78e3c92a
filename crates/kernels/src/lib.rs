//! The kernels that guests boot: getting them, unpacking them, looking through them, keeping them and finding them again.
//!
//! May know: kernels' files, and the data directory they lie in. May not: who boots a kernel, and how. A driver says
//! what it needs of one ([`own::Facts`], [`InstalledKernel::check_has`]). Everything here blocks.
//!
//! ```text
//! <data>/kernel/lock                   held while installing
//! <data>/kernel/current                the version that guests boot
//! <data>/kernel/libkrunfw.so.5         the one that libkrun's guests boot (see [`krunfw`])
//! <data>/kernel/<version>/manifest.json
//! <data>/kernel/<version>/vmlinux      unpacked, with its PVH entry point
//! <data>/kernel/<version>/modules/*.ko unpacked
//! <data>/kernel/.installing-*/         an install that has not ended; never used
//! ```
//!
//! A version's directory comes into being by one rename, so it is there whole or not at all.

use std::path::{Path, PathBuf};

pub mod builtin;
pub mod compression;
mod debian;
pub mod kernel_file;
pub mod krunfw;
mod manifest;
pub mod modules;
pub mod own;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use directories::BaseDirs;

pub use debian::DebianError;
pub use manifest::{FileRecord, InstalledKernel, InstalledModule, Manifest, ManifestError, ModuleMissing};
use manifest::{OF_FILES, OF_PACKAGE};
pub use store::Kept;

/// Where kernels are installed when nobody says otherwise: `$XDG_DATA_HOME/sandpen`, else `~/.local/share/sandpen`,
/// else `/usr/local/share/sandpen` for a user without a home.
pub fn default_data_dir() -> PathBuf {
    let dirs = BaseDirs::new();
    let base = dirs.as_ref().map_or_else(|| Path::new("/usr/local/share"), BaseDirs::data_dir);
    base.join("sandpen")
}

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// Debian's current cloud kernel, from the package archive that this host is set up for. It is
    /// downloaded and unpacked, not installed in the system; works as an ordinary user.
    Debian,
    /// Files that are there already.
    Files {
        /// A bzImage or a `vmlinux`.
        kernel: PathBuf,
        /// Its modules: a `/lib/modules/VERSION` directory.
        modules: PathBuf,
    },
}

/// Why a kernel cannot be installed or found.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No kernel has been installed.
    #[error("no guest kernel is installed in {0:?}; run `sandpen kernel install`")]
    NotInstalled(PathBuf),
    /// The installed one is damaged.
    #[error("the guest kernel in {directory:?} is damaged; run `sandpen kernel install` again")]
    Damaged {
        /// Its directory.
        directory: PathBuf,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// Another machine than x86-64.
    #[error("guest kernels are supported on x86-64 hosts only, this is {0}")]
    Architecture(&'static str),
    /// The package could not be had.
    #[error(
        "cannot get Debian's kernel; with a kernel of your own: sandpen kernel install --kernel FILE --modules DIR"
    )]
    Debian(#[from] DebianError),
    /// The kernel's file is unusable.
    #[error("this kernel cannot be used")]
    File(#[from] kernel_file::KernelFileError),
    /// The modules are unusable.
    #[error("these kernel modules cannot be used")]
    Modules(#[from] modules::ModulesError),
    /// libkrunfw is unusable.
    #[error("this libkrunfw cannot be used")]
    Krunfw(#[from] krunfw::KrunfwError),
    /// libkrunfw could not be had.
    #[error("cannot get libkrunfw; with one of your own: sandpen kernel install --krunfw=FILE")]
    Wheel(#[from] krunfw::WheelError),
    /// A file or directory below the data directory cannot be written.
    #[error("cannot {action} {path:?}; is there room, and is the directory yours?")]
    Write {
        /// "create", "write", "rename", …
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Installs a kernel and makes it the current one. Takes seconds: not for an arbiter thread. A
/// kernel of the same version is replaced; one that is the same already stays.
///
/// # Errors
/// [`KernelError`]; what was installed before is unchanged then.
pub fn install(data_dir: &Path, source: &KernelSource) -> Result<InstalledKernel, KernelError> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(KernelError::Architecture(std::env::consts::ARCH));
    }
    let store = store::Store::lock(data_dir)?;
    match source {
        KernelSource::Files { kernel, modules } => {
            let origin = format!("{OF_FILES}{} and {}", kernel.display(), modules.display());
            install_files(&store, kernel, modules, origin)
        }
        KernelSource::Debian => {
            let work = store.temporary()?;
            let package = debian::fetch(work.path())?;
            install_files(&store, &package.kernel, &package.modules, format!("{OF_PACKAGE}{}", package.name))
        }
    }
}

fn install_files(
    store: &store::Store,
    kernel: &Path,
    modules: &Path,
    origin: String,
) -> Result<InstalledKernel, KernelError> {
    tracing::info!(?kernel, "unpacking the kernel");
    let unpacked = kernel_file::read(kernel)?;
    if !unpacked.pvh {
        return Err(kernel_file::KernelFileError::NoPvhNote { path: kernel.to_owned() }.into());
    }
    let (modules, builtin) = modules::collect(modules, &unpacked.version)?;
    let installed = store.install(&unpacked, &modules, builtin, origin)?;
    tracing::info!(version = installed.version(), directory = ?installed.directory(), "kernel installed");
    Ok(installed)
}

/// The current kernel, with every file checked to be there in its recorded size.
///
/// # Errors
/// [`KernelError::NotInstalled`] or [`KernelError::Damaged`].
pub fn find(data_dir: &Path) -> Result<InstalledKernel, KernelError> {
    store::find(data_dir)
}

/// The installed kernel of a version, whether it is the current one or not, if there is one.
///
/// # Errors
/// [`KernelError::Damaged`].
pub fn find_version(data_dir: &Path, version: &str) -> Result<Option<InstalledKernel>, KernelError> {
    store::find_version(data_dir, version)
}

/// All kernels that are installed, libkrunfw too, sorted by their paths. One is old that is not the current one, which
/// has been current for ten minutes: nobody who looked before that is still on his way to it.
pub fn kept(data_dir: &Path) -> Vec<Kept> {
    store::kept(data_dir)
}

/// Removes an old kernel, whole or not at all. False where it is not old any more, or a kernel is being installed now.
///
/// # Errors
/// What the system said.
pub fn remove_old(data_dir: &Path, old: &Kept) -> std::io::Result<bool> {
    store::remove_old(data_dir, old).transpose().map(|removed| removed.is_some())
}

#[cfg(test)]
mod tests;
