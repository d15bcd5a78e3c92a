//! A sandbox's own kernel, read once for all starts that want it at the same time: see
//! [`own`](sandpen_kernels::own) for what becomes of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sandpen_cache::CacheUser;
use sandpen_kernels::own::{self, Facts, Known, OwnKernelError, Sha256Sum};
use sandpen_types::spec::KernelDigest;
use sandpen_vmm::driver::DriverError;
use tokio_util::sync::CancellationToken;

use super::step::{blocking, failed};
use super::work::{Lane, Piece, Stop, WorkError};

/// How long a kernel may take to be read and unpacked: 1 GiB, on a slow disk.
const LIMIT: Duration = Duration::from_mins(5);
const ADVICE: &str = "give an unpacked one (vmlinux), or try again when the host is less busy";

/// Each of them has up to 2 GiB in memory.
static KERNELS: Lane<Known, OwnKernelError> = Lane::new(2);

fn unusable(source: impl std::error::Error + Send + Sync + 'static) -> DriverError {
    DriverError::Unusable { what: "the guest kernel", source: Box::new(source) }
}

/// A kernel that is booted.
#[derive(Debug)]
pub(super) struct OwnKernel<T> {
    /// The copy in the cache.
    pub(super) copy: PathBuf,
    /// Which one it is.
    pub(super) digest: KernelDigest,
    /// What the driver said that accepted it.
    pub(super) accepted: T,
}

/// The copy of the kernel `file`, if `accept` takes it; until `cancel` is cancelled. With a digest it is that kernel,
/// whatever the file holds now. `accept` may read small files.
///
/// # Errors
/// [`DriverError::Unusable`] with an [`OwnKernelError`], or [`DriverError::Cancelled`].
pub(super) async fn ensure<T: Send + 'static>(
    user: &Arc<CacheUser>,
    file: &Path,
    digest: Option<KernelDigest>,
    cancel: &CancellationToken,
    accept: impl Fn(&Facts) -> Result<T, OwnKernelError> + Clone + Send + 'static,
) -> Result<OwnKernel<T>, DriverError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let cache = user.cache().directory().to_owned();
    // Once more, alone, where the work was another one's, whose machine would not take this kernel.
    for is_shared in [true, false] {
        let (path, user_of, judge) = (file.to_owned(), user.clone(), accept.clone());
        let looked = move || {
            let look = Looked::at(path, digest, &user_of)?;
            let at_hand = look.known().map(|known| {
                note(&user_of, &known.sha256())?;
                judged(known, known.copy(user_of.cache().directory()), &judge)
            });
            let at_hand = at_hand.transpose()?.flatten();
            Ok((look, at_hand))
        };
        let (look, at_hand) = blocking(looked).await?;
        if let Some(found) = at_hand {
            return Ok(found);
        }
        // What cannot be told from another content is not shared.
        let alone = || NUMBER.fetch_add(1, Ordering::Relaxed).to_string();
        let piece = Piece {
            key: look.key().filter(|_| is_shared).map_or_else(alone, |key| format!("{key} {}", cache.display())),
            what: format!("reading the kernel {}", file.display()),
            limit: LIMIT,
            advice: ADVICE,
        };
        let (user_of, judge) = (user.clone(), accept.clone());
        let read = move |stop: &Stop| {
            let cache = user_of.cache();
            let known = look.read(cache.directory(), |facts| judge(facts).is_ok(), || stop.is_set())?;
            // Whoever cannot say that it stays is told so below.
            let _ = note(&user_of, &known.sha256());
            cache.keep_within_budget();
            Ok(known)
        };
        let known = KERNELS.on_thread(piece, cancel, read).await.map_err(|error| match *error {
            WorkError::Cancelled => DriverError::Cancelled,
            _ => unusable(error),
        })?;
        let (user_of, judge) = (user.clone(), accept.clone());
        let kept = move || {
            // Where another one has read it, it may have had to go before this.
            note(&user_of, &known.sha256())?;
            judged(&known, known.kept(user_of.cache().directory()), &judge)
        };
        if let Some(found) = blocking(kept).await? {
            return Ok(found);
        }
    }
    Err(unusable(OwnKernelError::Changing { path: file.to_owned() }))
}

/// What a look has found.
enum Looked {
    /// Whatever the file holds.
    Now(own::Look),
    /// One kernel that was in the file.
    Pinned { file: PathBuf, digest: KernelDigest, known: Option<Known> },
}

impl Looked {
    /// Blocking, for microseconds.
    fn at(file: PathBuf, digest: Option<KernelDigest>, user: &CacheUser) -> Result<Self, DriverError> {
        let Some(digest) = digest else { return own::look(&file).map(Self::Now).map_err(unusable) };
        note(user, digest.bytes())?;
        let known = own::pinned(user.cache().directory(), &file, digest.bytes());
        Ok(Self::Pinned { file, digest, known })
    }

    fn known(&self) -> Option<&Known> {
        match self {
            Self::Now(look) => look.known.as_ref(),
            Self::Pinned { known, .. } => known.as_ref(),
        }
    }

    fn key(&self) -> Option<String> {
        match self {
            Self::Now(look) => look.key(),
            // Errors name the file.
            Self::Pinned { file, digest, .. } => Some(format!("{digest} {}", file.display())),
        }
    }

    fn read(
        &self,
        cache: &Path,
        accept: impl FnOnce(&Facts) -> bool,
        is_given_up: impl Fn() -> bool,
    ) -> Result<Known, OwnKernelError> {
        match self {
            Self::Now(look) => look.read(cache, accept, is_given_up),
            Self::Pinned { file, digest, .. } => own::read_pinned(cache, file, digest.bytes(), accept, is_given_up),
        }
    }
}

/// Says that the copy of this kernel is in use, before it is looked for.
fn note(user: &CacheUser, sha256: &Sha256Sum) -> Result<(), DriverError> {
    let copy = own::copy_path(user.cache().directory(), sha256);
    user.uses(&copy).map_err(|source| failed("noting which kernel is in use", source))
}

/// The copy, and what `accept` says; `None` where there is no copy yet.
fn judged<T>(
    known: &Known,
    copy: Option<PathBuf>,
    accept: &impl Fn(&Facts) -> Result<T, OwnKernelError>,
) -> Result<Option<OwnKernel<T>>, DriverError> {
    let accepted = accept(known.facts()).map_err(unusable)?;
    Ok(copy.map(|copy| OwnKernel { copy, digest: known.sha256().into(), accepted }))
}

#[cfg(test)]
mod tests;
