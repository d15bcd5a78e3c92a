//! Actors that panic, of every kind and at every place, while sandboxes write, start and end: nobody
//! else notices. `SANDPEN_PANICS` says how many (1,000 else; figures are in `docs/benchmarks.md`),
//! `SANDPEN_SEED` in which order.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sandpen::{EventsOptions, Handle, Sandpen};
use sandpen_actors::runtime::intensity::RestartIntensity;
use sandpen_actors::testing::panic::{ActorKind, InjectPanic, PLACES};
use sandpen_actors::testing::process_driver::ProcessDriver;
use sandpen_types::event::EventKind;
use sandpen_types::history::HistoryPage;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{DriverChoice, Rootfs, SandboxKey, SandboxName, SandboxSpec};
use sandpen_types::state::{ExitStatus, SandboxState};
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::driver::Drivers;

use crate::support::dice::Dice;

const DEADLINE: Duration = Duration::from_mins(1);
/// Numbered lines, some thousands a second, for ever.
const LINES: &str = "i=0; while :; do i=$((i+1)); echo $i; [ $((i % 40)) = 0 ] && sleep 0.01; done";

fn start(root: &Path, intensity: RestartIntensity) -> Sandpen {
    let dir = &root.join("state");
    let drivers = Drivers::default().with(Arc::new(ProcessDriver::new(StateDir::new(dir.to_owned()).bin())));
    Sandpen::builder().state_dir(dir).drivers(drivers).restart_intensity(intensity).start().unwrap()
}

fn spec(dir: &Path, name: &str, script: &str) -> SandboxSpec {
    let command = ["sh", "-c", script].map(Into::into).to_vec();
    let mut spec = SandboxSpec::new(SandboxName::new(name).unwrap(), Rootfs::Native(dir.to_owned()), command);
    spec.driver = DriverChoice::Named("process".to_owned());
    spec
}

fn key(name: &str) -> SandboxKey {
    SandboxKey::new(SandboxName::new(name).unwrap())
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("within the deadline")
}

/// Injects one and waits until it is told that another actor took its place, and that one works.
async fn injected(handle: &Handle, events: &mut sandpen::Events, panic: InjectPanic) -> Duration {
    let begun = Instant::now();
    let word = match panic.actor {
        ActorKind::Supervisor => "supervisor",
        ActorKind::Monitor => "monitor",
        ActorKind::LogWriter => "log_writer",
        ActorKind::Database => "database",
        ActorKind::JobKeeper => "job_keeper",
    };
    while !soon(handle.inject_panic(panic.clone())).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    loop {
        let record = soon(events.next()).await.unwrap().expect("follows");
        if let Some(EventKind::ActorRestarted { actor, .. }) = record.known_kind()
            && actor == word
        {
            break;
        }
    }
    // The whole way: supervisor, monitor, log writer, database.
    let sandbox = panic.sandbox.unwrap_or_else(|| key("writer-0"));
    let options = sandpen::OutputOptions { follow: true, ..sandpen::OutputOptions::default() };
    drop(soon(handle.output(&sandbox, options)).await.unwrap());
    begun.elapsed()
}

/// All lines from 1 on, each once.
async fn check_log(handle: &Handle, name: &str) -> u64 {
    let mut output = handle.output(&key(name), sandpen::OutputOptions::default()).await.unwrap();
    let mut text = Vec::new();
    while let Some(chunk) = output.next().await.unwrap() {
        match chunk {
            sandpen_actors::log_writer::LogChunk::Bytes { bytes, .. } => text.extend_from_slice(&bytes),
            gap => panic!("{name}: {gap:?}"),
        }
    }
    let text = String::from_utf8(text).unwrap();
    let mut last = 0;
    for line in text.strip_suffix('\n').unwrap_or(&text).lines() {
        last += 1;
        assert_eq!(line, last.to_string(), "{name}: a line is lost, doubled or broken");
    }
    last
}

/// The processes whose working directory is below this one, removed or not: each waiter's is its runtime directory.
fn processes_in(dir: &Path) -> Vec<String> {
    let dir = dir.canonicalize().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let inside = processes
        .filter(|process| std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&dir)));
    inside.map(|process| std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default()).collect()
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

