//! Carries out the steps of a plan. A client runs beside what follows; `settle` waits for it.

mod starts;

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sandpen::actors::testing::panic::ActorKind;

use crate::checks::Files;
use crate::control::{Control, build_writer};
use crate::daemon::{self, Outage};

use crate::lines::Lines;
use crate::plan::{self, Action, Kind, Step};
use crate::report::Report;
use crate::service::Service;
use crate::support::full_disk::Disk;
use crate::support::{Home, guests, send_if_there, spawn};
use crate::world::{Ending, Life, Sandbox, Start, WaiterKilled, most};

/// What each live writer may write in a round, and in its life.
const ROUND_BYTES: u64 = 1 << 20;
const LIFE_BYTES: u64 = 24 << 20;
/// A round begins with so many live sandboxes at least.
const LEAST_LIVE: usize = 10;
/// So many that ended are kept.
const MOST_ENDED: usize = 12;
/// A guest that halts cannot answer a new daemon, which gives it up a minute later.
const HALTING_LIFE: Duration = Duration::from_secs(20);
/// Sandboxes that are there from the beginning.
const FIRST: [(Kind, usize); 3] = [(Kind::Writer, 10), (Kind::Halting, 2), (Kind::Linux, 1)];

pub struct Chaos {
    seed: u64,
    // Ended before its disk is taken away.
    pub home: Home,
    pub disk: Disk,
    /// Beside the disk, so that a full one does not stop the test's own files.
    tools: tempfile::TempDir,
    pub sandboxes: Vec<Sandbox>,
    /// Clients that run, with the place of their sandbox.
    pub clients: Vec<(usize, Child)>,
    pub outages: Vec<Outage>,
    disk_full_until: Option<Instant>,
    daemon_paused: Option<(u32, Instant)>,
    /// Whether this round did what may break a start.
    pub hindered: bool,
    /// Whether this round left sandboxes without daemon, monitor or log writer for a moment.
    pub unwatched: bool,
    service: Service,
    kvm: bool,
    next_name: usize,
    pub report: Report,
}

impl Chaos {
    pub fn new(seed: u64) -> Self {
        let disk = Disk::new();
        let home = Home::new_in(disk.path());
        let tools = tempfile::tempdir().unwrap();
        build_writer(tools.path());
        let kvm = guests::kvm();
        if kvm {
            guests::build(tools.path(), "lines");
            guests::build(tools.path(), "lines_halt");
        }
        home.rootfs();
        std::fs::create_dir(home.path().join("apart")).unwrap();
        let service = Service::start();
        let mut chaos = Self {
            seed,
            home,
            disk,
            tools,
            sandboxes: Vec::new(),
            clients: Vec::new(),
            outages: Vec::new(),
            disk_full_until: None,
            daemon_paused: None,
            hindered: false,
            unwatched: false,
            service,
            kvm,
            next_name: 0,
            report: Report::default(),
        };
        for (kind, count) in FIRST {
            for _ in 0..count {
                chaos.start(kind);
            }
        }
        chaos.settle();
        chaos
    }

    pub fn round(&mut self, number: u64) {
        let started = Instant::now();
        self.raise_limits();
        self.end_old_halting();
        self.service.renew();
        self.remove_old();
        let live = self.live().len();
        for _ in live..LEAST_LIVE {
            self.start(Kind::Writer);
        }
        self.hindered = false;
        self.unwatched = false;
        for sandbox in self.sandboxes.iter_mut().filter(|sandbox| sandbox.waiter_killed != WaiterKilled::Never) {
            sandbox.waiter_killed = WaiterKilled::Earlier;
        }
        for step in plan::round(self.seed, number) {
            std::thread::sleep(step.pause);
            self.end_what_is_due(Instant::now());
            self.carry_out(step);
        }
        self.end_what_is_due(Instant::now() + Duration::from_mins(1));
        let acted = started.elapsed();
        self.settle();
        let settled = started.elapsed();
        self.check();
        self.service.check();
        let (whole, live) = (started.elapsed(), self.live().len());
        println!(
            "round {number}: {live} run; steps {acted:.1?}, settled after {settled:.1?}, checked after {whole:.1?}"
        );
    }

