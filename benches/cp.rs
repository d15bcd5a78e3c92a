//! Copies with a running microVM: one large file and very many small ones, each way, against a tar through `sandpen exec`,
//! in one run. The sandbox's end is a tmpfs, so that no disk is measured.
//!
//! `make bench-cp`, or `cargo bench --bench cp`. Environment: `SANDPEN` (the binary to measure), `ROOTFS` (with busybox),
//! `SIZE_MIB` (of the large file; 1024 by default), `FILES` (small ones, of 1 KiB; 10000 by default), `ROUNDS` (3 by default),
//! `MEMORY` (the sandbox's; room for all of it by default), `OUT` (a directory for JSON and SVG).

#[path = "support/report.rs"]
mod report;

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use report::Report;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The sandbox.
const NAME: &str = "bench";
/// Small files of a directory.
const PER_DIRECTORY: u32 = 100;

struct Setup {
    sandpen: PathBuf,
    rootfs: PathBuf,
    dir: tempfile::TempDir,
}

impl Setup {
    fn new() -> Result<Self> {
        let required = |name: &str| std::env::var_os(name).ok_or(format!("set {name}; `make bench-cp` does"));
        Ok(Self {
            sandpen: required("SANDPEN")?.into(),
            rootfs: fs::canonicalize(required("ROOTFS")?)?,
            dir: tempfile::tempdir()?,
        })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.sandpen);
        command.env("SANDPEN_STATE_DIR", self.at("state")).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        succeed(self.command(arguments).stdout(Stdio::null()))
    }

    /// What the sandbox has of a copy goes.
    fn clear(&self) -> Result<()> {
        self.run(&["exec", NAME, "--", "sh", "-c", "rm -rf /copy/in && mkdir /copy/in"])?;
        let out = self.at("out");
        if out.exists() {
            fs::remove_dir_all(&out)?;
        }
        Ok(fs::create_dir(out)?)
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}").into()) }
}

/// Runs one command's output into another one.
fn piped(from: &mut Command, to: &mut Command) -> Result<()> {
    let mut from = from.stdout(Stdio::piped()).spawn()?;
    let between = from.stdout.take().ok_or("no pipe")?;
    let (second, first) = (to.stdin(between).stdout(Stdio::null()).status()?, from.wait()?);
    if first.success() && second.success() { Ok(()) } else { Err(format!("{first}, {second}").into()) }
}

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() -> Result<()> {
    // `cargo test --benches` builds and runs this, too: without its environment it only says so.
    if std::env::var_os("SANDPEN").is_none() {
        println!("bench cp: skipped, SANDPEN is not set (use `make bench-cp`)");
        return Ok(());
    }
    let setup = Setup::new()?;
    let (mib, files) = (number("SIZE_MIB", 1024), number("FILES", 10_000));
    make(&setup.at("large"), mib, &setup.at("small"), files)?;
    let memory = std::env::var("MEMORY").unwrap_or_else(|_| format!("{}M", 2 * mib + files / 50 + 512));
    let rootfs = setup.rootfs.to_str().ok_or("a root directory whose name is no text")?;
    let tmpfs = format!("/copy:size={}M", mib + files / 50 + 256);
    setup.run(&["run", "-d", "--idle", "--name", NAME, "--memory", &memory, "--tmpfs", &tmpfs, rootfs])?;
    let measured = measure(&setup, mib, files);
    let shutdown = setup.command(&["shutdown", "--stop-sandboxes"]).stdout(Stdio::null()).status()?;
    measured?;
    if shutdown.success() { Ok(()) } else { Err("sandpen shutdown failed".into()) }
}

fn make(large: &Path, mib: u32, small: &Path, files: u32) -> Result<()> {
    let mut random = File::open("/dev/urandom")?;
    fs::create_dir(large)?;
    let mut file = File::create(large.join("file"))?;
    let mut block = vec![0; 1 << 20];
    for _ in 0..mib {
        random.read_exact(&mut block)?;
        file.write_all(&block)?;
    }
    for number in 0..files {
        let dir = small.join((number / PER_DIRECTORY).to_string());
        if number % PER_DIRECTORY == 0 {
            fs::create_dir_all(&dir)?;
        }
        let begin = usize::try_from(number % 1000)? * 1024;
        fs::write(dir.join(number.to_string()), &block[begin..begin + 1024])?;
    }
    Ok(())
}

fn measure(setup: &Setup, mib: u32, files: u32) -> Result<()> {
    let mut report = Report::new("cp", &["s", "MB/s", "files/s", "× s"]);
    let cases = [
        (format!("{mib} MiB in one file"), "large", f64::from(mib) * 1.048_576, 1.0),
        (format!("{files} files of 1 KiB"), "small", f64::from(files) * 0.001_024, f64::from(files)),
    ];
    for round in 1..=number("ROUNDS", 3) {
        for (case, name, megabytes, count) in &cases {
            let here = setup.at(name);
            let source = here.to_str().ok_or("a directory whose name is no text")?;
            let out = setup.at("out");
            let back = out.to_str().ok_or("a directory whose name is no text")?;
            setup.clear()?;
            let mut note = |way: &str, who: &str, first: &mut Option<f64>, begun: Instant| {
                let seconds = begun.elapsed().as_secs_f64();
                let times = seconds / *first.get_or_insert(seconds);
                println!("round {round}: {case}, {way}, {who}: {seconds:.2} s");
                report.add(&format!("{case}, {way}"), who, vec![seconds, megabytes / seconds, count / seconds, times]);
            };
            let mut first = None;
            let begun = Instant::now();
            let tar = &mut Command::new("tar");
            let exec = &mut setup.command(&["exec", "-i", NAME, "--", "tar", "-xC", "/copy/in"]);
            piped(tar.args(["-cC", source, "."]), exec)?;
            note("in", "tar to sandpen exec", &mut first, begun);
            setup.clear()?;
            let begun = Instant::now();
            setup.run(&["cp", &format!("{source}/."), &format!("{NAME}:/copy/in")])?;
            note("in", "sandpen cp", &mut first, begun);
            let mut first = None;
            let begun = Instant::now();
            let tar = &mut Command::new("tar");
            let exec = &mut setup.command(&["exec", NAME, "--", "tar", "-cC", "/copy/in", "."]);
            piped(exec, tar.args(["-xC", back]))?;
            note("out", "sandpen exec to tar", &mut first, begun);
            fs::remove_dir_all(&out)?;
            fs::create_dir(&out)?;
            let begun = Instant::now();
            setup.run(&["cp", &format!("{NAME}:/copy/in/."), back])?;
            note("out", "sandpen cp", &mut first, begun);
        }
    }
    Ok(report.publish()?)
}
