//! A restart storm and a flood: many sandboxes die at once and are started again without a pause, or write
//! as fast as they can, while somebody asks the daemon about one of them over its socket. Host processes (the process
//! driver) as microVMs; of the flood's, some are microVMs of libkrun that write through a virtio console.
//!
//! `make bench-storm`. Environment: `SIZE` (sandboxes of the storm; 1,000 by default), `FLOODS` (writers of
//! the flood; 200 by default), `GUESTS` (how many of these are microVMs; 10 by default, none without `/dev/kvm`),
//! `REST` (seconds before and after, and of the flood; 5 by default), `RUNS` (rounds; 5 by default), `OUT` (a
//! directory for JSON and SVG).
//!
//! The program is its own daemon and its own VMM: it starts itself again for these.

#[path = "../tests/support/guests.rs"]
#[allow(clippy::expect_used, reason = "made for tests")]
mod guests;
#[path = "support/report.rs"]
mod report;

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use report::Report;
use sandpen::actors::driver::Drivers;
use sandpen::actors::event::EventKind;
use sandpen::actors::spec::{DriverChoice, Resources, RestartBackoff, RestartPolicy, Rootfs, SandboxKey, SandboxName};
use sandpen::actors::state::SandboxState;
use sandpen::actors::state_dir::StateDir;
use sandpen::actors::testing::process_driver::{self, ProcessDriver};
use sandpen::api::CreateSandbox;
use sandpen::client::{Client, ClientOptions, DaemonCommand, EventReader, EventsRequest};
use sandpen::daemon::{self, DaemonOptions};
use sandpen::driver::HostOptions;
use sandpen::driver::krun::{BARE_NAME, KrunConfig, KrunDriver};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The argument with which this program is the daemon; the state directory follows.
const DAEMON: &str = "--as-daemon";
/// Starts by request that are under way at the same time.
const STARTING: usize = 32;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(5);
/// Longest storm, after which the run has failed.
const LIMIT: Duration = Duration::from_mins(2);
/// Memory of a microVM in MiB, the least that a specification may have.
const MEMORY_MIB: u32 = 96;
/// What a sandbox of the storm does.
const IDLE: [&str; 2] = ["/bin/sleep", "100000"];

fn main() -> Result<()> {
    sandpen::run_helper_if_asked();
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == DAEMON) {
        return serve(arguments.next().ok_or("no state directory")?);
    }
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("bench storm: skipped (use `make bench-storm`)");
        return Ok(());
    }
    let number =
        |name: &str, default: usize| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let (size, floods, runs) = (number("SIZE", 1000), number("FLOODS", 200), number("RUNS", 5));
    let rest = Duration::from_secs(u64::try_from(number("REST", 5))?);
    let guests = if guests::kvm() { number("GUESTS", 10).min(floods) } else { 0 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut storms = Report::new("storm", &["s until all run", "× bare"]);
    let mut latencies = Report::new("latency", &["p50 ms", "p99 ms", "most ms", "questions"]);
    // One round is not to pay for the files that the one before has removed.
    let kept = tempfile::tempdir()?;
    let image = if guests > 0 { guests::build(kept.path(), "flood") } else { PathBuf::new() };
    let writers = Writers { processes: floods - guests, guests, image };
    for run in 1..=runs {
        let bare = by_hand(size)?;
        storms.add(&format!("{size} started"), "bare loop", vec![bare, 1.0]);
        let dir = kept.path().join(format!("storm-{run}"));
        let storm = runtime.block_on(storm(&dir, size, rest, &mut latencies))?;
        storms.add(&format!("{size} started"), "sandpen", vec![storm.started, storm.started / bare]);
        storms.add(
            &format!("{size} started again after one SIGKILL each"),
            "sandpen",
            vec![storm.again, storm.again / bare],
        );
        runtime.block_on(flood(&kept.path().join(format!("flood-{run}")), &writers, rest, &mut latencies))?;
        println!("round {run}: bare {bare:.2} s, started {:.2} s, again {:.2} s", storm.started, storm.again);
    }
    storms.publish()?;
    Ok(latencies.publish()?)
}