    /// The seed and the daemon's own words, after a failure.
    pub fn explain(&self, round: u64) {
        println!("make chaos ROUNDS={round} SEED={}", self.seed);
        println!("{:#?}", plan::round(self.seed, round));
        let log = std::fs::read_to_string(self.home.state().join("daemon.log")).unwrap_or_default();
        // The same words again and again hide what began it.
        let mut lines: Vec<_> = log.lines().collect();
        lines.dedup_by_key(|line| line.get(27..).unwrap_or_default());
        println!("{}", lines[lines.len().saturating_sub(100)..].join("\n"));
    }

    /// Ends every sandbox; nothing is left.
    pub fn end(mut self) -> Report {
        for at in 0..self.sandboxes.len() {
            if self.sandboxes[at].life == Life::Live {
                self.make_end(at, Ending::Kill);
            }
        }
        self.settle();
        self.check();
        for at in 0..self.sandboxes.len() {
            self.remove(at);
        }
        self.settle();
        self.check();
        self.service.end();
        self.report
    }

    /// Keeps the logs of those that ended from filling the disk by themselves. They were checked.
    fn remove_old(&mut self) {
        let ended: Vec<_> = (0..self.sandboxes.len()).filter(|&at| self.sandboxes[at].life == Life::Ended).collect();
        for &at in &ended[..ended.len().saturating_sub(MOST_ENDED)] {
            self.remove(at);
        }
    }

    fn raise_limits(&self) {
        for sandbox in self.sandboxes.iter().filter(|sandbox| sandbox.life == Life::Live) {
            let start = sandbox.last_start();
            if let Some(control) = &start.control
                && start.from + control.limit() < LIFE_BYTES
            {
                control.raise_limit(ROUND_BYTES);
            }
        }
    }

    fn end_old_halting(&mut self) {
        for at in 0..self.sandboxes.len() {
            let sandbox = &self.sandboxes[at];
            if sandbox.kind == Kind::Halting && sandbox.life == Life::Live && sandbox.since.elapsed() > HALTING_LIFE {
                self.make_end(at, Ending::Kill);
            }
        }
    }

    fn end_what_is_due(&mut self, now: Instant) {
        if self.disk_full_until.is_some_and(|until| until <= now) {
            self.disk_full_until = None;
            self.disk.free();
        }
        if let Some((pid, until)) = self.daemon_paused
            && until <= now
        {
            self.daemon_paused = None;
            send_if_there(pid, Signal::SIGCONT);
        }
    }

    /// The chosen one of the sandboxes that fit.
    fn target(&self, step: Step, fits: impl Fn(&Sandbox) -> bool) -> Option<usize> {
        let fitting: Vec<_> = (0..self.sandboxes.len()).filter(|&at| fits(&self.sandboxes[at])).collect();
        let count = u64::try_from(fitting.len()).unwrap();
        (count > 0).then(|| fitting[usize::try_from(step.target % count).unwrap()])
    }

    fn live_target(&self, step: Step) -> Option<usize> {
        self.target(step, |sandbox| sandbox.life == Life::Live && !sandbox.paused)
    }

