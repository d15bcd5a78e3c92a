//! A sandbox's own kernel: read, unpacked, and kept by its content, so that what is booted is what was
//! looked at, whatever becomes of the file.
//!
//! ```text
//!   file ── read before, unchanged ────────────▶ known ─┐
//!     └──── else ─▶ read ─▶ unpacked ─▶ looked at ──────┴▶ accepted by the driver ─▶ kept copy
//!                                                            (untouched since, or compared, or written)
//! ```
//! Two steps: [`look`], which is quick and mostly enough, and [`Look::read`]. Nothing is locked while a kernel is
//! read.
//!
//! A kept copy is `kernel-SHA256.vmlinux` in the cache directory. It is used without a look at its bytes
//! only as long as this process wrote or compared it itself and its inode is unchanged.

use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use sandpen_cache::hex;
use sha2::{Digest as _, Sha256};

use crate::KernelError;
use crate::builtin::{self, Builtin};
use crate::kernel_file::{self, KernelFileError, UnpackedKernel};

/// Files that are remembered; the oldest is forgotten.
const REMEMBERED: usize = 32;

/// Why a kernel cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OwnKernelError {
    /// It is no kernel that boots here.
    #[error(transparent)]
    File(#[from] KernelFileError),
    /// It boots, but could not do what the machine is for.
    #[error("the kernel {path:?}, version {version}, has no {part} ({option}); {hint}")]
    Lacks {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: String,
        /// What is missing.
        part: &'static str,
        /// What it would have to be built with.
        option: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// It was written to meanwhile.
    #[error("the kernel {path:?} was changed while it was read; try again when it is complete")]
    Changing {
        /// The file.
        path: PathBuf,
    },
    /// Kernels of its version are installed, but damaged.
    #[error("the modules for the kernel {path:?} cannot be used")]
    Modules {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<KernelError>,
    },
    /// Nobody wants it any more.
    #[error("it was given up")]
    GivenUp,
    /// The copy cannot be written.
    #[error("keeping a copy of the kernel {path:?}")]
    Keep {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<KernelError>,
    },
}

/// What was found out about a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The file, as it was given.
    pub path: PathBuf,
    /// For example `6.12.113`.
    pub version: String,
    /// Whether QEMU finds an entry point.
    pub pvh: bool,
    /// What it has built in.
    pub builtin: Builtin,
}

impl Facts {
    /// The refusal of a kernel that lacks a part; `hint` says what to do.
    pub fn lacks(&self, part: &'static str, hint: &'static str) -> OwnKernelError {
        let (path, version) = (self.path.clone(), self.version.clone());
        OwnKernelError::Lacks { path, version, part, option: builtin::option(part), hint }
    }

    /// Checks that all these parts are built in.
    ///
    /// # Errors
    /// [`OwnKernelError::Lacks`] with the first that is not.
    pub fn check_has(&self, parts: &[&'static str], hint: &'static str) -> Result<(), OwnKernelError> {
        match parts.iter().find(|part| !self.builtin.has(part)) {
            Some(part) => Err(self.lacks(part, hint)),
            None => Ok(()),
        }
    }
}

/// Tells two contents of a path apart without reading them: a write or a replacement changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity([i64; 5], u64, u64);

impl Identity {
    fn of(meta: &Metadata) -> Self {
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        Self([times[0], times[1], times[2], times[3], meta.size().cast_signed()], meta.dev(), meta.ino())
    }

    /// Whether the last change is a while ago: the clock of inodes ticks every some milliseconds.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
        self.0[2] < now - 1
    }
}

/// What was found out about the content of a file.
#[derive(Debug, Clone)]
pub struct Known {
    /// The file as it was looked at.
    file: Identity,
    facts: Facts,
    /// SHA-256 of the unpacked kernel.
    sha256: String,
    /// The copy that was written or compared last.
    copy: Option<Identity>,
}

/// The last ones; locked for a look alone.
static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

impl Known {
    /// What the kernel is.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The copy in `cache`, if it is there and nobody has touched it. Blocking, for microseconds.
    pub fn copy(&self, cache: &Path) -> Option<PathBuf> {
        let copy = self.path_in(cache);
        (self.copy.is_some() && identity_of(&copy) == self.copy).then_some(copy)
    }

    /// The copy that [`Look::read`] has just written or compared, if the kernel was accepted. (By now another one
    /// may have written the same in its place.)
    pub fn kept(&self, cache: &Path) -> Option<PathBuf> {
        self.copy.map(|_| self.path_in(cache))
    }

