//! The log path: programs write as fast as they can, and what they write ends in rotated files. sandpen
//! (the process driver: everything but the guest) against `cat` into a file, s6-log, svlogd and conmon, one
//! of each a writer, on the same work, in turn, in one run.
//!
//! On all sides the writers are there first, and wait; the time goes from the moment when they may write until
//! the last byte is on file: what it costs to start and to end a program is another benchmark's.
//!
//! `make bench-logs`. Environment: `RUNS` (rounds; 5 by default), `MIB` (of each case; 2048 by default of
//! large writes and 512 of lines),
//! `CASE` (only that one, from 0), `PEERS` (where `scripts/bench-peers` has unpacked the others; without, only `cat`), `OUT` (a directory for
//! JSON and SVG). CPU time is that of the loggers alone: of this process for sandpen (its waiters sleep),
//! of each child for the others. Memory is the most that was resident: of this process beyond what it had before,
//! of all loggers together for the others (proportional set sizes).

#[path = "support/conmon.rs"]
mod conmon;
#[path = "support/report.rs"]
mod report;
#[path = "support/schedstat.rs"]
mod schedstat;

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use report::Report;
use sandpen::actors::driver::Drivers;
use sandpen::actors::spec::{DriverChoice, LogBacklog, LogLimits, Rootfs, SandboxKey, SandboxName, SandboxSpec};
use sandpen::actors::state_dir::StateDir;
use sandpen::actors::testing::process_driver::{self, ProcessDriver};
use sandpen::{Handle, Sandpen};
use schedstat::cpu_of;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The argument with which this program is a writer; the gate, bytes of one write and how many writes follow.
const WRITER: &str = "--as-writer";
/// All that log.
const LOGGERS: [&str; 5] = ["cat", "sandpen", "s6-log", "svlogd", "conmon"];
/// Until the first look at how much memory the loggers have, and between two: a look takes a while.
const MEMORY_LOOKS: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];
/// Between two looks at how many bytes are on file.
const LOOK: Duration = Duration::from_millis(5);
/// Bytes of a log file, and how many old ones are kept.
const LIMITS: LogLimits = LogLimits { max_bytes: 10 << 20, keep: 5, backlog: LogBacklog::Block };

struct Case {
    name: &'static str,
    writers: usize,
    write_bytes: usize,
}

const CASES: [Case; 4] = [
    Case { name: "1 writer, 64 KiB", writers: 1, write_bytes: 64 << 10 },
    Case { name: "200 writers, 64 KiB", writers: 200, write_bytes: 64 << 10 },
    Case { name: "1 writer, 100 B lines", writers: 1, write_bytes: 100 },
    Case { name: "200 writers, 100 B lines", writers: 200, write_bytes: 100 },
];

/// How long it took, the loggers' CPU time, and the most memory that they had, in MiB.
struct Figures {
    wall: Duration,
    cpu: Duration,
    memory_mib: f64,
}

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [first, gate, bytes, count] = arguments.as_slice()
        && first == WRITER
    {
        Gate::pass(Path::new(gate))?;
        return write_all(bytes.parse()?, count.parse()?);
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("bench logs: skipped (use `make bench-logs`)");
        return Ok(());
    }
    let number = |name: &str, default| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let runs = number("RUNS", 5);
    let peers = std::env::var_os("PEERS").map(PathBuf::from);
    let mut report = Report::new("logs", &["MB/s", "CPU s/GB", "× cat's MB/s", "× cat's CPU", "MiB memory"]);
    let wanted = std::env::var("CASE").ok().and_then(|case| case.parse::<usize>().ok());
    let mut kept = Vec::new();
    for (at, case) in CASES.into_iter().enumerate() {
        if wanted.is_some_and(|wanted| wanted != at) {
            continue;
        }
        let mib = number("MIB", if case.write_bytes > 100 { 2048 } else { 512 });
        let count = (mib << 20) / case.write_bytes / case.writers;
        let bytes = f64::from(u32::try_from(count * case.write_bytes * case.writers)?);
        for run in 0..=runs {
            let mut cat = None;
            for logger in LOGGERS {
                let dir = tempfile::tempdir()?;
                let gate = Gate::shut(dir.path())?;
                let figures = match (logger, &peers) {
                    ("sandpen", _) => through_sandpen(dir.path(), &case, count, gate)?,
                    ("cat", _) => by_peer("cat", Path::new(""), dir.path(), &case, count, gate)?,
                    (_, None) => continue,
                    (_, Some(peers)) => by_peer(logger, peers, dir.path(), &case, count, gate)?,
                };
                empty(dir.path())?;
                kept.push(dir);
                let speed = bytes / 1e6 / figures.wall.as_secs_f64();
                let cost = figures.cpu.as_secs_f64() / bytes * 1e9;
                let (cat_speed, cat_cost) = *cat.get_or_insert((speed, cost));
                // The first round warms caches and does not count.
                if run > 0 {
                    let memory = figures.memory_mib;
                    report.add(case.name, logger, vec![speed, cost, speed / cat_speed, cost / cat_cost, memory]);
                }
            }
        }
        println!("{}: {runs} rounds of {mib} MiB", case.name);
    }
    Ok(report.publish()?)
}