    fn carry_out(&mut self, step: Step) {
        self.hindered |= matches!(step.action, Action::KillDaemon | Action::KillAll | Action::FillDisk(_));
        self.unwatched |= matches!(
            step.action,
            Action::KillDaemon
                | Action::KillAll
                | Action::Panic(ActorKind::Monitor | ActorKind::LogWriter | ActorKind::JobKeeper, _)
        );
        let done = match step.action {
            Action::Start(kind) => self.may_start(kind).then(|| self.start(kind)),
            Action::Rerun => self
                .target(step, |sandbox| {
                    let written = sandbox.verified < LIFE_BYTES;
                    sandbox.life == Life::Ended && sandbox.kind == Kind::Writer && written
                })
                .map(|at| self.run(at)),
            Action::Finish(code) => self
                .target(step, |sandbox| sandbox.life == Life::Live && sandbox.kind == Kind::Writer)
                .map(|at| self.make_end(at, Ending::Code(code))),
            Action::Stop => self.live_target(step).map(|at| self.make_end(at, Ending::Stop)),
            Action::Kill => self.live_target(step).map(|at| self.make_end(at, Ending::Kill)),
            Action::Remove => self.target(step, |sandbox| sandbox.life == Life::Ended).map(|at| self.remove(at)),
            Action::KillVmm => self.live_target(step).map(|at| self.make_end(at, Ending::KillVmm)),
            Action::PauseVmm => self.live_target(step).map(|at| {
                self.sandboxes[at].paused = true;
                send_if_there(self.sandboxes[at].vmm.unwrap().0, Signal::SIGSTOP);
            }),
            Action::KillWaiter => self.live_target(step).and_then(|at| self.kill_waiter(at)),
            Action::KillAll => {
                let outage = daemon::kill_daemon(&self.home);
                for at in 0..self.sandboxes.len() {
                    if self.sandboxes[at].life == Life::Live {
                        self.kill_waiter(at);
                    }
                }
                outage.map(|outage| self.outages.push(outage))
            }
            Action::KillDaemon => daemon::kill_daemon(&self.home).map(|outage| self.outages.push(outage)),
            Action::PauseDaemon(time) => match self.daemon_paused {
                Some(_) => None,
                None => daemon::pid(&self.home).map(|pid| {
                    send_if_there(pid, Signal::SIGSTOP);
                    self.daemon_paused = Some((pid, Instant::now() + time));
                }),
            },
            Action::FillDisk(time) => self.disk.fill().then(|| {
                self.disk_full_until = Some(Instant::now() + time);
            }),
            Action::Panic(actor, place) => {
                let of_sandbox = matches!(actor, ActorKind::Monitor | ActorKind::LogWriter | ActorKind::JobKeeper);
                // Whoever is between two states is a target as well.
                let at = self.target(step, |sandbox| !matches!(sandbox.life, Life::Ended | Life::Removing));
                let sandbox = at.filter(|_| of_sandbox).map(|at| self.sandboxes[at].name.as_str());
                daemon::inject_panic(&self.home, actor, place, sandbox).then_some(())
            }
            Action::KillService => {
                self.service.kill_and_start();
                Some(())
            }
        };
        if done.is_some() {
            self.report.count(deed(step.action));
        }
    }

    fn kill_waiter(&mut self, at: usize) -> Option<()> {
        let pid = self.home.waiter(&self.sandboxes[at].name)?;
        send_if_there(pid, Signal::SIGKILL);
        self.sandboxes[at].waiter_killed = WaiterKilled::ThisRound;
        Some(())
    }

