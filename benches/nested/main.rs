//! A Linux microVM of libkrun, from the command to its exit code: `sandpen run` against a bare libkrun
//! program that runs the same command in the same kernel, in turn, in one run.
//!
//! `make bench-nested`, or `cargo bench --bench nested`. Environment: `RUNS` (pairs; 7 by default).
//! Where the host's KVM runs no Linux, both sides run inside of a QEMU guest with an emulated SVM, as in
//! `tests/vm_krun_nested.rs`; what they need is put into its root directory. Prints a table and, with
//! `JSON=FILE`, writes all figures there.
//!
//! ```text
//!   bench ─▶ QEMU guest ─▶ bench --inside ─┬─▶ sandpen run ──────▶ daemon ─▶ microVM
//!                                          └─▶ bench --bare ROOT ──────────▶ microVM
//! ```

mod bare;
#[path = "../../tests/support/mod.rs"]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "made for tests")]
mod support;

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Home, nested};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Longest time of a whole run in an emulated machine.
const LIMIT: Duration = Duration::from_mins(15);
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
    let mut command = home.sandpen(&["run", "-n", "outer", "--driver", "qemu", "--cpus", "2", "--memory", "1G"]);
    command.arg("-e").arg(format!("RUNS={runs}")).args([root.to_str().ok_or("no UTF-8")?, "--", "sh", "/script"]);
    command.env("PATH", nested::qemu_with_svm(&home.path().join("wrap")));
    let output = support::output_within(LIMIT, command);
    std::io::stdout().write_all(&output.stdout)?;
    if !output.status.success() {
        return Err(support::explain(&output).into());
    }
    if let Some(path) = std::env::var_os("JSON") {
        let text = String::from_utf8(output.stdout)?;
        let json = text.lines().find_map(|line| line.strip_prefix("json ")).ok_or("no figures")?;
        std::fs::write(path, json)?;
    }
    Ok(())
}

/// Measures, in a machine whose KVM runs Linux.
fn inside(runs: usize) -> Result<()> {
    let mut pairs = Vec::with_capacity(runs);
    for run in 0..=runs {
        let mut bare = Command::new(std::env::current_exe()?);
        bare.args(["--bare", "/root/inner", "/init"]);
        let mut ours = Command::new("sandpen");
        ours.args(["run", "--rm", "--driver", "krun", "/root/inner", "--", "sh", "-c", "echo out; exit 42"]);
        let (bare, ours) = (time(&mut bare)?, time(&mut ours)?);
        // The first pair starts the daemon and warms caches; it does not count.
        if run > 0 {
            println!("pair {run}: bare {:.3} s, sandpen {:.3} s", bare.as_secs_f64(), ours.as_secs_f64());
            pairs.push((bare.as_secs_f64(), ours.as_secs_f64()));
        }
    }
    let median = |mut values: Vec<f64>| {
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    println!("\ncommand to exit, {runs} pairs        median s");
    println!("bare libkrun program           {:>8.3}", median(pairs.iter().map(|pair| pair.0).collect()));
    println!("sandpen run --driver krun      {:>8.3}", median(pairs.iter().map(|pair| pair.1).collect()));
    println!("ratio, median of the pairs     {:>8.3}", median(pairs.iter().map(|pair| pair.1 / pair.0).collect()));
    println!("json {}", serde_json::json!({ "pairs": pairs }));
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
