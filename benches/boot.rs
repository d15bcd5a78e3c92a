//! Time from the command to the workload's first byte and to its end: `sandpen run`, booting and restored
//! from a template, against the bare QEMU command with the same kernel, initramfs and root directory, in
//! turn, in one run.
//!
//! `make bench-boot`, or `cargo bench --bench boot`. Environment: `SANDPEN` (the binary to measure),
//! `ROOTFS` (with `/bin/echo`), `RUNS` (pairs; 9 by default), `OUT` (a directory for JSON and SVG).

#[path = "support/guest.rs"]
mod guest;
#[path = "support/report.rs"]
mod report;

use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use report::Report;
use sandpen::driver::acceleration::{Accelerator, acceleration};
use sandpen::driver::qemu::args::{PORTS, QemuArgs, share_socket};
use sandpen::driver::qemu::{initramfs, program, tsc};
use sandpen::driver::{guest_binary, virtiofs};
use sandpen::{kernel, paths};
use sandpen_guest::protocol::{ROOTFS_TAG, RootfsSource};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What both sides use.
struct Setup {
    sandpen: PathBuf,
    rootfs: PathBuf,
    qemu: PathBuf,
    argv: Vec<OsString>,
    state: tempfile::TempDir,
}

impl Setup {
    fn new() -> Result<Self> {
        let required = |name: &str| std::env::var_os(name).ok_or(format!("set {name}; `make bench-boot` does"));
        let state = tempfile::tempdir()?;
        let kernel = kernel::find(&paths::default_data_dir())?;
        let initramfs = initramfs::ensure(
            &state.path().join("cache"),
            guest_binary(),
            Some(&kernel),
            &initramfs::Extra::default(),
        )?;
        let accelerator = acceleration().accelerator;
        let args = QemuArgs {
            tsc_khz: if accelerator == Accelerator::Tcg { tsc::khz() } else { None },
            shares: vec![ROOTFS_TAG.to_owned()],
            ..QemuArgs::plain("bench", accelerator, kernel.vmlinux(), initramfs)
        };
        Ok(Self {
            sandpen: required("SANDPEN")?.into(),
            rootfs: std::fs::canonicalize(required("ROOTFS")?)?,
            qemu: program::find()?.path,
            argv: args.to_argv(),
            state,
        })
    }

    /// `sandpen run`, with a daemon that runs already: the first byte and the end.
    fn through_sandpen(&self, options: &[&str]) -> Result<[Duration; 2]> {
        let begun = Instant::now();
        let mut child = Command::new(&self.sandpen)
            .env("SANDPEN_STATE_DIR", self.state.path().join("state"))
            .args(["run", "--rm"])
            .args(options)
            .arg(&self.rootfs)
            .args(["--", "/bin/sh", "-c", "echo hi"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut byte = [0];
        child.stdout.take().ok_or("no stdout")?.read_exact(&mut byte)?;
        let elapsed = begun.elapsed();
        if !child.wait()?.success() {
            return Err("sandpen run failed".into());
        }
        Ok([elapsed, begun.elapsed()])
    }

    /// QEMU and virtiofsd by hand, with the least that makes the same guest run the same command.
    fn bare(&self) -> Result<Duration> {
        let dir = tempfile::tempdir()?;
        let begun = Instant::now();
        for (name, _) in PORTS {
            for end in ["in", "out"] {
                nix::unistd::mkfifo(&dir.path().join(format!("{name}.{end}")), Mode::S_IRWXU)?;
            }
        }
        let listener = UnixListener::bind(dir.path().join(share_socket(0)))?;
        let mut virtiofsd = Command::new(&self.sandpen)
            .arg(virtiofs::SUBCOMMAND)
            .arg("--shared-dir")
            .arg(&self.rootfs)
            .current_dir(dir.path())
            .stdin(OwnedFd::from(listener))
            .spawn()?;
        let log = File::create(dir.path().join("log"))?;
        let mut qemu = Command::new(&self.qemu)
            .args(&self.argv)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let elapsed = guest::converse(
            dir.path(),
            &["/bin/sh", "-c", "echo hi"],
            RootfsSource::Virtiofs { tag: ROOTFS_TAG.into() },
        )
        .map(|()| begun.elapsed());
        guest::end(&mut qemu)?;
        guest::end(&mut virtiofsd)?;
        elapsed
    }
}

fn main() -> Result<()> {
    // `cargo test --benches` builds and runs this, too: without its environment it only says so.
    if std::env::var_os("SANDPEN").is_none() {
        println!("bench boot: skipped, SANDPEN is not set (use `make bench-boot`)");
        return Ok(());
    }
    let runs: usize = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(9);
    let setup = Setup::new()?;
    // Of each the first does not count: caches are warm then, and the template is made.
    let image = ["--root", "image"];
    setup.bare()?;
    setup.through_sandpen(&[])?;
    setup.through_sandpen(&image)?;
    let mut report = Report::new("boot", &["s", "× bare to the first byte"]);
    for run in 1..=runs {
        let bare = setup.bare()?.as_secs_f64();
        report.add("first byte", "bare QEMU command", vec![bare, 1.0]);
        let mut last = [bare, 0.0, 0.0];
        for (place, (who, options)) in
            [("sandpen run", &[][..]), ("sandpen run, from a template", &image)].iter().enumerate()
        {
            let times = setup.through_sandpen(options)?.map(|time| time.as_secs_f64());
            for (case, time) in ["first byte", "its end"].into_iter().zip(times) {
                report.add(case, who, vec![time, time / bare]);
            }
            last[place + 1] = times[0];
        }
        println!("round {run}: bare {:.3} s, booted {:.3} s, restored {:.3} s", last[0], last[1], last[2]);
    }
    report.publish()?;
    let shutdown = Command::new(&setup.sandpen)
        .env("SANDPEN_STATE_DIR", setup.state.path().join("state"))
        .args(["shutdown", "--stop-sandboxes"])
        .status()?;
    if shutdown.success() { Ok(()) } else { Err("sandpen shutdown failed".into()) }
}