    /// `sandpen run` with the next lines.
    pub fn run(&mut self, at: usize) {
        let sandbox = &mut self.sandboxes[at];
        sandbox.life = Life::Starting;
        sandbox.complete = false;
        sandbox.final_length = None;
        sandbox.waiter_killed = WaiterKilled::Never;
        // No two starts of a name write the same line.
        let tried = u64::try_from(sandbox.starts.len()).unwrap();
        let base = 100_000_000_000_000 + tried * 1_000_000_000;
        let (lines, mut control) = match sandbox.kind {
            Kind::Writer | Kind::Linux => (Lines::From(base), None),
            Kind::Flood | Kind::Halting => (Lines::Blocks, None),
        };
        let control_path = self.tools.path().join(format!("{}.{tried}", sandbox.name));
        if sandbox.kind == Kind::Writer {
            let page = Control::create(&control_path);
            page.raise_limit(ROUND_BYTES);
            control = Some(page);
        }
        // An attempt that came to nothing may have written.
        let from = Files::open(&self.home.state().join("logs/default"), &sandbox.name).length();
        sandbox.starts.push(Start { lines, control, from });
        let (kind, name) = (sandbox.kind, sandbox.name.clone());
        let mut command =
            self.home.sandpen(&["run", "-d", "-n", &name, "--log-max-size", "512K", "--log-keep", "1000"]);
        // The root of what has no guest's file system: apart from the one that a guest may write to, of which none
        // may hold another.
        let (apart, tools): (PathBuf, PathBuf) = (self.home.path().join("apart"), self.tools.path().to_owned());
        match kind {
            Kind::Writer => command.args(["--driver", "process"]).arg(apart).arg("--").args([
                tools.join("writer"),
                control_path,
                base.to_string().into(),
            ]),
            Kind::Flood => command
                .args(["--driver", "krun-bare", "--memory", "96M"])
                .arg(apart)
                .arg("--")
                .arg(tools.join("lines.elf")),
            Kind::Halting => command
                .args(["--driver", "krun-bare", "--memory", "96M"])
                .arg(apart)
                .arg("--")
                .arg(tools.join("lines_halt.elf")),
            Kind::Linux => {
                let script = format!("i={base}; while :; do seq $i $((i+999)); i=$((i+1000)); sleep 0.3; done");
                command
                    .args(["--driver", "qemu", "--memory", "128M"])
                    .arg(self.home.rootfs())
                    .args(["--", "sh", "-c", &script])
            }
        };
        let client = spawn(command);
        self.clients.push((at, client));
    }

    /// The client of a command about one sandbox.
    fn client(&mut self, at: usize, args: &[&str]) {
        let mut command = self.home.sandpen(args);
        let client = command.arg(&self.sandboxes[at].name).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        self.clients.push((at, client.unwrap()));
    }

    pub fn make_end(&mut self, at: usize, ending: Ending) {
        let sandbox = &mut self.sandboxes[at];
        sandbox.life = Life::Ending(ending);
        match ending {
            Ending::Code(code) => sandbox.last_start().control.as_ref().unwrap().finish(code),
            Ending::KillVmm => send_if_there(sandbox.vmm.unwrap().0, Signal::SIGKILL),
            Ending::Stop | Ending::Kill => self.ask_to_end(at, ending),
        }
    }

    pub fn ask_to_end(&mut self, at: usize, ending: Ending) {
        match (ending, self.sandboxes[at].kind) {
            (Ending::Stop, Kind::Flood | Kind::Halting) => self.client(at, &["stop", "--time", "0"]),
            (Ending::Stop, _) => self.client(at, &["stop"]),
            _ => self.client(at, &["kill"]),
        }
    }

    pub fn remove(&mut self, at: usize) {
        self.sandboxes[at].life = Life::Removing;
        self.client(at, &["rm"]);
    }
}

fn deed(action: Action) -> &'static str {
    match action {
        Action::Start(Kind::Writer) => "writers started",
        Action::Start(Kind::Flood | Kind::Halting) => "microVMs of libkrun started",
        Action::Start(Kind::Linux) => "Linux microVMs of QEMU started",
        Action::Rerun => "sandboxes started again",
        Action::Finish(_) => "ended by themselves",
        Action::Stop => "stopped",
        Action::Kill => "killed",
        Action::Remove => "removed",
        Action::KillVmm => "VMMs killed",
        Action::PauseVmm => "VMMs paused",
        Action::KillWaiter => "waiters killed",
        Action::KillAll => "times the daemon and all waiters were killed",
        Action::KillDaemon => "daemons killed",
        Action::PauseDaemon(_) => "daemons paused",
        Action::FillDisk(_) => "times the disk was full",
        Action::Panic(ActorKind::Supervisor, _) => "supervisors panicked",
        Action::Panic(ActorKind::Database, _) => "database actors panicked",
        Action::Panic(ActorKind::Monitor, _) => "monitors panicked",
        Action::Panic(ActorKind::LogWriter, _) => "log writers panicked",
        Action::Panic(ActorKind::JobKeeper, _) => "keepers of jobs panicked",
        Action::KillService => "embedding services killed",
    }
}
