//! Many idle microVMs at once: started through the daemon, against a bare loop over the same VMM
//! command, in turn, in one run. And a crash of one of them, which the others must not notice.
//!
//! `make bench-fleet`, or `cargo bench --bench fleet`. Environment: `SIZES` (how many microVMs; `1,10,100,1000` by
//! default), `RUNS` (pairs of each; 5 by default), `OUT` (a directory for JSON and SVG). Needs `/dev/kvm` and a C
//! compiler: the guest is a bare-metal program of `tests/guests` that halts once it has written a line.
//!
//! The program is its own daemon and its own VMM: it starts itself again for these.

#[path = "support/guest.rs"]
mod guest;
#[path = "../tests/support/guests.rs"]
#[allow(clippy::expect_used, reason = "made for tests")]
mod guests;
#[path = "support/pss.rs"]
mod pss;
#[path = "support/report.rs"]
mod report;
#[path = "support/schedstat.rs"]
mod schedstat;

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use nix::sys::stat::Mode;
use pss::pss_kib;
use report::Report;
use sandpen::actors::driver::Drivers;
use sandpen::actors::spec::{DriverChoice, Resources, Rootfs, SandboxName};
use sandpen::actors::state::Status;
use sandpen::actors::state_dir::StateDir;
use sandpen::api::CreateSandbox;
use sandpen::client::{Client, ClientOptions, DaemonCommand};
use sandpen::daemon::{self, DaemonOptions};
use sandpen::driver::HostOptions;
use sandpen::driver::krun::{BARE_NAME, KrunConfig, KrunDriver, bare_command_input, helper};
use sandpen::driver::qemu::args::PORTS;
use sandpen_guest::protocol::RootfsSource;
use schedstat::cpu_of;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Memory of one microVM in MiB, the least that a specification may have.
const MEMORY_MIB: u32 = 96;
/// MicroVMs that boot at the same time, on both sides: a guest that waits for its orders polls, and
/// takes the processors from those that boot.
const BOOTING: usize = 8;
/// The argument with which this program is the daemon; the state directory follows.
const DAEMON: &str = "--as-daemon";

/// For how long the daemon is watched while nothing happens.
const REST: Duration = Duration::from_secs(2);

/// One side of a pair.
struct Figures {
    /// Until every guest's first byte could be read, through the daemon from its log, and it was RUNNING in the
    /// database.
    up: Duration,
    /// Mean proportional set size of the VMM processes in KiB.
    pss_kib: f64,
    /// By how much the daemon's has grown for each of them.
    daemon_kib: f64,
    /// Of the daemon while nothing happens, in percent of a core.
    daemon_cpu: f64,
}

fn main() -> Result<()> {
    sandpen::run_helper_if_asked();
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == DAEMON) {
        return serve(arguments.next().ok_or("no state directory")?);
    }
    if std::env::var_os("CARGO_BENCH").is_none() && !std::env::args().any(|argument| argument == "--bench") {
        println!("bench fleet: skipped (use `make bench-fleet`)");
        return Ok(());
    }
    if !guests::kvm() {
        return Ok(());
    }
    let number =
        |name: &str, default: usize| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let runs = number("RUNS", 5);
    let sizes = std::env::var("SIZES").unwrap_or_else(|_| "1,10,100,1000".to_owned());
    let sizes: Vec<usize> = sizes.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
    let dir = tempfile::tempdir()?;
    let image = guests::build(dir.path(), "idle");
    let crash = guests::build(dir.path(), "crash");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report = Report::new(
        "fleet",
        &["s until all are up", "× bare", "KiB PSS a VMM", "KiB PSS of the daemon each", "its % of a core at rest"],
    );
    for size in sizes {
        for run in 0..=runs {
            // A state directory each: this measures starts, not a growing database. None is removed before the end.
            let home = dir.path().join(format!("{size}-{run}"));
            let bare = by_hand(&image, &home.join("bare"), size)?;
            let ours = runtime.block_on(through_daemon(&image, &home, size, &crash))?;
            let (bare_s, ours_s) = (bare.up.as_secs_f64(), ours.up.as_secs_f64());
            println!("{size}, pair {run}: bare {bare_s:.3} s, sandpen {ours_s:.3} s");
            // The first pair warms caches and does not count.
            if run > 0 {
                let case = format!("{size} started");
                report.add(&case, "bare loop", vec![bare_s, 1.0, bare.pss_kib, f64::NAN, f64::NAN]);
                let ours = vec![ours_s, ours_s / bare_s, ours.pss_kib, ours.daemon_kib, ours.daemon_cpu];
                report.add(&case, "sandpen", ours);
            }
        }
        println!("a triple fault in one more was FAILED with a reason each time, and the {size} ran on");
    }
    Ok(report.publish()?)
}

