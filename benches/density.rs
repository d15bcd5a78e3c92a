//! What a sandbox that does nothing costs: memory of the daemon, CPU at rest, and whether it costs more
//! among many. Host processes (the process driver) as microVMs, 5,000 at most; beside them one `runsv` of runit,
//! one `s6-supervise` and one conmon a process, and one supervisord for all.
//!
//! `make bench-density`. Environment: `SIZES` (default `1,10,100,1000,5000`, as far as file descriptors go),
//! `PEERS` (where `scripts/bench-peers` has unpacked the others; without, none), `REST` (seconds of rest; 10
//! by default), `OUT` (a directory for JSON and SVG). The daemon is this process: what is measured of it is
//! the growth of its proportional set size since it ran without sandboxes.

#[path = "support/conmon.rs"]
mod conmon;
#[path = "support/pss.rs"]
mod pss;
#[path = "support/report.rs"]
mod report;

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pss::pss_kib;
use report::Report;
use sandpen::actors::driver::Drivers;
use sandpen::actors::spec::{DriverChoice, Rootfs, SandboxKey, SandboxName, SandboxSpec};
use sandpen::actors::state_dir::StateDir;
use sandpen::actors::testing::process_driver::{self, ProcessDriver};
use sandpen::{Handle, Sandpen};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Starts that are under way at the same time.
const STARTING: usize = 32;
/// What each of them does.
const IDLE: [&str; 2] = ["/bin/sleep", "100000"];
/// More of the peers than this tell nothing new.
const PEERS_MAX: usize = 100;

fn main() -> Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("bench density: skipped (use `make bench-density`)");
        return Ok(());
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let sizes = std::env::var("SIZES").unwrap_or_else(|_| "1,10,100,1000,5000".to_owned());
    let sizes: Vec<usize> = sizes.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
    let rest = Duration::from_secs(std::env::var("REST").ok().and_then(|rest| rest.parse().ok()).unwrap_or(10));
    let mut report =
        Report::new("density", &["KiB PSS each", "% of a core at rest", "ms a start", "ms inspect", "ms list"]);
    for size in &sizes {
        match ours(*size, rest) {
            Ok(figures) => report.add(&size.to_string(), "sandpen", figures),
            Err(error) => println!("{size}: {error}"),
        }
    }
    if let Some(peers) = std::env::var_os("PEERS").map(PathBuf::from) {
        for who in ["runsv", "s6-supervise", "conmon", "supervisord"] {
            let each = match who {
                "supervisord" => supervisord(&peers),
                _ => peer(who, &peers),
            };
            match each {
                Ok(each) => report.add(&PEERS_MAX.to_string(), who, vec![each, f64::NAN, f64::NAN, f64::NAN, f64::NAN]),
                Err(error) => println!("{who}: {error}"),
            }
        }
    }
    Ok(report.publish()?)
}

fn own_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |value: nix::sys::time::TimeVal| {
        f64::from(i32::try_from(value.tv_sec()).unwrap_or(i32::MAX))
            + f64::from(i32::try_from(value.tv_usec()).unwrap_or(0)) / 1e6
    };
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn ours(size: usize, rest: Duration) -> Result<Vec<f64>> {
    let dir = tempfile::tempdir()?;
    let state = dir.path().join("state");
    let driver = ProcessDriver::new(StateDir::new(state.clone()).bin());
    let drivers = Drivers::default().with(Arc::new(driver));
    let sandpen = Sandpen::builder().state_dir(&state).data_dir(dir.path()).drivers(drivers).start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let handle = sandpen.handle();
        // One comes and goes: what the first one brings about is nobody's growth.
        start(&handle, dir.path(), "first").await?;
        handle.kill(&key("first")?, Signal::SIGKILL as i32).await?;
        handle.wait(&key("first")?).await?;
        let empty = pss_kib(std::process::id())?;
        let begun = Instant::now();
        let names: Vec<_> = (0..size).map(|number| format!("idle-{number}")).collect();
        let starts = names.iter().map(|name| start(&handle, dir.path(), name));
        futures::stream::iter(starts).buffer_unordered(STARTING).try_collect::<()>().await?;
        let each_start = ms(begun.elapsed()) / f64::from(u32::try_from(size)?);
        let full = pss_kib(std::process::id())?;
        let begun = Instant::now();
        handle.get(&key("idle-0")?).await?;
        let inspect = ms(begun.elapsed());
        let begun = Instant::now();
        let listed = handle.list().await?.len();
        let list = ms(begun.elapsed());
        let cpu = own_cpu()?;
        tokio::time::sleep(rest).await;
        let at_rest = (own_cpu()? - cpu) / rest.as_secs_f64() * 100.0;
        sandpen.shutdown(Some(Duration::ZERO)).await?;
        println!("{size}: {listed} listed, up in {each_start:.1} ms each");
        Ok(vec![(full - empty) / f64::from(u32::try_from(size)?), at_rest, each_start, inspect, list])
    })
}

