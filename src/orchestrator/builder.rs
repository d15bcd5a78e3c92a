//! Building, starting and ending an orchestrator.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::channel::oneshot;
use sandpen_actors::database::CloseDatabase;
use sandpen_actors::runtime::intensity::RestartIntensity;
use sandpen_actors::supervisor::Shutdown;
use sandpen_drivers::HostOptions;
use sandpen_types::event::EventKind;
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::driver::Drivers;

use super::error::{SandpenError, StartError};
use super::handle::Handle;
use super::images::Images;
use super::lock::{self, StateLock};
use super::thread;

/// Settings of an orchestrator.
#[derive(Debug, Default)]
pub struct SandpenBuilder {
    state_dir: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    host: HostOptions,
    drivers: Option<Drivers>,
    intensity: RestartIntensity,
    reserve: Option<u64>,
    image_budget: Option<u64>,
}

impl SandpenBuilder {
    /// Where status, logs and runtime files lie; absolute. Made if missing, for this user only.
    /// Default: see [`crate::paths::default_state_dir`].
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Where guest kernels are installed. Default: see [`crate::paths::default_data_dir`].
    #[must_use]
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// The libkrunfw that the default drivers use; a relative path starts in the current directory.
    /// Default: the one that `SANDPEN_KRUNFW` names, else the installed one, else the system's.
    #[must_use]
    pub fn krunfw(mut self, path: impl Into<PathBuf>) -> Self {
        self.host.krunfw = Some(path.into());
        self
    }

    /// Whether the default drivers start microVMs only where the processes beside them can be put into jails and have
    /// lists of system calls. Default: where the host's root runs this process.
    #[must_use]
    pub fn require_confinement(mut self, demanded: bool) -> Self {
        self.host.require_confinement = Some(demanded);
        self
    }

    /// The drivers. Default: all that work on this host.
    #[must_use]
    pub fn drivers(mut self, drivers: Drivers) -> Self {
        self.drivers = Some(drivers);
        self
    }

    /// How often an actor may fail before more is done than to start it again: a sandbox whose monitor or
    /// log writer fails more often is FAILED; the database's and the supervisor's actor pause. Default: 5
    /// in 30 s.
    #[must_use]
    pub fn restart_intensity(mut self, intensity: RestartIntensity) -> Self {
        self.intensity = intensity;
        self
    }

    /// So many bytes stay free on the disk of the state directory for the sandboxes that are there: a new
    /// one is refused when less is free. Default: 64 MiB, or a twentieth of a disk smaller than 1.25 GiB.
    #[must_use]
    pub fn reserve(mut self, bytes: u64) -> Self {
        self.reserve = Some(bytes);
        self
    }

    /// The budget of the cache of the default drivers, in bytes: beyond it, the files that no sandbox uses and that were
    /// not used for longest go. Default: 16 GiB, or an eighth of a smaller disk.
    #[must_use]
    pub fn cache(mut self, bytes: u64) -> Self {
        self.host.cache = Some(bytes);
        self
    }

    /// The budget of the store of images in the data directory, in bytes, which is looked at when something came in: beyond
    /// it, images that no sandbox of this orchestrator has and that were not used for longest go. Default: 16 GiB, or an
    /// eighth of a smaller disk.
    #[must_use]
    pub fn image_budget(mut self, bytes: u64) -> Self {
        self.image_budget = Some(bytes);
        self
    }

    /// Takes the state directory, opens the database, takes over the microVMs of an earlier run and
    /// answers when all of this is done. Blocks for some milliseconds; from an async function call it
    /// through your runtime's `spawn_blocking` if that matters.
    ///
    /// # Errors
    /// [`StartError`]; nothing was changed then.
    pub fn start(self) -> Result<Sandpen, StartError> {
        let state_dir = StateDir::new(self.state_dir.unwrap_or_else(crate::paths::default_state_dir));
        let lock = lock::take(&state_dir)?;
        let data_dir = self.data_dir.unwrap_or_else(crate::paths::default_data_dir);
        let drivers = if let Some(drivers) = self.drivers {
            drivers
        } else {
            sandpen_drivers::detect(&state_dir, &data_dir, &self.host)?
        };
        let settings = thread::Settings { drivers, intensity: self.intensity, reserve: self.reserve };
        let started = thread::start(state_dir.clone(), settings)?;
        let images = Images::new(&data_dir, self.image_budget, self.reserve);
        let thread::Started { supervisor, database, faults, timings, .. } = &started;
        let (supervisor, database) = (supervisor.clone(), database.clone());
        let handle = Handle::new(supervisor, database, faults.clone(), timings.clone(), state_dir, &data_dir, images);
        Ok(Sandpen { handle, stop: Some(started.stop), thread: Some(started.thread), lock: Some(lock) })
    }
}

/// A running orchestrator. Dropping it lets go of the microVMs without ending them, as
/// `shutdown(None)` does, but without waiting.
#[derive(Debug)]
pub struct Sandpen {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    lock: Option<StateLock>,
}

impl Sandpen {
    /// An orchestrator to be set up.
    pub fn builder() -> SandpenBuilder {
        SandpenBuilder::default()
    }

    /// To use it, from any thread and runtime.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends the orchestrator: refuses new work, stops every sandbox (SIGTERM to the workloads, after
    /// `grace` SIGTERM and SIGKILL to the VMMs), drains every log, flushes the database, joins its
    /// threads. With `None` the microVMs go on and the next orchestrator of this state directory
    /// adopts them.
    ///
    /// # Errors
    /// [`SandpenError`] when a part of it had ended already; [`SandpenError::Unrecorded`] when the host kept the
    /// end of some from being recorded (a full disk). All threads are joined even then.
    pub async fn shutdown(mut self, grace: Option<Duration>) -> Result<(), SandpenError> {
        let ended = self.handle.supervisor().send(Shutdown { grace }).await.map_err(|_| SandpenError::Gone);
        let stopped = EventKind::OrchestratorStopped { pid: std::process::id(), sandboxes_ended: grace.is_some() };
        thread::record(self.handle.database(), stopped).await;
        let flushed = match self.handle.database().send(CloseDatabase).await {
            Ok(flushed) => flushed.map_err(SandpenError::from),
            Err(_) => Err(SandpenError::Gone),
        };
        let (joined, joining) = oneshot::channel();
        let stop = self.stop.take();
        let thread = self.thread.take();
        let lock = self.lock.take();
        // A thread of its own: joining blocks, and the caller may be on any runtime.
        let joiner = std::thread::Builder::new().name("sandpen-join".to_owned()).spawn(move || {
            drop(stop);
            let ended = thread.is_none_or(|thread| thread.join().is_ok());
            drop(lock);
            let _ = joined.send(ended);
        });
        match joiner {
            Ok(_) => {
                if joining.await != Ok(true) {
                    return Err(SandpenError::Gone);
                }
            }
            Err(_) => return Err(SandpenError::Gone),
        }
        let unrecorded = ended?;
        flushed?;
        match unrecorded.is_empty() {
            true => Ok(()),
            false => Err(SandpenError::Unrecorded { sandboxes: unrecorded }),
        }
    }
}