/// What the program does as daemon.
fn serve(state: OsString) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let state_dir = PathBuf::from(state);
    let dir = StateDir::new(state_dir.clone());
    let drivers = Drivers::default().with(Arc::new(ProcessDriver::new(dir.bin())));
    let drivers = Some(drivers.with(Arc::new(KrunDriver::bare(KrunConfig::new(dir, &state_dir)))));
    Ok(daemon::run(&DaemonOptions {
        data_dir: state_dir.clone(),
        state_dir,
        background: true,
        stop_sandboxes: None,
        reserve: None,
        image_budget: None,
        drivers,
        host: HostOptions::default(),
    })?)
}

/// The same processes by hand, each in a session of its own and with pipes: seconds until all run.
fn by_hand(size: usize) -> Result<f64> {
    let begun = Instant::now();
    let mut children: Vec<Child> = Vec::with_capacity(size);
    let started = (0..size).try_for_each(|_| {
        let mut command = Command::new("setsid");
        command.args(["/usr/bin/env", "-C", "/"]).args(IDLE);
        // Given back when it has executed.
        children.push(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
        Ok::<_, Box<dyn Error>>(())
    });
    let elapsed = begun.elapsed().as_secs_f64();
    for child in &mut children {
        child.kill()?;
        child.wait()?;
    }
    started.map(|()| elapsed)
}

fn spec(name: &str, dir: &Path, command: &[&str]) -> Result<CreateSandbox> {
    let command = command.iter().map(|word| (*word).into()).collect();
    Ok(CreateSandbox {
        driver: DriverChoice::Named(process_driver::NAME.to_owned()),
        restart: RestartPolicy::Always,
        restart_backoff: RestartBackoff { initial: Duration::ZERO, ..RestartBackoff::default() },
        ..CreateSandbox::new(SandboxName::new(name)?, Rootfs::Native(dir.to_owned()), command)
    })
}

async fn connect(dir: &Path) -> Result<(Client, ClientOptions)> {
    let state_dir = dir.join("state");
    let daemon =
        DaemonCommand { program: std::env::current_exe()?, args: vec![DAEMON.into(), state_dir.clone().into()] };
    let client = Client::connect(&ClientOptions { state_dir: state_dir.clone(), daemon: Some(daemon) }).await?;
    Ok((client, ClientOptions { state_dir, daemon: None }))
}

/// Asks about one sandbox again and again, on a thread of its own: it waits for nobody but the daemon.
struct Asker {
    stop: Arc<AtomicBool>,
    times: std::thread::JoinHandle<std::result::Result<Vec<f64>, String>>,
}

impl Asker {
    fn start(client: &Client, key: &SandboxKey) -> Self {
        let (stop, client, key) = (Arc::new(AtomicBool::new(false)), client.clone(), key.clone());
        let asked_to_stop = Arc::clone(&stop);
        let ask = move || -> Result<Vec<f64>> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let mut times = Vec::new();
            while !asked_to_stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                runtime.block_on(client.inspect(&key))?;
                times.push(begun.elapsed().as_secs_f64() * 1e3);
                std::thread::sleep(PAUSE);
            }
            Ok(times)
        };
        let times = std::thread::spawn(move || ask().map_err(|error| error.to_string()));
        Self { stop, times }
    }

    /// Ends it; its figures in the order of [`main`]'s columns.
    fn figures(self) -> Result<Vec<f64>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.times.join().map_err(|_| "the asker panicked")??;
        times.sort_unstable_by(f64::total_cmp);
        let last = times.len().checked_sub(1).ok_or("nothing was asked")?;
        let at = |share: usize| times[(times.len() * share / 100).min(last)];
        Ok(vec![at(50), at(99), at(100), f64::from(u32::try_from(times.len())?)])
    }
}

