//! A sandbox's own kernel: read, unpacked, and kept by its content, so that what is booted is what was
//! looked at, whatever becomes of the file.
//!
//! ```text
//!   asked for:      file ── read before, unchanged ────────▶ known ─┐
//!                     └──── else ─▶ read ─▶ unpacked ─▶ looked at ──┴▶ accepted by the driver ─▶ kept copy, its digest
//!                                                                        (untouched since, or compared, or written)
//!   started again:  digest ── its copy is untouched ───────▶ known ─────▶ accepted ─▶ that copy
//!                     ├──── else ─▶ copy read, has the digest ──────────▶ accepted ─▶ that copy
//!                     └──── else ─▶ file read, has the digest still ────▶ accepted ─▶ kept copy
//! ```
//! Two steps each: [`look`] and [`Look::read`], [`pinned`] and [`read_pinned`]; the first is quick and mostly enough.
//! Nothing is locked while a kernel is read.
//!
//! A kept copy is `kernel-SHA256.vmlinux` in the cache directory. It is used without a look at its bytes
//! only as long as this process wrote or compared it itself and its inode is unchanged.

mod identity;

use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sandpen_cache::{hex, mark_used};
use sha2::{Digest as _, Sha256};

use self::identity::Identity;
use crate::KernelError;
use crate::builtin::{self, Builtin};
use crate::kernel_file::{self, KernelFileError, UnpackedKernel};

/// Files that are remembered; the oldest is forgotten.
const REMEMBERED: usize = 32;
/// How often a copy is read that seems to change meanwhile.
const TRIES: u32 = 3;
/// Bytes that are compared at once.
const CHUNK: usize = 1 << 16;

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
    /// What the sandbox was started with is nowhere any more.
    #[error(
        "the kernel {path:?} is not the one that the sandbox was started with ({reason}), and the copy of that one, {copy:?}, is gone from the cache; start the sandbox again by a request (`sandpen run`) to take what the file holds now, or put the old file back"
    )]
    Replaced {
        /// The file.
        path: PathBuf,
        /// The copy's name.
        copy: String,
        /// What the file is instead.
        reason: String,
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

/// SHA-256 of an unpacked kernel.
pub type Sha256Sum = [u8; 32];

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

/// What was found out about the content of a file.
#[derive(Debug, Clone)]
pub struct Known {
    /// The file as it was looked at; `None` where a later content could look the same.
    file: Option<Identity>,
    facts: Facts,
    sha256: Sha256Sum,
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

    /// SHA-256 of the kernel, unpacked.
    pub fn sha256(&self) -> Sha256Sum {
        self.sha256
    }

    /// The copy in `cache`, if it is there and nobody has touched it; it was used now. Blocking, for microseconds.
    pub fn copy(&self, cache: &Path) -> Option<PathBuf> {
        let path = copy_path(cache, &self.sha256);
        let mut all = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |known: &&mut Known| known.sha256 == self.sha256 && known.copy.is_some();
        let found = identity_of(&path)?;
        let mut same: Vec<_> = all.iter_mut().filter(same).filter(|known| known.copy == Some(found)).collect();
        if same.is_empty() && self.copy != Some(found) {
            return None;
        }
        mark_used(&path);
        let marked = identity_of(&path);
        for known in &mut same {
            known.copy = marked;
        }
        Some(path)
    }

    /// The copy that was just written or compared, if the kernel was accepted and it is there still. (By now another
    /// one may have written the same in its place.) Blocking, for microseconds.
    pub fn kept(&self, cache: &Path) -> Option<PathBuf> {
        self.copy?;
        let path = copy_path(cache, &self.sha256);
        identity_of(&path).map(|_| path)
    }

    /// The same, as it came from `file`.
    fn of_file(mut self, file: &Path) -> Self {
        file.clone_into(&mut self.facts.path);
        self
    }

    /// Keeps a copy of the kernel in `cache` if `accept` says so, and remembers what is known of it.
    fn keep_if(
        mut self,
        accept: impl FnOnce(&Facts) -> bool,
        kernel: &UnpackedKernel,
        cache: &Path,
        given_up: impl Fn() -> Result<(), OwnKernelError>,
    ) -> Result<Self, OwnKernelError> {
        if accept(&self.facts) {
            given_up()?;
            self.copy = Some(keep(&copy_path(cache, &self.sha256), &kernel.vmlinux, &self.facts.path)?);
        }
        self.remember();
        Ok(self)
    }

    fn remember(&self) {
        let mut all = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.sha256 != self.sha256 || known.facts.path != self.facts.path);
        if all.len() >= REMEMBERED {
            all.remove(0);
        }
        // A file that changed again within one tick of the clock looks the same.
        let file = self.file.filter(Identity::is_settled);
        all.push(Self { file, ..self.clone() });
    }
}