#[test]
fn panics_everywhere_are_noticed_by_nobody() {
    let number = |name, default| std::env::var(name).map_or(default, |text: String| text.parse().unwrap());
    let (count, seed) = (number("SANDPEN_PANICS", 1000), number("SANDPEN_SEED", 1));
    let dir = tempfile::tempdir().unwrap();
    actix_rt::System::new().block_on(async {
        let sandpen = start(dir.path(), RestartIntensity { limit: 1_000_000, window: Duration::from_secs(1) });
        let handle = sandpen.handle();
        let mut pids = Vec::new();
        for i in 0..4 {
            let row = soon(handle.start_sandbox(spec(dir.path(), &format!("writer-{i}"), LINES))).await.unwrap();
            assert_eq!(row.state, SandboxState::Running);
            pids.push(row.microvm_pid.unwrap());
        }
        // Others come and go meanwhile.
        let ending = Arc::new(AtomicBool::new(false));
        let (starter, root, is_ending) = (handle.clone(), dir.path().to_owned(), ending.clone());
        let visitors = actix_rt::spawn(async move {
            let mut visits = 0u32;
            while !is_ending.load(Ordering::SeqCst) {
                let name = format!("visitor-{visits}");
                let spec = spec(&root, &name, "echo here; exit 7");
                let started = soon(starter.start_sandbox(spec)).await.unwrap_or_else(|e| panic!("{name}: {e:?}"));
                let row = soon(starter.wait(&started.spec.key)).await.unwrap();
                assert_eq!(row.state, SandboxState::Stopped { exit: ExitStatus::Code(7) }, "{name}");
                assert_eq!(row.generation, 1, "{name} was started twice");
                soon(starter.remove(&key(&name), false)).await.unwrap_or_else(|e| panic!("{name}: {e:?}"));
                visits += 1;
            }
            visits
        });

        let mut events = handle.events(EventsOptions { follow: true, ..EventsOptions::default() }).await.unwrap();
        let kinds = [
            ActorKind::Supervisor,
            ActorKind::Monitor,
            ActorKind::LogWriter,
            ActorKind::Database,
            ActorKind::JobKeeper,
        ];
        let mut dice = Dice::new(seed);
        let mut times: [Vec<Duration>; 5] = Default::default();
        for i in 0..usize::try_from(count).unwrap() {
            // Every kind at every place, then again.
            let (kind, place) = (i % kinds.len(), PLACES[i / kinds.len() % PLACES.len()]);
            let sandbox = matches!(kinds[kind], ActorKind::Monitor | ActorKind::LogWriter | ActorKind::JobKeeper)
                .then(|| key(&format!("writer-{}", dice.below(3))));
            let panic = InjectPanic { actor: kinds[kind], place, sandbox };
            times[kind].push(injected(&handle, &mut events, panic).await);
        }

        ending.store(true, Ordering::SeqCst);
        let visits = soon(visitors).await.unwrap();
        for (i, pid) in pids.iter().enumerate() {
            let name = format!("writer-{i}");
            let row = handle.get(&key(&name)).await.unwrap().unwrap();
            assert_eq!(
                (&row.state, row.microvm_pid, row.generation),
                (&SandboxState::Running, Some(*pid), 1),
                "{name}"
            );
            let steps: Vec<_> =
                handle.history(&key(&name), HistoryPage::OLDEST).await.unwrap().into_iter().map(|t| t.event).collect();
            assert_eq!(steps, ["StartRequested", "WorkloadStarted"], "{name}");
            soon(handle.kill(&key(&name), 9)).await.unwrap();
            let lines = check_log(&handle, &name).await;
            assert!(lines > 100, "{name}: {lines}");
        }
        for (kind, times) in kinds.iter().zip(&mut times) {
            times.sort_unstable();
            let (half, most) = (percentile(times, 50), percentile(times, 99));
            println!("{kind:?}: {} panics, back within {half:.1?} (p50), {most:.1?} (p99)", times.len());
        }
        println!("seed {seed}; {visits} sandboxes came and went meanwhile");
        soon(sandpen.shutdown(Some(Duration::ZERO))).await.unwrap();
    });
    assert_eq!(processes_in(dir.path()), Vec::<String>::new(), "processes are left");
    for name in ["sandpen.db-wal", "sandpen.db-shm"] {
        assert!(!dir.path().join("state").join(name).exists(), "{name} is left");
    }
}

#[test]
fn a_sandbox_whose_monitor_fails_too_often_is_failed_and_its_neighbour_lives() {
    let dir = tempfile::tempdir().unwrap();
    actix_rt::System::new().block_on(async {
        let sandpen = start(dir.path(), RestartIntensity { limit: 2, window: Duration::from_mins(10) });
        let handle = sandpen.handle();
        let mut rows: Vec<SandboxRow> = Vec::new();
        for name in ["bad", "good"] {
            rows.push(soon(handle.start_sandbox(spec(dir.path(), name, LINES))).await.unwrap());
        }
        let panic = InjectPanic { actor: ActorKind::Monitor, place: PLACES[0], sandbox: Some(key("bad")) };
        let mut events = handle.events(EventsOptions { follow: true, ..EventsOptions::default() }).await.unwrap();
        for _ in 0..2 {
            injected(&handle, &mut events, panic.clone()).await;
        }
        assert!(soon(handle.inject_panic(panic)).await.unwrap());
        let bad = soon(handle.wait(&key("bad"))).await.unwrap();
        assert_eq!(bad.state.status(), sandpen::actors::state::Status::Failed);
        assert!(bad.state.failure().unwrap().to_string().contains("too often"), "{:?}", bad.state);
        let good = handle.get(&key("good")).await.unwrap().unwrap();
        assert_eq!((&good.state, good.microvm_pid), (&SandboxState::Running, rows[1].microvm_pid));
        soon(sandpen.shutdown(Some(Duration::ZERO))).await.unwrap();
    });
}
