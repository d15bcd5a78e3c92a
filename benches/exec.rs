//! Commands in a running microVM: how long `sandpen exec NAME -- true` takes from the client's start to its end, one after
//! the other and many at once, against a loop of the guest's own shell; and how fast bytes go through one, both ways,
//! against `sandpen run`.
//!
//! `make bench-exec`, or `cargo bench --bench exec`. Environment: `SANDPEN` (the binary to measure), `ROOTFS` (with busybox),
//! `RUNS` (commands one after the other; 200 by default), `BURST` (commands at once; 100 by default), `MIB` (bytes each way;
//! 1024 by default), `ROUNDS` (of these; 3 by default), `OUT` (a directory for JSON and SVG).

#[path = "support/report.rs"]
mod report;

use std::error::Error;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use report::Report;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The sandbox.
const NAME: &str = "bench";
/// Commands of the guest's own loop.
const LOOP: u32 = 100;
/// Ticks of a second in /proc/stat (USER_HZ).
const TICKS: f64 = 100.0;

struct Setup {
    sandpen: PathBuf,
    rootfs: PathBuf,
    state: tempfile::TempDir,
}

impl Setup {
    fn new() -> Result<Self> {
        let required = |name: &str| std::env::var_os(name).ok_or(format!("set {name}; `make bench-exec` does"));
        Ok(Self {
            sandpen: required("SANDPEN")?.into(),
            rootfs: std::fs::canonicalize(required("ROOTFS")?)?,
            state: tempfile::tempdir()?,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.sandpen);
        command.env("SANDPEN_STATE_DIR", self.state.path().join("state")).args(arguments).stdin(Stdio::null());
        command
    }

    /// Seconds until it has ended.
    fn timed(&self, arguments: &[&str]) -> Result<f64> {
        let begun = Instant::now();
        let status = self.command(arguments).stdout(Stdio::null()).status()?;
        if !status.success() {
            return Err(format!("sandpen {} ended with {status}", arguments.join(" ")).into());
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    fn rootfs(&self) -> Result<&str> {
        Ok(self.rootfs.to_str().ok_or("a root directory whose name is no text")?)
    }
}

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() -> Result<()> {
    // `cargo test --benches` builds and runs this, too: without its environment it only says so.
    if std::env::var_os("SANDPEN").is_none() {
        println!("bench exec: skipped, SANDPEN is not set (use `make bench-exec`)");
        return Ok(());
    }
    let setup = Setup::new()?;
    setup.timed(&["run", "-d", "--idle", "--name", NAME, setup.rootfs()?])?;
    let measured = latency(&setup).and_then(|()| throughput(&setup));
    let shutdown = setup.command(&["shutdown", "--stop-sandboxes"]).stdout(Stdio::null()).status()?;
    measured?;
    if shutdown.success() { Ok(()) } else { Err("sandpen shutdown failed".into()) }
}

/// The part of sorted numbers below which so many hundredths lie.
fn percentile(sorted: &[f64], hundredths: usize) -> f64 {
    let place = (sorted.len() * hundredths).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

fn row(mut times: Vec<f64>) -> Vec<f64> {
    times.sort_unstable_by(f64::total_cmp);
    [50, 95, 99].map(|hundredths| percentile(&times, hundredths) * 1e3).to_vec()
}

fn latency(setup: &Setup) -> Result<()> {
    let mut report = Report::new("exec", &["p50 ms", "p95 ms", "p99 ms"]);
    let exec = ["exec", NAME, "--", "/bin/true"];
    // The first ones do not count: caches are warm then.
    for _ in 0..5 {
        setup.timed(&exec)?;
    }
    let in_guest = |count: u32| {
        let script = format!("i=0; while [ $i -lt {count} ]; do /bin/true; i=$((i+1)); done");
        setup.timed(&["exec", NAME, "--", "/bin/sh", "-c", &script])
    };
    for _ in 0..3 {
        let (with, without) = (in_guest(LOOP)?, in_guest(0)?);
        let each = (with - without).max(0.0) * 1e3 / f64::from(LOOP);
        report.add("one after the other", "the guest's shell", vec![each, f64::NAN, f64::NAN]);
    }
    let times = (0..number("RUNS", 200)).map(|_| setup.timed(&exec)).collect::<Result<Vec<_>>>()?;
    report.add("one after the other", "sandpen exec", row(times));
    let burst = number("BURST", 100);
    for _ in 0..3 {
        let begun = Instant::now();
        let times = std::thread::scope(|scope| {
            let all: Vec<_> =
                (0..burst).map(|_| scope.spawn(|| setup.timed(&exec).map_err(|error| error.to_string()))).collect();
            let ended = all.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?);
            ended.collect::<std::result::Result<Vec<_>, String>>()
        })?;
        println!("{burst} at once: all have ended after {:.2} s", begun.elapsed().as_secs_f64());
        report.add(&format!("{burst} at once"), "sandpen exec", row(times));
    }
    Ok(report.publish()?)
}

/// Seconds on processors of this machine so far, whoever it was.
fn busy() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().ok_or("no first line in /proc/stat")?;
    let ticks = line.split_whitespace().skip(1).map(str::parse).collect::<std::result::Result<Vec<f64>, _>>()?;
    // user, nice, system; irq and softirq (proc_stat(5)).
    Ok([0, 1, 2, 5, 6].iter().filter_map(|place| ticks.get(*place)).sum::<f64>() / TICKS)
}

fn throughput(setup: &Setup) -> Result<()> {
    let mut report = Report::new("exec-bytes", &["MB/s", "CPU s/GB", "× MB/s", "× CPU"]);
    let mib = number("MIB", 1024);
    let (input, output) = (setup.state.path().join("input"), setup.state.path().join("output"));
    let mut file = File::create(&input)?;
    let mut random = File::open("/dev/urandom")?;
    let mut block = vec![0; 1 << 20];
    for _ in 0..mib {
        random.read_exact(&mut block)?;
        file.write_all(&block)?;
    }
    let gigabytes = f64::from(mib) * 1_048_576.0 / 1e9;
    let root = setup.rootfs()?.to_owned();
    let cases: [(&str, Vec<&str>); 2] = [
        ("sandpen run -i", vec!["run", "--rm", "-i", &root, "--", "/bin/cat"]),
        ("sandpen exec -i", vec!["exec", "-i", NAME, "--", "/bin/cat"]),
    ];
    for round in 1..=number("ROUNDS", 3) {
        let mut first = None;
        for (who, arguments) in &cases {
            std::thread::sleep(Duration::from_secs(1));
            let (begun, before) = (Instant::now(), busy()?);
            let status = setup.command(arguments).stdin(File::open(&input)?).stdout(File::create(&output)?).status()?;
            let (time, cpu) = (begun.elapsed().as_secs_f64(), busy()? - before);
            if !status.success() || std::fs::metadata(&output)?.len() != u64::from(mib) << 20 {
                return Err(format!("{who}: {status}, and not all bytes came back").into());
            }
            let now = [gigabytes * 1e3 / time, cpu / gigabytes];
            let [speed, work] = *first.get_or_insert(now);
            println!("round {round}: {who} {:.1} MB/s, {:.2} CPU s/GB", now[0], now[1]);
            report.add(&format!("{mib} MiB through cat"), who, vec![now[0], now[1], now[0] / speed, now[1] / work]);
        }
    }
    Ok(report.publish()?)
}