/// Empties all files, and removes none: ext4 does not use an inode again for minutes after its file was removed, looks
/// at each of them whenever a file is made, and one round would pay for those before it.
fn empty(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            empty(&entry.path())?;
        } else if kind.is_file() {
            File::options().write(true).open(entry.path())?.set_len(0)?;
        }
    }
    Ok(())
}

/// Holds the writers back: they wait for a shared lock on a file, and all get it when this one's is given back.
struct Gate {
    path: PathBuf,
    lock: File,
}

impl Gate {
    fn shut(dir: &Path) -> Result<Self> {
        let path = dir.join("gate");
        let lock = File::create(&path)?;
        lock.lock()?;
        Ok(Self { path, lock })
    }

    fn open(self) -> Result<Instant> {
        let begun = Instant::now();
        self.lock.unlock()?;
        Ok(begun)
    }

    fn pass(path: &Path) -> Result<()> {
        Ok(File::open(path)?.lock_shared()?)
    }

    /// Waits until so many writers wait (`->` lines of proc_locks(5)).
    fn await_writers(&self, count: usize) -> Result<()> {
        let inode = format!(":{} ", std::os::unix::fs::MetadataExt::ino(&self.lock.metadata()?));
        let begun = Instant::now();
        loop {
            let locks = fs::read_to_string("/proc/locks")?;
            let waiting = locks.lines().filter(|line| line.contains("->") && line.contains(&inode)).count();
            if waiting >= count {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_mins(1) {
                return Err(format!("{waiting} of {count} writers have come").into());
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn write_all(bytes: usize, count: usize) -> Result<()> {
    let mut line = vec![b'x'; bytes];
    line[bytes - 1] = b'\n';
    // Unbuffered: one write is one system call.
    let mut stdout = File::from(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned()?);
    for _ in 0..count {
        stdout.write_all(&line)?;
    }
    Ok(())
}

fn writer(case: &Case, count: usize, gate: &Gate) -> Result<[OsString; 5]> {
    Ok([
        std::env::current_exe()?.into_os_string(),
        WRITER.into(),
        gate.path.clone().into_os_string(),
        case.write_bytes.to_string().into(),
        count.to_string().into(),
    ])
}

/// A logger that reads its standard input and ends with it.
fn reader(logger: &str, peers: &Path, log: &Path) -> Result<Command> {
    Ok(match logger {
        "s6-log" => {
            let mut command = Command::new(peers.join("usr/bin/s6-log"));
            command.arg(format!("n{}", LIMITS.keep)).arg(format!("s{}", LIMITS.max_bytes)).arg(log);
            command
        }
        "svlogd" => {
            fs::create_dir(log)?;
            fs::write(log.join("config"), format!("s{}\nn{}\n", LIMITS.max_bytes, LIMITS.keep + 1))?;
            let mut command = Command::new(peers.join("usr/bin/svlogd"));
            command.arg(log);
            command
        }
        _ => {
            let mut command = Command::new("cat");
            command.stdout(File::create(log)?);
            command
        }
    })
}

/// A writer and a logger of its own, for each.
fn by_peer(logger: &str, peers: &Path, dir: &Path, case: &Case, count: usize, gate: Gate) -> Result<Figures> {
    let writer = writer(case, count, &gate)?;
    let mut children = Vec::new();
    for number in 0..case.writers {
        let mut source = None;
        let mut command = if logger == "conmon" {
            let mut command = conmon::command(peers, dir, number, &writer)?;
            command.args(["--log-size-max", &LIMITS.max_bytes.to_string()]);
            command
        } else {
            let mut source_command = Command::new(&writer[0]);
            let child = source_command.args(&writer[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
            let mut command = reader(logger, peers, &dir.join(number.to_string()))?;
            command.stdin(source.insert(child).stdout.take().ok_or("no pipe")?);
            command
        };
        command.env("LD_LIBRARY_PATH", peers.join("usr/lib/x86_64-linux-gnu")).stderr(Stdio::null());
        children.push((source, command.spawn()?));
    }
    gate.await_writers(case.writers)?;
    // What they did to get there is not the log path's.
    // Each has one thread.
    let cpu_of = |logger: &Child| cpu_of(Path::new(&format!("/proc/{}", logger.id())));
    let before = children.iter().map(|(_, logger)| cpu_of(logger)).sum::<Result<Duration>>()?;
    let memory = Memory::watch(children.iter().map(|(_, logger)| logger.id()).collect());
    let begun = gate.open()?;
    let mut cpu = Duration::ZERO;
    for (source, logger) in &mut children {
        if let Some(source) = source {
            source.wait()?;
        }
        waitid(Id::Pid(Pid::from_raw(logger.id().cast_signed())), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        cpu += cpu_of(logger)?;
    }
    let (wall, memory_mib) = (begun.elapsed(), memory.most_mib()?);
    for (_, mut logger) in children {
        logger.wait()?;
    }
    Ok(Figures { wall, cpu: cpu.saturating_sub(before), memory_mib })
}

/// Looks at how much memory processes have, together, on a thread of its own.
struct Memory {
    stop: mpsc::Sender<()>,
    most: std::thread::JoinHandle<f64>,
}

impl Memory {
    fn watch(pids: Vec<u32>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let look = move || {
            let (mut most, mut pause) = (0.0, MEMORY_LOOKS[0]);
            while stopped.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
                most = f64::max(most, pids.iter().map(|pid| pss_mib(*pid)).sum());
                pause = MEMORY_LOOKS[1];
            }
            most
        };
        Self { stop, most: std::thread::spawn(look) }
    }

    fn most_mib(self) -> Result<f64> {
        self.stop.send(())?;
        self.most.join().map_err(|_| "a panic".into())
    }
}

/// Proportional set size; none of a process that has ended.
fn pss_mib(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).map_or(0.0, |kib| kib / 1024.0)
}

fn own_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = |value: nix::sys::time::TimeVal| {
        Duration::from_secs(u64::try_from(value.tv_sec()).unwrap_or(0))
            + Duration::from_micros(u64::try_from(value.tv_usec()).unwrap_or(0))
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

/// All writers as sandboxes of one orchestrator, until each byte is on file.
fn through_sandpen(dir: &Path, case: &Case, count: usize, gate: Gate) -> Result<Figures> {
    let empty_mib = pss_mib(std::process::id());
    let state = dir.join("state");
    let driver = ProcessDriver::new(StateDir::new(state.clone()).bin());
    let sandpen = Sandpen::builder()
        .state_dir(&state)
        .data_dir(dir)
        .drivers(Drivers::default().with(Arc::new(driver)))
        .start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(async {
        let handle = sandpen.handle();
        let starts = (0..case.writers).map(|number| start(&handle, dir, case, count, number, &gate));
        let keys = futures::future::try_join_all(starts).await?;
        gate.await_writers(case.writers)?;
        let memory = Memory::watch(vec![std::process::id()]);
        let cpu = own_cpu()?;
        let begun = gate.open()?;
        let bytes = u64::try_from(case.write_bytes * count * case.writers)?;
        while on_file(&handle).await < bytes {
            tokio::time::sleep(LOOK).await;
        }
        let (wall, cpu) = (begun.elapsed(), own_cpu()?.saturating_sub(cpu));
        let memory_mib = memory.most_mib()? - empty_mib;
        for key in keys {
            let row = handle.wait(&key).await?;
            if !row.state.exit().is_some_and(sandpen::actors::state::ExitStatus::is_success) {
                return Err(format!("{key} is {}", row.state.status()).into());
            }
        }
        sandpen.shutdown(Some(Duration::ZERO)).await?;
        Ok::<_, Box<dyn Error>>(Figures { wall, cpu, memory_mib })
    })?;
    Ok(figures)
}

/// How many bytes the orchestrator has on file, of all logs together.
async fn on_file(handle: &Handle) -> u64 {
    let metrics = handle.metrics().await;
    metrics.iter().find(|metric| metric.name == "sandpen_log_bytes_total").map_or(0, |metric| metric.value)
}

async fn start(
    handle: &Handle,
    dir: &Path,
    case: &Case,
    count: usize,
    number: usize,
    gate: &Gate,
) -> Result<SandboxKey> {
    let command = writer(case, count, gate)?.into_iter().map(Into::into).collect();
    let name = SandboxName::new(format!("writer-{number}"))?;
    let spec = SandboxSpec {
        driver: DriverChoice::Named(process_driver::NAME.to_owned()),
        log: LIMITS,
        ..SandboxSpec::new(name, Rootfs::Native(dir.to_owned()), command)
    };
    let key = spec.key.clone();
    handle.start_sandbox(spec).await?;
    Ok(key)
}
