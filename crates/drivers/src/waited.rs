//! MicroVMs under a waiter with our PID 1 inside, whatever their VMM is: what is the same for all
//! drivers once they know what to start.
//!
//! ```text
//!   launch ──▶ waiter starts the processes ──▶ link with the guest ────────┐ events, merged
//!   adopt ──▶ waiter found ──▶ the VMM lives: link that asks ──────────────┤ by one task
//!                         └──▶ the VMM is gone: the pipes' last words ─────┤
//!                                                                          ▼
//!                      … [Faulted(CompanionLost)] VmmExited, always last
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::libc::SIGKILL;
use sandpen_guest::protocol::{PowerOff, RootfsSource, Volume};
use sandpen_types::error_chain::error_chain;
use sandpen_types::start_step::StartStep;
use sandpen_vmm::driver::{DriverError, Launch, Vmm};
use sandpen_vmm::start_timings::StartTimings;
use sandpen_vmm::waiter::{
    ProcessSpec, StdioSpec, WaitedVmm, WaiterError, WaiterSpec, open_fifo_read, prepare_runtime_dir,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

pub use self::pipes::PORTS;
pub(super) use self::pipes::fifos;
use self::pipes::{open, open_control, open_outputs};
use self::process::{Guest, WaitedProcess};
use super::confine::rights::{self, Rights};
use super::confine::{self, Needs, SandboxJail, cgroup};
use super::control::{self, LinkMode, StartFrame};
use super::image_root::Lease;
use super::sessions::{self, SessionLink};
use super::step::{blocking, failed};
use super::work::{Lane, Piece, Stop, WorkError};
use super::{launching, network, start_message};

mod last_words;
mod pipes;
mod process;
mod watch;

/// Events that may wait for the monitor: more than one microVM ever has.
const EVENTS: usize = 8;
/// Most bytes of the VMM's own messages and the guest's console: a guest can write there without end.
const VMM_LOG_LIMIT: u64 = 1 << 20;
/// How long it may take to try what a jail takes; newuidmap may ask a directory service.
const TRIAL_LIMIT: Duration = Duration::from_secs(30);
/// Variables of our environment that a VMM and its companions get; others may be secrets, and a VMM
/// is what a guest attacks first.
const INHERITED: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "TMPDIR"];

/// What a driver wants to be started.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The processes.
    pub(super) waiter: WaiterSpec,
    /// What the waiter locks, locked until it has.
    pub(super) lease: Option<Lease>,
    /// For the guest.
    pub(super) start: Box<StartFrame>,
    /// How long the guest may take until its workload runs.
    pub(super) boot_limit: Duration,
    /// The cgroup that the processes join, where there is one.
    pub(super) cgroup: Option<cgroup::CgroupPlan>,
    /// Where the steps of the start are noted.
    pub(super) timings: StartTimings,
    /// Cancelled when the start is given up.
    pub(super) cancel: CancellationToken,
}

/// What a driver has arranged for the guest.
#[derive(Debug, Clone)]
pub(super) struct GuestSetup {
    /// Where its `/` comes from.
    pub(super) rootfs: RootfsSource,
    /// Its volumes, in the order in which they are mounted.
    pub(super) volumes: Vec<Volume>,
    /// Tags of those that are one file.
    pub(super) files: Vec<String>,
    /// Its network, if it has one.
    pub(super) network: Option<network::NetworkPlan>,
}

/// The program whose hidden subcommands are called: `configured`, or this process's own.
pub(super) fn helper_program(configured: Option<&Path>) -> Result<PathBuf, DriverError> {
    match configured {
        Some(helper) => Ok(helper.to_owned()),
        None => own_program().map_err(|source| failed("finding sandpen's own program", source)),
    }
}

/// The program that this process runs.
///
/// # Errors
/// The system's.
pub(super) fn own_program() -> std::io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    // It may have been replaced on disk, for an upgrade: this process goes on with what it is.
    if program.exists() { Ok(program) } else { Ok(PathBuf::from(format!("/proc/{}/exe", std::process::id()))) }
}

