//! A Linux microVM of libkrun, from the command to its exit code: `sandpen run` against a bare libkrun
//! program that runs the same command in the same kernel, in turn, in one run.
//!
//! `make bench-nested`, or `cargo bench --bench nested`. Environment: `RUNS` (pairs; 7 by default).
//! Where the host's KVM runs no Linux, both sides run inside of a QEMU guest with an emulated SVM, as in
//! `tests/vm_krun_nested.rs`; what they need is put into its root directory. With `OUT=DIR` the
//! figures are written there, as JSON and SVG.
//!
//! ```text
//!   bench ─▶ QEMU guest ─▶ bench --inside ─┬─▶ sandpen run ──────▶ daemon ─▶ microVM
//!                                          └─▶ bench --bare ROOT ──────────▶ microVM
//! ```

mod bare;
#[path = "../support/report.rs"]
mod report;
#[path = "../../tests/support/mod.rs"]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "made for tests")]
mod support;

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use report::Report;
use support::nested::OuterGuest;
use support::{Home, nested};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// So many emulated machines may fall silent, as QEMU 7.2 with an emulated SVM does now and then, but one.
const MACHINES_MAX: usize = 5;
/// What is said after the last pair.
const DONE: &str = "all pairs are done";
/// The exit code of the command that both sides run.
const CODE: i32 = 42;

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
    std::fs::write(root.join("script"), nested::PREPARE.to_owned() + "exec bench --inside $RUNS\n")?;
    let path = nested::qemu_with_svm(&home.path().join("wrap"));
    let mut pairs: Vec<(f64, f64)> = Vec::with_capacity(runs);
    for _ in 0..MACHINES_MAX {
        let machine = OuterGuest::boot(&home, &root, &path, &[format!("RUNS={}", runs - pairs.len())]);
        while let Some(line) = machine.next_line() {
            if let Some(pair) = line.strip_prefix("pair ") {
                pairs.push(serde_json::from_str(pair)?);
            } else if line == DONE {
                break;
            }
        }
        if pairs.len() >= runs {
            return if machine.wait() { publish(&pairs) } else { Err("the machine did not end well".into()) };
        }
        println!("the emulated machine ended early or fell silent after {} pairs; another one goes on", pairs.len());
        machine.kill();
    }
    Err(format!("{MACHINES_MAX} emulated machines made {} pairs only", pairs.len()).into())
}

/// Prints medians, and writes all figures where that is asked for.
fn publish(pairs: &[(f64, f64)]) -> Result<()> {
    let mut report = Report::new("nested", &["s command to exit", "× bare"]);
    for (bare, ours) in pairs {
        report.add("a command", "bare libkrun program", vec![*bare, 1.0]);
        report.add("a command", "sandpen run --driver krun", vec![*ours, ours / bare]);
    }
    Ok(report.publish()?)
}

/// Measures, in a machine whose KVM runs Linux.
fn inside(runs: usize) -> Result<()> {
    for run in 0..=runs {
        let mut bare = Command::new(std::env::current_exe()?);
        bare.args(["--bare", "/root/inner", "/init"]);
        let mut ours = Command::new("sandpen");
        ours.args(["run", "--rm", "--driver", "krun", "/root/inner", "--", "sh", "-c", "echo out; exit 42"]);
        let (bare, ours) = (time(&mut bare)?, time(&mut ours)?);
        // The first pair starts the daemon and warms caches; it does not count.
        if run > 0 {
            println!("pair [{:.4},{:.4}]", bare.as_secs_f64(), ours.as_secs_f64());
        }
    }
    println!("{DONE}");
    let shutdown = Command::new("sandpen").args(["shutdown", "--stop-sandboxes"]).stdout(Stdio::null()).status()?;
    if shutdown.success() { Ok(()) } else { Err("sandpen shutdown failed".into()) }
}

fn time(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let elapsed = begun.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    // libkrun's own console may lose its last bytes at power-off: the exit code is what both must have.
    if output.status.code() != Some(CODE) {
        return Err(format!("{:?}: {said} {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(elapsed)
}
