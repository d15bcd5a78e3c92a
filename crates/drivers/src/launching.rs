//! A launch that leaves nothing behind: cancelled, or dropped with nobody to take its microVM.
//!
//! ```text
//!   under way ──▶ made ──▶ claimed by the caller
//!      │ cancelled, dropped  │ dropped
//!      └──────▶ cleared away ◀┘     whoever launches or adopts there meanwhile waits for that
//! ```
//!
//! It runs as a task of its own, since clearing away takes longer than dropping may.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::libc::SIGKILL;
use sandpen_vmm::driver::{DriverError, Launch, Vmm};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::step::failed;

/// How long whoever comes later waits for a runtime directory to be cleared away: longer than a waiter may take
/// to end.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);

/// The runtime directories in which a launch is under way; each token is cancelled at its end.
static UNDER_WAY: Mutex<BTreeMap<PathBuf, CancellationToken>> = Mutex::new(BTreeMap::new());

/// Has a runtime directory to itself until it is dropped.
struct UnderWay {
    runtime_dir: PathBuf,
    ended: CancellationToken,
}

impl UnderWay {
    /// Waits for an earlier launch in the directory to be over.
    async fn enter(runtime_dir: &Path) -> Self {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let earlier = {
                let mut all = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
                let earlier = all.get(runtime_dir).cloned().filter(|_| Instant::now() < deadline);
                if earlier.is_none() {
                    let ended = CancellationToken::new();
                    all.insert(runtime_dir.to_owned(), ended.clone());
                    return Self { runtime_dir: runtime_dir.to_owned(), ended };
                }
                earlier
            };
            if let Some(earlier) = earlier {
                let _ = timeout_at(deadline, earlier.cancelled()).await;
            }
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut all = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
        // A later one that did not wait any longer has taken its place.
        if all.get(&self.runtime_dir).is_some_and(|ended| *ended == self.ended) {
            all.remove(&self.runtime_dir);
        }
        self.ended.cancel();
    }
}

/// Waits for an abandoned launch in the directory to be cleared away.
pub(super) async fn settled(runtime_dir: &Path) {
    drop(UnderWay::enter(runtime_dir).await);
}

/// Made, and nobody's yet.
struct Unclaimed(Option<(Vmm, UnderWay)>);

impl Unclaimed {
    fn claim(mut self) -> Result<Vmm, DriverError> {
        self.0.take().map(|(vmm, _)| vmm).ok_or(DriverError::Cancelled)
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        let Some((vmm, under_way)) = self.0.take() else { return };
        // Without a runtime the whole program is about to end, and the next one adopts it.
        let Ok(runtime) = Handle::try_current() else { return };
        drop(runtime.spawn(async move {
            clear_away(vmm).await;
            drop(under_way);
        }));
    }
}

/// Ends a microVM that nobody wants. It tells itself what goes wrong.
async fn clear_away(vmm: Vmm) {
    let process = Arc::clone(&vmm.process);
    drop(vmm);
    let ended = process.signal_vmm(SIGKILL);
    if let Err(error) = process.release().await.and(ended) {
        tracing::warn!(error = error.chain(), "clearing up after a start that was given up");
    }
}

/// Runs `make`, which gives up soon after the token of the launch that it is given is cancelled, and leaves
/// nothing then. It is cancelled with `launch`'s own, and when this is dropped.
///
/// # Errors
/// Those of `make`; [`DriverError::Cancelled`].
pub(super) async fn launching<F>(
    launch: Launch,
    make: impl FnOnce(Launch) -> F + Send + 'static,
) -> Result<Vmm, DriverError>
where
    F: Future<Output = Result<Vmm, DriverError>> + Send + 'static,
{
    let cancel = launch.cancel.child_token();
    let _abandoned = cancel.clone().drop_guard();
    let launch = Launch { cancel: cancel.clone(), ..launch };
    let making = async move {
        let under_way = UnderWay::enter(&launch.runtime_dir).await;
        if cancel.is_cancelled() {
            return Err(DriverError::Cancelled);
        }
        let vmm = make(launch).await?;
        if cancel.is_cancelled() {
            clear_away(vmm).await;
            return Err(DriverError::Cancelled);
        }
        Ok(Unclaimed(Some((vmm, under_way))))
    };
    tokio::spawn(making.in_current_span())
        .await
        .unwrap_or_else(|error| Err(failed("making the microVM", error)))?
        .claim()
}