/// The jails of a launch's processes.
pub(super) async fn jail(launch: &Launch, needs: Needs, helper: &Path) -> Result<SandboxJail, DriverError> {
    static TRIED: Lane<&'static Rights, TrialError> = Lane::new(1);
    let rights = if let Some(known) = rights::known() {
        Ok(known)
    } else {
        let piece = Piece {
            key: helper.display().to_string(),
            what: "trying what a jail takes".to_owned(),
            limit: TRIAL_LIMIT,
            advice: "see `sandpen doctor`",
        };
        let helper = helper.to_owned();
        let found = move |_: &Stop| rights::find(&helper).map_err(TrialError);
        TRIED.on_thread(piece, &launch.cancel, found).await
    };
    let rights = match rights {
        Err(error) if matches!(*error, WorkError::Cancelled) => return Err(DriverError::Cancelled),
        rights => rights.map_err(|error| error.to_string()),
    };
    SandboxJail::new(launch, needs, rights).map_err(|error| failed("confining the microVM", error))
}

/// Why no jail can be made, for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct TrialError(String);

/// What the waiter and the guest are told, once a driver knows its processes. The guest's part is on disk
/// from now on.
pub(super) fn prepared(
    launch: &Launch,
    waiter: WaiterSpec,
    lease: Option<Lease>,
    guest: GuestSetup,
    boot_limit: Duration,
    cgroup: Option<cgroup::CgroupPlan>,
) -> Result<Prepared, DriverError> {
    // A reset ends the machines of all drivers: neither QEMU's nor libkrun's has a power button.
    let mut start = control::start_message(&launch.spec, guest.rootfs, PowerOff::Reset)
        .map_err(|source| failed("getting random bytes for the guest", source))?;
    start.begin.start.volumes = guest.volumes;
    start.begin.settings.files = guest.files;
    network::tell(guest.network, &mut start.begin.start);
    prepare_runtime_dir(&launch.runtime_dir).map_err(|source| failed("making the runtime directory", source))?;
    start_message::write(&launch.runtime_dir, &start).map_err(|source| failed("keeping the start message", source))?;
    launch.timings.mark(StartStep::RootReady);
    let (timings, cancel) = (launch.timings.clone(), launch.cancel.clone());
    Ok(Prepared { waiter, lease, start: Box::new(start), boot_limit, cgroup, timings, cancel })
}

/// What the waiter is told.
pub(super) fn waiter_spec(
    launch: &Launch,
    processes: Vec<ProcessSpec>,
    jail: &SandboxJail,
    lease: Option<&Lease>,
) -> WaiterSpec {
    WaiterSpec {
        tags: vec![launch.tag()],
        fifos: fifos(),
        processes,
        namespaces: jail.namespaces(),
        vmm_log: launch.vmm_log.clone(),
        vmm_log_limit: VMM_LOG_LIMIT,
        leases: lease.into_iter().map(|lease| lease.path().to_owned()).collect(),
    }
}

/// A process whose output goes to the VMM log.
pub(super) fn process(role: &str, program: &Path, args: Vec<OsString>, stdin: StdioSpec) -> ProcessSpec {
    let env = INHERITED.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    ProcessSpec {
        role: role.to_owned(),
        program: program.to_owned(),
        args,
        env: env.collect(),
        clear_env: true,
        stdin,
        stdout: StdioSpec::VmmLog,
        stderr: StdioSpec::VmmLog,
        descriptors: Vec::new(),
    }
}

/// Starts a microVM and begins to watch it. `step` names that for people, for example "starting QEMU".
pub(super) async fn launch(
    runtime_dir: PathBuf,
    bin_dir: &Path,
    prepared: Prepared,
    step: &str,
) -> Result<Vmm, DriverError> {
    let Prepared { waiter, lease, start, boot_limit, cgroup, timings, cancel } = prepared;
    let started = StartedVmm::new(runtime_dir, bin_dir, waiter, cgroup, step, timings, &cancel).await?;
    // The waiter has its own by now.
    drop(lease);
    started.watch(LinkMode::Launch(start), boot_limit).await
}