fn key(name: &str) -> Result<SandboxKey> {
    Ok(SandboxKey::new(SandboxName::new(name)?))
}

async fn start(handle: &Handle, dir: &Path, name: &str) -> Result<()> {
    let command = IDLE.map(Into::into).to_vec();
    let spec = SandboxSpec {
        driver: DriverChoice::Named(process_driver::NAME.to_owned()),
        ..SandboxSpec::new(SandboxName::new(name)?, Rootfs::Native(dir.to_owned()), command)
    };
    handle.start_sandbox(spec).await?;
    Ok(())
}

/// KiB of one supervisor of the others, each with a process under it.
fn peer(who: &str, peers: &Path) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let mut children = Vec::new();
    for number in 0..PEERS_MAX {
        let mut command = if who == "conmon" {
            conmon::command(peers, dir.path(), number, &IDLE.map(Into::into))?
        } else {
            let service = dir.path().join(number.to_string());
            fs::create_dir(&service)?;
            fs::write(service.join("run"), format!("#!/bin/sh\nexec {}\n", IDLE.join(" ")))?;
            fs::set_permissions(service.join("run"), fs::Permissions::from_mode(0o755))?;
            let mut command = Command::new(peers.join("usr/bin").join(who));
            command.arg(&service).env("LD_LIBRARY_PATH", peers.join("usr/lib/x86_64-linux-gnu"));
            command.stdin(Stdio::null()).stderr(Stdio::null());
            command
        };
        children.push(command.spawn()?);
    }
    // All have started their process when each has a child, of itself or of what it has started.
    let started = until(|| children.iter().all(|child| idles_below(child).len() == 1));
    let kib = children.iter().map(|child| pss_kib(child.id())).sum::<Result<f64>>();
    for mut child in children {
        let idles = idles_below(&child);
        child.kill()?;
        child.wait()?;
        end(idles);
    }
    started.map_err(|()| format!("{who} starts nothing"))?;
    Ok(kib? / f64::from(u32::try_from(PEERS_MAX)?))
}

/// KiB that each of many processes adds to one supervisord.
fn supervisord(peers: &Path) -> Result<f64> {
    let with = |count: usize| -> Result<f64> {
        let dir = tempfile::tempdir()?;
        let mut config =
            format!("[supervisord]\nnodaemon=true\nlogfile={0}/log\npidfile={0}/pid\n", dir.path().display());
        for number in 0..count {
            let log = dir.path().join(number.to_string());
            writeln!(config, "[program:p{number}]\ncommand={}", IDLE.join(" "))?;
            writeln!(config, "stdout_logfile={0}.out\nstderr_logfile={0}.err", log.display())?;
        }
        fs::write(dir.path().join("config"), config)?;
        let mut command = Command::new("/usr/bin/python3");
        command.arg(peers.join("usr/bin/supervisord")).arg("-c").arg(dir.path().join("config"));
        command.env("PYTHONPATH", peers.join("usr/lib/python3/dist-packages"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let started = until(|| idles_below(&child).len() == count);
        let kib = pss_kib(child.id());
        let idles = idles_below(&child);
        child.kill()?;
        child.wait()?;
        end(idles);
        started.map_err(|()| "it starts nothing (is python3-pkg-resources installed?)")?;
        kib
    };
    Ok((with(PEERS_MAX + 1)? - with(1)?) / f64::from(u32::try_from(PEERS_MAX)?))
}

/// Waits for something, 30 s at most.
fn until(mut is_true: impl FnMut() -> bool) -> std::result::Result<(), ()> {
    let begun = Instant::now();
    while !is_true() {
        if begun.elapsed() > Duration::from_secs(30) {
            return Err(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The processes below a child that do nothing, wherever.
fn idles_below(child: &Child) -> Vec<u32> {
    let (mut found, mut parents) = (Vec::new(), vec![child.id()]);
    while let Some(pid) = parents.pop() {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let below = text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
        for pid in below {
            let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if program.trim() == "sleep" { found.push(pid) } else { parents.push(pid) }
        }
    }
    found
}

/// Ends what was below a process that has just ended, so nobody else's.
fn end(pids: Vec<u32>) {
    for pid in pids {
        let _ = i32::try_from(pid).map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
    }
}
