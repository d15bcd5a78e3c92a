//! A driver without any process, for tests: every microVM is a script in the test's hands.
//!
//! The test takes each launched microVM as a [`FakeVmm`], tells its events and sees what was asked
//! of it. Adoption finds what an earlier monitor let go of.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::spec::{ByteString, KernelDigest, Network, SandboxSpec, TerminalSize};
use sandpen_vmm::driver::{
    Capabilities, Driver, DriverError, GuestSession, Launch, OPEN_FILES_OF_GUEST, ProbeOutcome, Vmm, VmmEvent,
    VmmProcess,
};
use sandpen_vmm::sessions::{GuestSessions, SessionError};
use tokio::sync::{Notify, mpsc};

use super::fake_sessions::FakeSessions;

/// What the monitor asked of a microVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The microVM was found again.
    Adopted,
    /// A signal for the workload.
    SignalWorkload(i32),
    /// The guest may power off.
    AcknowledgeExit,
    /// A signal for the VMM process.
    SignalVmm(i32),
    /// Bytes for the workload.
    Stdin(Vec<u8>),
    /// A command beside the workload; the test answers.
    Probe(Vec<ByteString>),
    /// The end of the workload's input.
    StdinEnd,
    /// Everything is recorded.
    Release,
}

/// A microVM in the test's hands.
pub struct FakeVmm {
    /// What it was launched with.
    pub launch: Launch,
    /// What is asked of it, in order.
    pub asked: mpsc::UnboundedReceiver<Asked>,
    shared: Arc<Shared>,
    stdout: File,
    stderr: File,
    probe_outcomes: mpsc::UnboundedSender<ProbeOutcome>,
}

struct Shared {
    events: Mutex<mpsc::Sender<VmmEvent>>,
    asked: mpsc::UnboundedSender<Asked>,
    outputs: [OwnedFd; 2],
    probe_outcomes: tokio::sync::Mutex<mpsc::UnboundedReceiver<ProbeOutcome>>,
    pid: u32,
    holds_releases: Arc<AtomicBool>,
    sessions: FakeSessions,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeVmm {
    /// Tells an event; false when nobody listens.
    pub async fn tell(&self, event: VmmEvent) -> bool {
        if matches!(event, VmmEvent::VmmExited(_)) {
            self.shared.sessions.lose();
        }
        let events = lock(&self.shared.events).clone();
        events.send(event).await.is_ok()
    }

    /// Its sessions.
    pub fn sessions(&self) -> &FakeSessions {
        &self.shared.sessions
    }

    /// The answer to one command beside the workload.
    pub fn answer_probe(&self, outcome: ProbeOutcome) {
        let _ = self.probe_outcomes.send(outcome);
    }

    /// The driver's own task dies: the events end.
    pub fn hang_up(&self) {
        *lock(&self.shared.events) = mpsc::channel(1).0;
    }

    /// The workload writes.
    ///
    /// # Errors
    /// The pipe's.
    pub fn write(&mut self, stream: OutputStream, bytes: &[u8]) -> std::io::Result<()> {
        match stream {
            OutputStream::Stdout => self.stdout.write_all(bytes),
            OutputStream::Stderr => self.stderr.write_all(bytes),
        }
    }

    /// The next thing asked of it.
    pub async fn next_asked(&mut self) -> Option<Asked> {
        self.asked.recv().await
    }
}

/// The driver; clones share everything.
#[derive(Clone)]
pub struct FakeDriver {
    launched: mpsc::UnboundedSender<FakeVmm>,
    living: Arc<Mutex<HashMap<PathBuf, Arc<Shared>>>>,
    refuse: Arc<Mutex<Option<String>>>,
    hinder: Arc<Mutex<Option<Errno>>>,
    holds_releases: Arc<AtomicBool>,
    holds_launches: Arc<AtomicBool>,
    launches_held: Arc<AtomicUsize>,
    lets_go: Arc<Notify>,
    holds_checks: Arc<AtomicBool>,
}

impl FakeDriver {
    /// The driver and where its microVMs arrive.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<FakeVmm>) {
        let (launched, arrivals) = mpsc::unbounded_channel();
        let driver = Self {
            launched,
            living: Arc::default(),
            refuse: Arc::default(),
            hinder: Arc::default(),
            holds_releases: Arc::default(),
            holds_launches: Arc::default(),
            launches_held: Arc::default(),
            lets_go: Arc::default(),
            holds_checks: Arc::default(),
        };
        (driver, arrivals)
    }