/// The processes of a microVM that nobody watches yet.
pub(super) struct StartedVmm {
    waited: WaitedVmm,
    runtime_dir: PathBuf,
    cgroups: Vec<PathBuf>,
    timings: StartTimings,
}

impl StartedVmm {
    /// Starts them; where that fails, or is given up, nothing of them stays, nor of what is prepared for them.
    pub(super) async fn new(
        runtime_dir: PathBuf,
        bin_dir: &Path,
        waiter: WaiterSpec,
        cgroup: Option<cgroup::CgroupPlan>,
        step: &str,
        timings: StartTimings,
        cancel: &CancellationToken,
    ) -> Result<Self, DriverError> {
        let cgroups = cgroup.map(|plan| plan.paths()).unwrap_or_default();
        match WaitedVmm::launch_unless(cancel, &runtime_dir, bin_dir, waiter, &timings).await {
            Ok(waited) => {
                let started = Self { waited, runtime_dir, cgroups, timings };
                if cancel.is_cancelled() {
                    started.clear_away().await;
                    return Err(DriverError::Cancelled);
                }
                Ok(started)
            }
            Err(WaiterError::Cancelled) => {
                if let Err(error) = WaitedVmm::clear_away(&runtime_dir, bin_dir).await {
                    tracing::warn!(%error, "clearing up after a start that was given up");
                }
                Err(DriverError::Cancelled)
            }
            Err(error) => {
                remove_cgroups(cgroups).await;
                Err(failed(step, error))
            }
        }
    }

    /// Their waiter.
    pub(super) fn waited(&self) -> &WaitedVmm {
        &self.waited
    }

    /// Begins to watch them; where that fails nothing of them stays.
    pub(super) async fn watch(self, mode: LinkMode, boot_limit: Duration) -> Result<Vmm, DriverError> {
        let (dir, cgroups, timings) = (self.runtime_dir.clone(), self.cgroups.clone(), self.timings.clone());
        let begun = begin(&self.waited, dir, mode, boot_limit, cgroups, timings).await;
        if begun.is_err() {
            // Nobody will watch it: nothing of it may stay.
            self.clear_away().await;
        }
        begun
    }

    /// Ends them, if they have not ended, and removes what is left of them.
    pub(super) async fn clear_away(self) {
        let _ = self.waited.signal(SIGKILL);
        if let Err(error) = self.waited.release().await {
            tracing::warn!(%error, "clearing up after a microVM");
        }
        remove_cgroups(self.cgroups).await;
    }
}

/// Finds the microVM of an earlier daemon: it runs, or ended in the meantime. `boot_limit` is asked
/// when it runs; blocking.
pub(super) async fn adopt(
    runtime_dir: PathBuf,
    bin_dir: PathBuf,
    timings: StartTimings,
    boot_limit: impl FnOnce() -> Duration + Send + 'static,
) -> Result<Vmm, DriverError> {
    // A start that was abandoned there may be about to end what it made.
    launching::settled(&runtime_dir).await;
    let waited = match WaitedVmm::adopt(&runtime_dir, &bin_dir).await {
        Ok(waited) => waited,
        Err(WaiterError::Gone) => return Err(DriverError::Gone),
        Err(error) => return Err(failed("finding the microVM again", error)),
    };
    if waited.has_ended().map_err(|error| failed("looking at the VMM process", error))? {
        return ended(waited, runtime_dir).await;
    }
    let dir = runtime_dir.clone();
    let looked_up = blocking(move || {
        // Of use only to a guest that still waits for it; others go on without.
        let start = start_message::read(&dir).unwrap_or_else(|error| {
            tracing::warn!(error = error_chain(&error), ?dir, "a guest may wait in vain");
            None
        });
        Ok((boot_limit(), cgroups_of(&dir), start))
    });
    let (boot_limit, cgroups, start) = looked_up.await?;
    begin(&waited, runtime_dir, LinkMode::Adopt(start), boot_limit, cgroups, timings).await
}

