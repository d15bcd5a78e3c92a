//! A Linux microVM of libkrun, from the command to its exit code: `sandpen run` against a bare libkrun
//! program that runs the same command in the same kernel, and `msb run` of microsandbox where it is there, in
//! turn, in one run.
//!
//! `make bench-nested`, or `cargo bench --bench nested`. Environment: `RUNS` (rounds; 7 by default), `PEERS` (a
//! directory as `scripts/bench-peers` makes it), `OUT` (a directory for JSON and SVG).
//! Where the host's KVM runs no Linux, all sides run inside of a QEMU guest with an emulated SVM, as in
//! `tests/nested`; what they need is put into its root directory.
//!
//! ```text
//!   bench ─▶ QEMU guest ─▶ bench --inside ─┬─▶ bench --bare ROOT ──────────▶ microVM
//!                                          ├─▶ sandpen run ──────▶ daemon ─▶ microVM
//!                                          └─▶ msb run ────────────────────▶ microVM
//! ```

mod bare;
#[path = "../support/report.rs"]
mod report;
#[path = "../../tests/support/mod.rs"]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "made for tests")]
mod support;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use report::Report;
use support::nested::OuterGuest;
use support::{Home, nested};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// So many emulated machines may fall silent, as QEMU 7.2 with an emulated SVM does now and then, but one.
const MACHINES_MAX: usize = 5;
/// What is said after the last round.
const DONE: &str = "all rounds are done";
/// The exit code of the command that all sides run.
const CODE: i32 = 42;
/// That command.
const COMMAND: [&str; 3] = ["sh", "-c", "echo out; exit 42"];
/// Who is measured, in the order of a line's figures.
const WHO: [&str; 3] = ["bare libkrun program", "sandpen run --driver krun", "microsandbox's msb run"];
/// Where the peer is found in the emulated machine.
const PEER: &str = "/microsandbox";
/// Gives the peer a disk: it needs extended attributes of users, which file systems in memory have from Linux 6.6 on
/// only. What it writes is in `/root/disk/home`; `/root/disk/inner` is its root directory.
const PREPARE_PEER: &str = "\
while read -r major minor _ name; do
    [ \"$name\" != vda ] || mknod /root/disk.dev b $major $minor
done </proc/partitions
mkdir -p /root/disk
mount -t ext4 /root/disk.dev /root/disk || exit 1
mkdir /root/disk/home
cp -r /inner /root/disk/inner
# It looks up who runs the command.
mkdir -p /root/disk/inner/etc
echo root:x:0:0:root:/:/bin/sh >/root/disk/inner/etc/passwd
echo root:x:0: >/root/disk/inner/etc/group
cp -r /microsandbox /root/disk/microsandbox
";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--bare", root, init] => bare::run(root, Path::new(init)),
        ["--inside", runs] => inside(runs.parse()?),
        [.., "--bench"] | ["--bench", ..] => outside(),
        _ => {
            println!("bench nested: skipped (use `make bench-nested`)");
            Ok(())
        }
    }
}