    fn path_in(&self, cache: &Path) -> PathBuf {
        cache.join(format!("kernel-{}.vmlinux", self.sha256))
    }

    fn remember(&self) {
        // A file that changed again within one tick of the clock looks the same.
        if !self.file.is_settled() {
            return;
        }
        let mut all = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.file != self.file || known.facts.path != self.facts.path);
        if all.len() >= REMEMBERED {
            all.remove(0);
        }
        all.push(self.clone());
    }
}

/// A file as it is at the moment.
#[derive(Debug, Clone)]
pub struct Look {
    path: PathBuf,
    identity: Identity,
    /// What is known of this very content.
    pub known: Option<Known>,
}

/// Looks at a kernel's file, not at its content. Blocking, for microseconds.
///
/// # Errors
/// [`KernelFileError::Read`].
pub fn look(file: &Path) -> Result<Look, OwnKernelError> {
    let read = |source| KernelFileError::Read { path: file.to_owned(), source };
    let identity = Identity::of(&fs::metadata(file).map_err(read)?);
    let all = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = all.iter().find(|known| known.file == identity && known.facts.path == file).cloned();
    Ok(Look { path: file.to_owned(), identity, known })
}

impl Look {
    /// The same for everybody who would read the same content; `None` where that cannot be told, since the
    /// file was changed just now.
    pub fn key(&self) -> Option<String> {
        self.identity.is_settled().then(|| format!("{:?} {}", self.identity, self.path.display()))
    }

    /// Reads the kernel, and keeps a copy of it in `cache` if `accept` says so. Blocking, for as long as it takes
    /// to read and unpack it. Gives up between two steps when `is_given_up` says so.
    ///
    /// # Errors
    /// [`OwnKernelError`].
    pub fn read(
        &self,
        cache: &Path,
        accept: impl FnOnce(&Facts) -> bool,
        is_given_up: impl Fn() -> bool,
    ) -> Result<Known, OwnKernelError> {
        let given_up = || if is_given_up() { Err(OwnKernelError::GivenUp) } else { Ok(()) };
        let (mut known, kernel) = look_at(&self.path, given_up)?;
        if accept(&known.facts) {
            given_up()?;
            known.copy = Some(keep(&known.path_in(cache), &kernel.vmlinux, &self.path)?);
        }
        known.remember();
        Ok(known)
    }
}

fn look_at(
    file: &Path,
    given_up: impl Fn() -> Result<(), OwnKernelError>,
) -> Result<(Known, UnpackedKernel), OwnKernelError> {
    let read = |source| KernelFileError::Read { path: file.to_owned(), source };
    let before = Identity::of(&fs::metadata(file).map_err(read)?);
    let kernel = kernel_file::read(file)?;
    let after = Identity::of(&fs::metadata(file).map_err(read)?);
    if before != after {
        return Err(OwnKernelError::Changing { path: file.to_owned() });
    }
    given_up()?;
    let facts = Facts {
        path: file.to_owned(),
        version: kernel.version.clone(),
        pvh: kernel.pvh,
        builtin: Builtin::of(&kernel.vmlinux),
    };
    let sha256 = hex(&Sha256::digest(&kernel.vmlinux));
    Ok((Known { file: after, facts, sha256, copy: None }, kernel))
}

fn identity_of(path: &Path) -> Option<Identity> {
    // Not through a link: the copy is a file of ours.
    fs::symlink_metadata(path).ok().filter(Metadata::is_file).map(|meta| Identity::of(&meta))
}

/// Makes sure that `copy` holds `bytes`: it does already, or it is written whole.
fn keep(copy: &Path, bytes: &[u8], file: &Path) -> Result<Identity, OwnKernelError> {
    let failed = |source| OwnKernelError::Keep { path: file.to_owned(), source: Box::new(source) };
    let write = |source| KernelError::Write { action: "write", path: copy.to_owned(), source };
    let before = identity_of(copy);
    if before.is_some() && holds(copy, bytes) && identity_of(copy) == before {
        return before.ok_or_else(|| failed(write(std::io::ErrorKind::NotFound.into())));
    }
    sandpen_cache::write(copy, 0o644, bytes).map_err(write).map_err(failed)?;
    identity_of(copy).ok_or_else(|| failed(write(std::io::ErrorKind::NotFound.into())))
}

fn holds(copy: &Path, bytes: &[u8]) -> bool {
    let mut content = Vec::new();
    let limit = bytes.len() as u64 + 1;
    let read = File::open(copy).and_then(|file| file.take(limit).read_to_end(&mut content));
    read.is_ok() && content == bytes
}

#[cfg(test)]
#[path = "own_tests.rs"]
mod tests;