/// Kills a microVM that cannot be adopted for the moment.
pub(super) fn kill(launch: &Launch) {
    if let Err(error) = WaitedVmm::kill(&launch.runtime_dir) {
        let error = error_chain(&error);
        tracing::warn!(sandbox = %launch.spec.key, error, "a microVM that cannot be adopted is not killed");
    }
}

/// The cgroups that the processes of an earlier daemon's microVM joined, as they tell it.
fn cgroups_of(runtime_dir: &Path) -> Vec<PathBuf> {
    let reports = confine::read(runtime_dir).unwrap_or_default().into_values();
    let mut paths: Vec<_> = reports.filter_map(|report| report.cgroup).flat_map(|cgroup| cgroup.paths).collect();
    // A process that a guest has taken over may have written the report.
    paths.retain(|path| cgroup::is_ours(path));
    paths.sort();
    paths.dedup();
    paths
}

/// Removes cgroups whose processes have ended. What cannot be removed is left to the next daemon.
async fn remove_cgroups(cgroups: Vec<PathBuf>) {
    let removed = blocking(move || cgroup::remove(&cgroups).map_err(|error| failed("removing the cgroup", error)));
    if let Err(error) = removed.await {
        tracing::warn!(error = error.chain(), "a microVM has left its cgroup");
    }
}

/// Opens the pipes of a running microVM and begins to watch it.
async fn begin(
    waited: &WaitedVmm,
    runtime_dir: PathBuf,
    mode: LinkMode,
    boot_limit: Duration,
    cgroups: Vec<PathBuf>,
    timings: StartTimings,
) -> Result<Vmm, DriverError> {
    let dir = runtime_dir.clone();
    let opened = blocking(move || {
        let sessions = sessions::check(&dir).map(|()| sessions::was_used(&dir));
        Ok((open_outputs(&dir)?, open_control(&dir)?, sessions))
    });
    let (outputs, fifos, sessions) = opened.await?;
    let (told, events) = mpsc::channel(EVENTS);
    let (link, listen) = control::open(fifos, mode, boot_limit, timings, told.clone())
        .map_err(|error| failed("watching the control port", error))?;
    let sessions = sessions.map(|was_used| {
        let link = SessionLink::new(runtime_dir);
        if was_used {
            // An earlier daemon's: their clients come back soon, or never.
            link.resume();
        }
        link
    });
    let sessions_end = sessions.as_ref().ok().map(SessionLink::end);
    // Its end closes the channel, which the monitor sees; it ends when the monitor is gone.
    let watch = watch::watch(waited.clone(), listen, sessions_end, told, cgroups.clone());
    drop(tokio::spawn(watch.in_current_span()));
    let process = WaitedProcess { waited: waited.clone(), cgroups };
    Ok(Vmm { process: Arc::new(process), guest: Arc::new(Guest { control: Some(link), sessions }), outputs, events })
}

/// A microVM that ended while no daemon was there: what it left, and its end.
async fn ended(waited: WaitedVmm, runtime_dir: PathBuf) -> Result<Vmm, DriverError> {
    let end = waited.ended().await;
    let (outputs, last_word, cgroups) = blocking(move || {
        let outputs = open_outputs(&runtime_dir)?;
        let control = open(&runtime_dir, "control.out", open_fifo_read)?;
        Ok((outputs, last_words::read(control), cgroups_of(&runtime_dir)))
    })
    .await?;
    let (sender, events) = mpsc::channel(EVENTS);
    let out_of_memory = watch::ran_out_of_memory(cgroups.clone()).await;
    for event in last_word.into_iter().chain(watch::events_of(&end, out_of_memory)) {
        // There is room for all, and the receiver is in our hand.
        let _ = sender.try_send(event);
    }
    // What its sessions said last was for a daemon that is gone: each says its own number first.
    let guest = Guest { control: None, sessions: Err(sessions::vmm_ended()) };
    Ok(Vmm { process: Arc::new(WaitedProcess { waited, cgroups }), guest: Arc::new(guest), outputs, events })
}
