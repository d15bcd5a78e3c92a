//! How a monitor comes to its microVM: made, or found again. Commands are heard meanwhile.
//!
//! ```text
//!   launch ─────────────▶ microVM            stop, kill: the launch is cancelled, its sandbox STOPPED
//!   look for it ────────▶ microVM            stop, kill: carried out as soon as it is found
//!     ↻ the host lacks something for the moment  kill, end of a grace: by its records alone
//!     └ nothing is left ▶ FAILED (lost)
//! ```

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::libc::SIGTERM;
use sandpen_types::state::{Event, ExitStatus, FailureReason, SandboxState};
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::driver::{Driver, DriverError, Launch, Vmm};

use super::edges::After;
use super::life::Life;
use super::phase::Rest;
use super::{MonitorConfig, StartMode};
use crate::host::fault_of::fault_of_lack;
use crate::telemetry::counters::Counter;
use crate::telemetry::faults::{Faults, Place};

/// Pause before a microVM is looked for again that could not be found for lack of something.
const ADOPT_PAUSE: Duration = Duration::from_secs(1);

/// Makes the microVM or finds it.
pub(super) fn making(config: &mut MonitorConfig) -> BoxFuture<'static, Result<Vmm, DriverError>> {
    let (mode, is_starting) = (config.mode, config.row.state == SandboxState::Starting);
    let (driver, launch) = (config.driver.clone(), config.launch.clone());
    let (faults, stale_disk) = (config.faults.clone(), config.stale_disk.take());
    let refusal = config.refusal.take();
    let making = async move {
        match mode {
            StartMode::Launch => make_anew(&*driver, launch, stale_disk, refusal).await,
            StartMode::Adopt => adopt(&*driver, &launch, &faults).await,
            StartMode::Resume => match adopt(&*driver, &launch, &faults).await {
                // A microVM that ran would have left its waiter.
                Err(DriverError::Gone) if is_starting => make_anew(&*driver, launch, stale_disk, refusal).await,
                found => found,
            },
        }
    };
    making.boxed()
}

impl Life {
    /// The start failed or was given up, or nothing is left of an earlier microVM; the log is closed.
    pub(super) fn record_end_without_vmm(&mut self, error: &DriverError) -> Rest {
        let is_new = self.config.mode != StartMode::Adopt && self.found == SandboxState::Starting;
        if !is_new {
            let reason = match error {
                DriverError::Gone => FailureReason::Lost,
                error => FailureReason::Internal { message: error.chain() },
            };
            self.edges.push(Event::Faulted(reason), After::Nothing);
            self.edges.push(Event::VmmExited(ExitStatus::Unknown), After::Release);
            return Rest::Unknown;
        }
        if self.config.row.state == SandboxState::Starting {
            self.config.faults.count(Counter::StartFailures);
            if let Some(fault) = fault_of_lack(error) {
                self.config.faults.raise(Place::Start, fault, &error.chain());
            }
            let failed = FailureReason::SpawnFailed { message: error.chain() };
            self.edges.push(Event::SpawnFailed(failed), After::Release);
        } else {
            tracing::info!(%error, "its end was asked for before it had a microVM");
            // As for a guest that was told to stop before it executed the workload.
            self.edges.push(Event::VmmExited(ExitStatus::Signal(SIGTERM)), After::Release);
        }
        Rest::Nothing
    }
}

async fn make_anew(
    driver: &dyn Driver,
    launch: Launch,
    stale_disk: Option<PathBuf>,
    refusal: Option<DriverError>,
) -> Result<Vmm, DriverError> {
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    if let Some(disk) = stale_disk {
        let removed = blocking(move || match std::fs::remove_file(disk) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        let failed = |source| DriverError::Launch { step: "removing the disk of an earlier run".to_owned(), source };
        removed.await.map_err(|cut_off| failed(cut_off.into()))?.map_err(|source| failed(source.into()))?;
    }
    driver.launch(launch).await
}

/// Finds the microVM. It runs, so what the host lacks for the moment is waited for.
async fn adopt(driver: &dyn Driver, launch: &Launch, faults: &Faults) -> Result<Vmm, DriverError> {
    let place = Place::Adoption(launch.runtime_dir.clone());
    loop {
        let found = driver.adopt(launch.clone()).await;
        let lack = found.as_ref().err().and_then(|error| fault_of_lack(error).zip(Some(error.chain())));
        let Some((fault, message)) = lack else {
            faults.clear(&place);
            return found;
        };
        faults.raise(place.clone(), fault, &message);
        tokio::time::sleep(ADOPT_PAUSE).await;
    }
}