/// Where the copy of a kernel is in `cache`, or belongs.
pub fn copy_path(cache: &Path, sha256: &Sha256Sum) -> PathBuf {
    cache.join(format!("kernel-{}.vmlinux", hex(sha256)))
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
    let known = all.iter().find(|known| known.file == Some(identity) && known.facts.path == file).cloned();
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
        let (known, kernel) = look_at(&self.path, given_up)?;
        known.keep_if(accept, &kernel, cache, given_up)
    }
}

/// What is known of the kernel that has this digest and came from `file`, if its copy in `cache` is untouched. Blocking,
/// for microseconds.
pub fn pinned(cache: &Path, file: &Path, sha256: &Sha256Sum) -> Option<Known> {
    let all: Vec<_> = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let known = all.into_iter().rev().find(|known| known.sha256 == *sha256 && known.copy.is_some())?;
    known.copy(cache)?;
    Some(known.of_file(file))
}

/// Reads the kernel that has this digest: its copy in `cache`, else `file`, which may have changed since, and of which
/// a copy is kept then if `accept` says so. Blocking and given up as [`Look::read`].
///
/// # Errors
/// [`OwnKernelError::Replaced`], and others.
pub fn read_pinned(
    cache: &Path,
    file: &Path,
    sha256: &Sha256Sum,
    accept: impl FnOnce(&Facts) -> bool,
    is_given_up: impl Fn() -> bool,
) -> Result<Known, OwnKernelError> {
    let given_up = || if is_given_up() { Err(OwnKernelError::GivenUp) } else { Ok(()) };
    let copy = copy_path(cache, sha256);
    // Another start may mark it as used meanwhile, which looks like a change.
    for _ in 0..TRIES {
        // Not through a link: the copy is a file of ours. One that is no kernel is as good as none.
        let looked = if identity_of(&copy).is_some() { look_at(&copy, given_up) } else { break };
        given_up()?;
        match looked {
            Ok((known, _)) if known.sha256 == *sha256 => {
                mark_used(&copy);
                let known = Known { file: None, copy: identity_of(&copy), ..known.of_file(file) };
                known.remember();
                return Ok(known);
            }
            Err(OwnKernelError::Changing { .. }) => {}
            _ => break,
        }
    }
    let replaced = |reason: String| OwnKernelError::Replaced {
        path: file.to_owned(),
        copy: copy.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        reason,
    };
    let (known, kernel) = match look_at(file, given_up) {
        Err(OwnKernelError::File(error)) => return Err(replaced(with_cause(&error))),
        looked => looked?,
    };
    if known.sha256 != *sha256 {
        return Err(replaced("it holds another one now".to_owned()));
    }
    known.keep_if(accept, &kernel, cache, given_up)
}

fn with_cause(error: &KernelFileError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
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
    let sha256 = Sha256::digest(&kernel.vmlinux).into();
    Ok((Known { file: Some(after), facts, sha256, copy: None }, kernel))
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
    let same = || -> std::io::Result<bool> {
        let (mut file, mut rest, mut chunk) = (File::open(copy)?, bytes, vec![0; CHUNK]);
        loop {
            let length = file.read(&mut chunk)?;
            match rest.split_at_checked(length) {
                Some((head, tail)) if length > 0 && *head == chunk[..length] => rest = tail,
                _ => return Ok(length == 0 && rest.is_empty()),
            }
        }
    };
    same().unwrap_or(false)
}

#[cfg(test)]
#[path = "own_tests.rs"]
mod tests;