/// What the program does as daemon.
fn serve(state: OsString) -> Result<()> {
    let state_dir = PathBuf::from(state);
    let dir = StateDir::new(state_dir.clone());
    let driver = KrunDriver::bare(KrunConfig::new(dir, &state_dir));
    let drivers = Some(Drivers::default().with(Arc::new(driver)));
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

async fn through_daemon(image: &Path, home: &Path, fleet: usize, crash: &Path) -> Result<Figures> {
    let state_dir = home.join("state");
    let daemon =
        DaemonCommand { program: std::env::current_exe()?, args: vec![DAEMON.into(), state_dir.clone().into()] };
    let options = ClientOptions { state_dir: state_dir.clone(), daemon: Some(daemon) };
    let client = Client::connect(&options).await?;
    let spec = |name: String, image: &Path| -> Result<CreateSandbox> {
        let mut spec = CreateSandbox::new(SandboxName::new(name)?, Rootfs::Native(home.to_owned()), vec![image.into()]);
        spec.driver = DriverChoice::Named(BARE_NAME.to_owned());
        spec.resources = Resources { cpus: 1, memory_mib: MEMORY_MIB };
        Ok(spec)
    };
    let specs = (0..fleet).map(|number| spec(format!("vm{number}"), image)).collect::<Result<Vec<_>>>()?;
    let logs = StateDir::new(state_dir);
    let daemon: u32 = fs::read_to_string(logs.lock())?.trim().parse()?;
    let empty_kib = mean_pss(&[daemon])?;
    let begun = Instant::now();
    // Each answer says that RUNNING is durable in the database; a guest writes its line before.
    let started: Vec<_> = futures::stream::iter(&specs)
        .map(|spec| client.start_sandbox(spec))
        .buffer_unordered(BOOTING)
        .try_collect()
        .await?;
    for spec in &specs {
        while !fs::metadata(logs.log(&spec.key)).is_ok_and(|log| log.len() > 0) {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    }
    let up = begun.elapsed();
    let pids: Vec<u32> = started.iter().filter_map(|sandbox| sandbox.microvm_pid).collect();
    let pss_kib = mean_pss(&pids)?;
    let daemon_kib = (mean_pss(&[daemon])? - empty_kib) / f64::from(u32::try_from(fleet)?);
    let cpu = cpu_time(daemon)?;
    tokio::time::sleep(REST).await;
    let daemon_cpu = cpu_time(daemon)?.saturating_sub(cpu).as_secs_f64() / REST.as_secs_f64() * 100.0;

    let crashing = spec("crash".to_owned(), crash)?;
    // It may be over before its answer.
    let _ = client.start_sandbox(&crashing).await?;
    let crashed = client.wait(&options, &crashing.key).await?;
    let failure = crashed.failure.unwrap_or_default();
    if crashed.state != Status::Failed || failure.is_empty() {
        return Err(format!("a triple fault is {} {failure:?}", crashed.state).into());
    }
    let running = client.list(false).await?;
    let untouched =
        running.iter().filter(|sandbox| sandbox.state == Status::Running).filter_map(|sandbox| sandbox.microvm_pid);
    let mut untouched: Vec<u32> = untouched.collect();
    let mut expected = pids;
    untouched.sort_unstable();
    expected.sort_unstable();
    if untouched != expected || expected.len() != fleet {
        let all = client.list(true).await?;
        let ended = all.iter().filter(|sandbox| sandbox.is_ended() && sandbox.name != "crash");
        let ended: Vec<_> = ended.map(|sandbox| (&sandbox.name, &sandbox.state, &sandbox.failure)).collect();
        return Err(format!("{} of {fleet} run after a crash of another; ended: {ended:?}", untouched.len()).into());
    }
    // Bare guests know no SIGTERM: no grace.
    client.shutdown(Some(Duration::ZERO)).await?;
    Ok(Figures { up, pss_kib, daemon_kib, daemon_cpu })
}

/// The same processes by hand.
fn by_hand(image: &Path, home: &Path, fleet: usize) -> Result<Figures> {
    let input = bare_command_input(image.to_owned(), 1, MEMORY_MIB)?;
    let program = std::env::current_exe()?;
    let (next, children) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(fleet)));
    let begun = Instant::now();
    // Orders are given as soon as a guest asks for them, as the daemon does.
    let done: Vec<std::result::Result<(), String>> = std::thread::scope(|scope| {
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= fleet {
                    return Ok(());
                }
                let dir = home.join(number.to_string());
                let child = spawn_by_hand(&program, &input, &dir).map_err(|error| error.to_string())?;
                children.lock().map_err(|error| error.to_string())?.push(child);
                guest::converse(&dir, &[&image.to_string_lossy()], RootfsSource::Current)
                    .map_err(|error| error.to_string())?;
            }
        };
        let workers: Vec<_> = (0..BOOTING).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err("a panic".to_owned()))).collect()
    });
    let up = begun.elapsed();
    let mut children = children.into_inner()?;
    let pids: Vec<u32> = children.iter().map(Child::id).collect();
    let pss_kib = mean_pss(&pids);
    for child in &mut children {
        guest::end(child)?;
    }
    done.into_iter().collect::<std::result::Result<(), String>>()?;
    Ok(Figures { up, pss_kib: pss_kib?, daemon_kib: f64::NAN, daemon_cpu: f64::NAN })
}

fn spawn_by_hand(program: &Path, input: &[u8], dir: &Path) -> Result<Child> {
    fs::create_dir_all(dir)?;
    for (name, _) in PORTS {
        for end in ["in", "out"] {
            nix::unistd::mkfifo(&dir.join(format!("{name}.{end}")), Mode::S_IRWXU)?;
        }
    }
    let mut stdin = tempfile::tempfile()?;
    stdin.write_all(input)?;
    stdin.rewind()?;
    let log = fs::File::create(dir.join("log"))?;
    // A session each, as under the waiter: the kernel's scheduler may share time out by sessions. It
    // executes the program in its own place.
    let mut command = Command::new("setsid");
    command
        .arg(program)
        .args([helper::SUBCOMMAND, "bare"])
        .current_dir(dir)
        .stdin(stdin)
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(command.spawn()?)
}

/// On a processor, of all threads that a process has.
fn cpu_time(pid: u32) -> Result<Duration> {
    fs::read_dir(format!("/proc/{pid}/task"))?.map(|thread| cpu_of(&thread?.path())).sum()
}

/// Of several processes, in KiB.
fn mean_pss(pids: &[u32]) -> Result<f64> {
    let total = pids.iter().map(|pid| pss_kib(*pid)).sum::<Result<f64>>()?;
    Ok(total / f64::from(u32::try_from(pids.len().max(1))?))
}
