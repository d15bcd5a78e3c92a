//! The log path: programs write as fast as they can, and what they write ends in rotated files. sandpen
//! (the process driver: everything but the guest) against `cat` into a file, s6-log and svlogd, one
//! of each a writer, on the same work, in turn, in one run.
//!
//! `make bench-logs`. Environment: `RUNS` (rounds; 5 by default), `MIB` (of each case; 512 by default),
//! `PEERS` (where `scripts/bench-peers` has unpacked the others; without, only `cat`), `OUT` (a directory for
//! JSON and SVG). CPU time is that of the loggers alone: of this process for sandpen (its waiters sleep),
//! of each child for the others.

#[path = "support/report.rs"]
mod report;

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use report::Report;
use sandpen::actors::driver::Drivers;
use sandpen::actors::process_driver::{self, ProcessDriver};
use sandpen::actors::spec::{DriverChoice, LogBacklog, LogLimits, Rootfs, SandboxName, SandboxSpec};
use sandpen::actors::state_dir::StateDir;
use sandpen::{Handle, Sandpen};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The argument with which this program is a writer; bytes of one write and how many writes follow.
const WRITER: &str = "--as-writer";
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

/// How long it took, and the loggers' CPU time.
struct Figures {
    wall: Duration,
    cpu: Duration,
}

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [first, bytes, count] = arguments.as_slice()
        && first == WRITER
    {
        return write_all(bytes.parse()?, count.parse()?);
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("bench logs: skipped (use `make bench-logs`)");
        return Ok(());
    }
    let number = |name: &str, default| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let (runs, mib) = (number("RUNS", 5), number("MIB", 512));
    let peers = std::env::var_os("PEERS").map(PathBuf::from);
    let mut report = Report::new("logs", &["MB/s", "CPU s/GB", "× cat's MB/s", "× cat's CPU"]);
    for case in CASES {
        let count = (mib << 20) / case.write_bytes / case.writers;
        let bytes = f64::from(u32::try_from(count * case.write_bytes * case.writers)?);
        for run in 0..=runs {
            let mut cat = None;
            for logger in ["cat", "sandpen", "s6-log", "svlogd"] {
                let dir = tempfile::tempdir()?;
                let figures = match (logger, &peers) {
                    ("sandpen", _) => through_sandpen(dir.path(), &case, count)?,
                    ("cat", _) => by_peer("cat", Path::new(""), dir.path(), &case, count)?,
                    (_, None) => continue,
                    (_, Some(peers)) => by_peer(logger, peers, dir.path(), &case, count)?,
                };
                let speed = bytes / 1e6 / figures.wall.as_secs_f64();
                let cost = figures.cpu.as_secs_f64() / bytes * 1e9;
                let (cat_speed, cat_cost) = *cat.get_or_insert((speed, cost));
                // The first round warms caches and does not count.
                if run > 0 {
                    report.add(case.name, logger, vec![speed, cost, speed / cat_speed, cost / cat_cost]);
                }
            }
        }
        println!("{}: {runs} rounds of {mib} MiB", case.name);
    }
    Ok(report.publish()?)
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

fn writer(case: &Case, count: usize) -> Result<[OsString; 4]> {
    Ok([
        std::env::current_exe()?.into_os_string(),
        WRITER.into(),
        case.write_bytes.to_string().into(),
        count.to_string().into(),
    ])
}

/// A writer and a logger of its own behind a pipe, for each.
fn by_peer(logger: &str, peers: &Path, dir: &Path, case: &Case, count: usize) -> Result<Figures> {
    let [program, arguments @ ..] = writer(case, count)?;
    let libraries = peers.join("usr/lib/x86_64-linux-gnu");
    let begun = Instant::now();
    let mut children = Vec::new();
    for number in 0..case.writers {
        let mut source = Command::new(&program).args(&arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let input = source.stdout.take().ok_or("no pipe")?;
        let log = dir.join(number.to_string());
        let mut command = match logger {
            "s6-log" => {
                let mut command = Command::new(peers.join("usr/bin/s6-log"));
                command.arg(format!("n{}", LIMITS.keep)).arg(format!("s{}", LIMITS.max_bytes)).arg(&log);
                command
            }
            "svlogd" => {
                fs::create_dir(&log)?;
                fs::write(log.join("config"), format!("s{}\nn{}\n", LIMITS.max_bytes, LIMITS.keep + 1))?;
                let mut command = Command::new(peers.join("usr/bin/svlogd"));
                command.arg(&log);
                command
            }
            _ => {
                let mut command = Command::new("cat");
                command.stdout(File::create(&log)?);
                command
            }
        };
        command.env("LD_LIBRARY_PATH", &libraries).stdin(input).stderr(Stdio::null());
        children.push((source, command.spawn()?));
    }
    let mut cpu = Duration::ZERO;
    for (mut source, mut logger) in children {
        source.wait()?;
        cpu += cpu_of(&mut logger)?;
    }
    Ok(Figures { wall: begun.elapsed(), cpu })
}

/// The CPU time of a child with one thread, when it has ended.
fn cpu_of(child: &mut Child) -> Result<Duration> {
    waitid(Id::Pid(Pid::from_raw(child.id().cast_signed())), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
    // Nanoseconds on a processor come first (proc_pid_schedstat of the kernel's documentation).
    let text = fs::read_to_string(format!("/proc/{}/schedstat", child.id()))?;
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok()).ok_or("no schedstat")?;
    child.wait()?;
    Ok(Duration::from_nanos(nanos))
}

fn own_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = |value: nix::sys::time::TimeVal| {
        Duration::from_secs(u64::try_from(value.tv_sec()).unwrap_or(0))
            + Duration::from_micros(u64::try_from(value.tv_usec()).unwrap_or(0))
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

/// All writers as sandboxes of one orchestrator, until each is STOPPED in the database.
fn through_sandpen(dir: &Path, case: &Case, count: usize) -> Result<Figures> {
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
        let (begun, cpu) = (Instant::now(), own_cpu()?);
        let all = (0..case.writers).map(|number| run(&handle, dir, case, count, number));
        futures::future::try_join_all(all).await?;
        let figures = Figures { wall: begun.elapsed(), cpu: own_cpu()?.saturating_sub(cpu) };
        sandpen.shutdown(Some(Duration::ZERO)).await?;
        Ok::<_, Box<dyn Error>>(figures)
    })?;
    Ok(figures)
}

async fn run(handle: &Handle, dir: &Path, case: &Case, count: usize, number: usize) -> Result<()> {
    let command = writer(case, count)?.into_iter().map(Into::into).collect();
    let name = SandboxName::new(format!("writer-{number}"))?;
    let spec = SandboxSpec {
        driver: DriverChoice::Named(process_driver::NAME.to_owned()),
        log: LIMITS,
        ..SandboxSpec::new(name, Rootfs::Native(dir.to_owned()), command)
    };
    let key = spec.key.clone();
    handle.start_sandbox(spec).await?;
    let row = handle.wait(&key).await?;
    match row.state.exit() {
        Some(exit) if exit.is_success() => Ok(()),
        _ => Err(format!("{key} is {}", row.state.status()).into()),
    }
}