    /// From now on launches fail with these words (`None`: they work again).
    pub fn refuse(&self, words: Option<&str>) {
        *lock(&self.refuse) = words.map(str::to_owned);
    }

    /// From now on adoptions fail with this error of the system (`None`: they work again).
    pub fn hinder_adoption(&self, errno: Option<Errno>) {
        *lock(&self.hinder) = errno;
    }

    /// From now on a release that is asked for never ends (false: it does).
    pub fn hold_releases(&self, hold: bool) {
        self.holds_releases.store(hold, Ordering::SeqCst);
    }

    /// From now on a launch goes on until it is cancelled or let go (false: it is quick).
    pub fn hold_launches(&self, hold: bool) {
        self.holds_launches.store(hold, Ordering::SeqCst);
    }

    /// Lets one launch that is held go on.
    pub fn let_go(&self) {
        self.lets_go.notify_one();
    }

    /// How many launches have been held so far.
    pub fn launches_held(&self) -> usize {
        self.launches_held.load(Ordering::SeqCst)
    }

    /// From now on a check of a specification never ends (false: it is quick).
    pub fn hold_checks(&self, hold: bool) {
        self.holds_checks.store(hold, Ordering::SeqCst);
    }

    /// Nothing of the microVM in this runtime directory is left.
    pub fn forget(&self, runtime_dir: &Path) {
        lock(&self.living).remove(runtime_dir);
    }

    fn launch_now(&self, launch: Launch) -> Result<Vmm, DriverError> {
        if let Some(words) = lock(&self.refuse).clone() {
            return Err(DriverError::Launch { step: "making a fake microVM".to_owned(), source: words.into() });
        }
        let failed =
            |source: nix::Error| DriverError::Launch { step: "making a pipe".to_owned(), source: source.into() };
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK);
        let (stdout, stdout_writer) = pipe().map_err(failed)?;
        let (stderr, stderr_writer) = pipe().map_err(failed)?;
        let (asked, asked_receiver) = mpsc::unbounded_channel();
        let (events, _) = mpsc::channel(1);
        let mut living = lock(&self.living);
        let pid = u32::try_from(living.len()).unwrap_or(0) + 1_000_000;
        let (probe_outcomes, answers) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            events: Mutex::new(events),
            asked,
            outputs: [stdout, stderr],
            probe_outcomes: tokio::sync::Mutex::new(answers),
            pid,
            holds_releases: self.holds_releases.clone(),
            sessions: FakeSessions::default(),
        });
        let vmm = shared.hand_over()?;
        living.insert(launch.runtime_dir.clone(), shared.clone());
        let fake = FakeVmm {
            launch,
            asked: asked_receiver,
            shared,
            stdout: stdout_writer.into(),
            stderr: stderr_writer.into(),
            probe_outcomes,
        };
        let _ = self.launched.send(fake);
        Ok(vmm)
    }
}

impl Shared {
    fn hand_over(self: &Arc<Self>) -> Result<Vmm, DriverError> {
        let failed =
            |source: std::io::Error| DriverError::Launch { step: "copying a pipe".to_owned(), source: source.into() };
        let (sender, events) = mpsc::channel(16);
        *lock(&self.events) = sender;
        let outputs = vec![
            (OutputStream::Stdout, self.outputs[0].try_clone().map_err(failed)?),
            (OutputStream::Stderr, self.outputs[1].try_clone().map_err(failed)?),
        ];
        let half = Arc::new(FakeProcess(self.clone()));
        Ok(Vmm { process: half.clone(), guest: half, outputs, events })
    }
}