/// Prepares the outer guest, runs it and reports what it measured.
fn outside() -> Result<()> {
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(7_usize);
    let firmware = sandpen::kernel::krunfw::find(None, &nested::data_dir())?;
    let kernel = sandpen::kernel::find(&nested::data_dir())?;
    let home = Home::new();
    let root = home.path().join("outer");
    nested::outer_root(&root, Path::new(env!("CARGO_BIN_EXE_sandpen")), &kernel.directory().join("modules"), &firmware);
    nested::add_program(&root, &std::env::current_exe()?, "bench");
    let init = root.join("init");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/nested/init.c");
    let built = Command::new("cc").args(["-O1", "-static", "-o"]).args([&init, &source]).status()?;
    if !built.success() {
        return Err("the C compiler failed".into());
    }
    let peer = std::env::var_os("PEERS").map(|peers| PathBuf::from(peers).join("microsandbox"));
    let peer = peer.filter(|peer| peer.is_dir());
    let mut script = nested::PREPARE.to_owned();
    let mut options = vec!["--memory", "1G"];
    if let Some(peer) = peer {
        let copied = Command::new("cp").arg("-r").args([&peer, &root.join(PEER.trim_start_matches('/'))]).status()?;
        if !copied.success() {
            return Err("copying microsandbox".into());
        }
        nested::add_libraries(&root, &peer.join("bin/msb"));
        script += PREPARE_PEER;
        options = vec!["--memory", "1536M", "--disk", "2G"];
    } else {
        println!("microsandbox is not there (scripts/bench-peers): without it");
    }
    script += "exec bench --inside $RUNS\n";
    std::fs::write(root.join("script"), script)?;
    let path = nested::qemu_with_svm(&home.path().join("wrap"));
    let mut rounds: Vec<Vec<f64>> = Vec::with_capacity(runs);
    for _ in 0..MACHINES_MAX {
        let machine = OuterGuest::boot(&home, &root, &path, &[format!("RUNS={}", runs - rounds.len())], &options);
        while let Some(line) = machine.next_line() {
            if let Some(round) = line.strip_prefix("round ") {
                rounds.push(serde_json::from_str(round)?);
            } else if line == DONE {
                break;
            }
        }
        if rounds.len() >= runs {
            return if machine.wait() { publish(&rounds) } else { Err("the machine did not end well".into()) };
        }
        println!("the emulated machine ended early or fell silent after {} rounds; another one goes on", rounds.len());
        machine.kill();
    }
    Err(format!("{MACHINES_MAX} emulated machines made {} rounds only", rounds.len()).into())
}

/// Prints medians, and writes all figures where that is asked for.
fn publish(rounds: &[Vec<f64>]) -> Result<()> {
    let mut report = Report::new("nested", &["s command to exit", "× bare"]);
    for round in rounds {
        let bare = round.first().ok_or("a round without figures")?;
        for (who, seconds) in WHO.iter().zip(round) {
            report.add("a command", who, vec![*seconds, seconds / bare]);
        }
    }
    Ok(report.publish()?)
}

/// Measures, in a machine whose KVM runs Linux.
fn inside(runs: usize) -> Result<()> {
    for run in 0..=runs {
        let mut bare = Command::new(std::env::current_exe()?);
        bare.args(["--bare", "/root/inner", "/init"]);
        let mut ours = Command::new("sandpen");
        ours.args(["run", "--rm", "--driver", "krun", "/root/inner", "--"]).args(COMMAND);
        let mut times = vec![time(&mut bare)?, time(&mut ours)?];
        if Path::new(PEER).exists() {
            let mut peer = Command::new("/root/disk/microsandbox/bin/msb");
            peer.env("MSB_HOME", "/root/disk/home");
            peer.args(["run", "--quiet", "--no-net", "--no-stdin", "--cpus", "1", "--memory", "256M"]);
            peer.args(["/root/disk/inner", "--"]).args(COMMAND);
            times.push(time(&mut peer)?);
        }
        // The first round starts the daemon and warms caches; it does not count.
        if run > 0 {
            println!("round {}", serde_json::to_string(&times)?);
        }
    }
    println!("{DONE}");
    let shutdown = Command::new("sandpen").args(["shutdown", "--stop-sandboxes"]).stdout(Stdio::null()).status()?;
    if shutdown.success() { Ok(()) } else { Err("sandpen shutdown failed".into()) }
}

/// Seconds until a command has ended with [`CODE`].
fn time(command: &mut Command) -> Result<f64> {
    let begun = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let elapsed = begun.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    // libkrun's own console may lose its last bytes at power-off: the exit code is what both must have.
    if output.status.code() != Some(CODE) {
        return Err(format!("{:?}: {said} {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(elapsed.as_secs_f64())
}