/// Seconds.
struct Storm {
    started: f64,
    again: f64,
}

async fn storm(dir: &Path, size: usize, rest: Duration, latencies: &mut Report) -> Result<Storm> {
    let (client, options) = connect(dir).await?;
    let names: Vec<_> = (0..size).map(|number| format!("idle-{number}")).collect();
    let specs = names.iter().map(|name| spec(name, dir, &IDLE)).collect::<Result<Vec<_>>>()?;
    let key = specs.first().ok_or("SIZE is 0")?.key.clone();
    let begun = Instant::now();
    let all: Vec<_> = futures::stream::iter(&specs)
        .map(|spec| client.start_sandbox(spec))
        .buffer_unordered(STARTING)
        .try_collect()
        .await?;
    let started = begun.elapsed().as_secs_f64();

    let asker = Asker::start(&client, &key);
    tokio::time::sleep(rest).await;
    latencies.add(&format!("{size} idle"), "sandpen", asker.figures()?);

    let follow = EventsRequest { follow: true, ..EventsRequest::default() };
    let mut events = client.events(&options, follow).await?;
    let generations: HashMap<_, _> = all.iter().map(|sandbox| (sandbox.name.clone(), sandbox.generation)).collect();
    let pids: Vec<_> = all.iter().filter_map(|sandbox| sandbox.microvm_pid).collect();
    let asker = Asker::start(&client, &key);
    let begun = Instant::now();
    for pid in pids {
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
    }
    tokio::time::timeout(LIMIT, all_again(&mut events, generations)).await??;
    let again = begun.elapsed().as_secs_f64();
    latencies.add(&format!("{size} started again"), "sandpen", asker.figures()?);

    let asker = Asker::start(&client, &key);
    tokio::time::sleep(rest).await;
    latencies.add(&format!("{size} idle, after it"), "sandpen", asker.figures()?);
    client.shutdown(Some(Duration::ZERO)).await?;
    Ok(Storm { started, again })
}

/// Returns when each sandbox has reached RUNNING in a later generation.
async fn all_again(events: &mut EventReader, mut generations: HashMap<String, u64>) -> Result<()> {
    while !generations.is_empty() {
        let event = events.next().await?.ok_or("the events ended")?;
        let Some(EventKind::Transition { generation, state: SandboxState::Running, .. }) = event.known_kind() else {
            continue;
        };
        if let Some(name) = event.name
            && generations.get(&name).is_some_and(|before| generation > *before)
        {
            generations.remove(&name);
        }
    }
    Ok(())
}

/// Who writes in a flood.
struct Writers {
    processes: usize,
    guests: usize,
    /// What the guests run: 256 MiB in the largest writes that they can, and again.
    image: PathBuf,
}

async fn flood(dir: &Path, writers: &Writers, rest: Duration, latencies: &mut Report) -> Result<()> {
    let (client, _) = connect(dir).await?;
    let idle = spec("idle", dir, &IDLE)?;
    client.start_sandbox(&idle).await?;
    for number in 0..writers.guests {
        let mut guest = spec(&format!("guest-{number}"), dir, &[])?;
        guest.command = vec![writers.image.clone().into()];
        guest.driver = DriverChoice::Named(BARE_NAME.to_owned());
        guest.resources = Resources { cpus: 1, memory_mib: MEMORY_MIB };
        client.start_sandbox(&guest).await?;
    }
    for number in 0..writers.processes {
        client.start_sandbox(&spec(&format!("flood-{number}"), dir, &["/usr/bin/yes"])?).await?;
    }
    let asker = Asker::start(&client, &idle.key);
    tokio::time::sleep(rest).await;
    let case = format!("{} processes and {} microVMs flood their logs", writers.processes, writers.guests);
    latencies.add(&case, "sandpen", asker.figures()?);
    client.shutdown(Some(Duration::ZERO)).await?;
    Ok(())
}
