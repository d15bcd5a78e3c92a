//! A sandbox's own kernel, read once for all starts that want it at the same time: see
//! [`own`](sandpen_kernels::own) for what becomes of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sandpen_kernels::own::{self, Facts, Known, OwnKernelError};
use sandpen_vmm::driver::DriverError;
use tokio_util::sync::CancellationToken;

use super::step::blocking;
use super::work::{Lane, Piece, Stop, WorkError};

/// How long a kernel may take to be read and unpacked: 1 GiB, on a slow disk.
const LIMIT: Duration = Duration::from_mins(5);

/// Each of them has up to 2 GiB in memory.
static KERNELS: Lane<Known, OwnKernelError> = Lane::new(2);

fn unusable(source: impl std::error::Error + Send + Sync + 'static) -> DriverError {
    DriverError::Unusable { what: "the guest kernel", source: Box::new(source) }
}

/// The copy in `cache` of the kernel `file`, if `accept` takes it; until `cancel` is cancelled. `accept` may read
/// small files.
///
/// # Errors
/// [`DriverError::Unusable`] with an [`OwnKernelError`], or [`DriverError::Cancelled`].
pub(super) async fn ensure<T: Send + 'static>(
    cache: PathBuf,
    file: &Path,
    cancel: &CancellationToken,
    accept: impl Fn(&Facts) -> Result<T, OwnKernelError> + Clone + Send + 'static,
) -> Result<(PathBuf, T), DriverError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    // Once more, alone, where the work was another one's, whose machine would not take this kernel.
    for is_shared in [true, false] {
        let (path, into, judge) = (file.to_owned(), cache.clone(), accept.clone());
        let looked = move || {
            let look = own::look(&path).map_err(unusable)?;
            let judged = |known: &Known| judged(known, known.copy(&into), &judge);
            let at_hand = look.known.as_ref().map(judged).transpose()?;
            Ok((look, at_hand.flatten()))
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
            advice: "give an unpacked one (vmlinux), or try again when the host is less busy",
        };
        let (into, judge) = (cache.clone(), accept.clone());
        let read = move |stop: &Stop| look.read(&into, |facts| judge(facts).is_ok(), || stop.is_set());
        let known = KERNELS.on_thread(piece, cancel, read).await.map_err(|error| match *error {
            WorkError::Cancelled => DriverError::Cancelled,
            _ => unusable(error),
        })?;
        let (into, judge) = (cache.clone(), accept.clone());
        if let Some(found) = blocking(move || judged(&known, known.kept(&into), &judge)).await? {
            return Ok(found);
        }
    }
    Err(unusable(OwnKernelError::Changing { path: file.to_owned() }))
}

/// The copy, and what `accept` says; `None` where there is no copy yet.
fn judged<T>(
    known: &Known,
    copy: Option<PathBuf>,
    accept: &impl Fn(&Facts) -> Result<T, OwnKernelError>,
) -> Result<Option<(PathBuf, T)>, DriverError> {
    let accepted = accept(known.facts()).map_err(unusable)?;
    Ok(copy.map(|copy| (copy, accepted)))
}

#[cfg(test)]
mod tests;