impl Driver for FakeDriver {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            networks: &[Network::None, Network::On, Network::Tsi, Network::User, Network::Published],
            terminals: false,
            kernels: false,
            open_files: OPEN_FILES_OF_GUEST,
            open_files_of_stdin: 0,
        }
    }

    fn check(&self, spec: Arc<SandboxSpec>) -> BoxFuture<'static, Result<Option<KernelDigest>, DriverError>> {
        let refused = spec.kernel.is_some().then(|| DriverError::no_kernel(self.name()));
        match self.holds_checks.load(Ordering::SeqCst) {
            true => futures::future::pending().boxed(),
            false => async { refused.map_or(Ok(None), Err) }.boxed(),
        }
    }

    fn kill(&self, launch: &Launch) {
        if let Some(shared) = lock(&self.living).get(&launch.runtime_dir) {
            let _ = shared.asked.send(Asked::SignalVmm(nix::libc::SIGKILL));
        }
    }

    fn launch(&self, launch: Launch) -> BoxFuture<'static, Result<Vmm, DriverError>> {
        if self.holds_launches.load(Ordering::SeqCst) {
            self.launches_held.fetch_add(1, Ordering::SeqCst);
            let this = self.clone();
            return async move {
                tokio::select! {
                    () = launch.cancel.cancelled() => Err(DriverError::Cancelled),
                    () = this.lets_go.notified() => this.launch_now(launch),
                }
            }
            .boxed();
        }
        let made = self.launch_now(launch);
        async move { made }.boxed()
    }

    fn adopt(&self, launch: Launch) -> BoxFuture<'static, Result<Vmm, DriverError>> {
        let shared = lock(&self.living).get(&launch.runtime_dir).cloned();
        let hinder = *lock(&self.hinder);
        async move {
            if let Some(errno) = hinder {
                let source = std::io::Error::from(errno);
                return Err(DriverError::Launch { step: "finding a fake microVM".to_owned(), source: source.into() });
            }
            let shared = shared.ok_or(DriverError::Gone)?;
            let vmm = shared.hand_over()?;
            let _ = shared.asked.send(Asked::Adopted);
            Ok(vmm)
        }
        .boxed()
    }
}

/// Both halves of a fake microVM.
struct FakeProcess(Arc<Shared>);

impl FakeProcess {
    fn ask(&self, asked: Asked) -> BoxFuture<'static, Result<(), DriverError>> {
        let sent = self.0.asked.send(asked).map_err(|_| DriverError::Gone);
        async move { sent }.boxed()
    }
}

impl VmmProcess for FakeProcess {
    fn pid(&self) -> Option<u32> {
        Some(self.0.pid)
    }

    fn signal_vmm(&self, signal: i32) -> Result<(), DriverError> {
        let _ = self.0.asked.send(Asked::SignalVmm(signal));
        Ok(())
    }

    fn release(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        let asked = self.ask(Asked::Release);
        match self.0.holds_releases.load(Ordering::SeqCst) {
            true => futures::future::pending().boxed(),
            false => asked,
        }
    }
}

impl GuestSession for FakeProcess {
    fn signal_workload(&self, signal: i32) -> BoxFuture<'static, Result<(), DriverError>> {
        self.ask(Asked::SignalWorkload(signal))
    }

    fn acknowledge_exit(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        self.ask(Asked::AcknowledgeExit)
    }

    fn write_stdin(&self, bytes: Vec<u8>) -> BoxFuture<'static, Result<(), DriverError>> {
        self.ask(Asked::Stdin(bytes))
    }

    fn close_stdin(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        self.ask(Asked::StdinEnd)
    }

    fn resize(&self, _: TerminalSize) -> BoxFuture<'static, Result<(), DriverError>> {
        async { Err(DriverError::NoTerminals) }.boxed()
    }

    fn probe(&self, command: Vec<ByteString>, _: Duration) -> BoxFuture<'static, Result<ProbeOutcome, DriverError>> {
        let shared = self.0.clone();
        async move {
            let _ = shared.asked.send(Asked::Probe(command));
            shared.probe_outcomes.lock().await.recv().await.ok_or(DriverError::Gone)
        }
        .boxed()
    }

    fn sessions(&self) -> Result<Arc<dyn GuestSessions>, SessionError> {
        Ok(Arc::new(self.0.sessions.clone()))
    }
}
