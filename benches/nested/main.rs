//! A Linux microVM of libkrun, from the command to its exit code: `sandpen run` against a bare libkrun
//! program that runs the same command in the same kernel, and microsandbox and smolvm where they are there, in
//! turn, in one run. Then a command in a microVM that runs: `sandpen exec` against theirs, in turn.
//!
//! `make bench-nested`, or `cargo bench --bench nested`. Environment: `RUNS` (microVMs of each; 7 by default), `EXECS`
//! (commands of each; 30), `PEERS` (a directory as `scripts/bench-peers` makes it), `OUT` (a directory for JSON and SVG).
//! Where the host's KVM runs no Linux, all sides run inside of a QEMU guest with an emulated SVM, as in
//! `tests/nested`; what they need is put into its root directory.
//!
//! ```text
//!   bench ─▶ QEMU guest ─▶ bench --inside ─┬─▶ bench --bare ROOT ──────────▶ microVM
//!                                          ├─▶ sandpen run ──────▶ daemon ─▶ microVM
//!                                          ├─▶ msb run ────────────────────▶ microVM
//!                                          └─▶ smol-vmm machine run ───────▶ microVM
//! ```

mod bare;
#[path = "../support/report.rs"]
mod report;
mod subjects;
#[path = "../../tests/support/mod.rs"]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "made for tests")]
mod support;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use report::Report;
use subjects::Subject;
use support::nested::OuterGuest;
use support::{Home, nested};

type Result<T> = std::result::Result<T, Box<dyn Error>>;
/// Who took how many seconds, of all in turn.
type Figures = Vec<Vec<(String, f64)>>;
type Round<'a> = Vec<(&'a str, f64)>;

/// So many emulated machines may fall silent, as QEMU 7.2 with an emulated SVM does now and then, but one.
const MACHINES_MAX: usize = 5;
/// What is said after the last round.
const DONE: &str = "all rounds are done";
/// Gives the peers a disk: one needs extended attributes of users, which file systems in memory have from Linux 6.6 on
/// only, and both write much. `/root/disk/inner` is their root directory.
const PREPARE_PEERS: &str = "\
while read -r major minor _ name; do
    [ \"$name\" != vda ] || mknod /root/disk.dev b $major $minor
done </proc/partitions
mkdir -p /root/disk
mount -t ext4 /root/disk.dev /root/disk || exit 1
mkdir /root/disk/home
cp -r /inner /root/disk/inner
# They look up who runs the command.
mkdir -p /root/disk/inner/etc
echo root:x:0:0:root:/:/bin/sh >/root/disk/inner/etc/passwd
echo root:x:0: >/root/disk/inner/etc/group
cp -r /peers/* /root/disk
# One gives up its user and opens the device again.
chmod 666 /dev/kvm
# One unpacks for minutes before its first microVM: that is no silence.
( while sleep 20; do echo still there; done ) &
";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--bare", root, init] => bare::run(root, Path::new(init)),
        ["--inside", runs, execs] => inside(runs.parse()?, execs.parse()?),
        [.., "--bench"] | ["--bench", ..] => outside(),
        _ => {
            println!("bench nested: skipped (use `make bench-nested`)");
            Ok(())
        }
    }
}

/// Prepares the outer guest, runs it and reports what it measured.
fn outside() -> Result<()> {
    let number = |name: &str, usual: usize| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    let (runs, execs) = (number("RUNS", 7), number("EXECS", 30));
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
    let mut script = nested::PREPARE.to_owned();
    let mut options = vec!["--memory", "1G"];
    if add_peers(&root)? {
        script += PREPARE_PEERS;
        options = vec!["--memory", "3G", "--disk", "6G"];
    }
    script += "exec bench --inside $RUNS $EXECS\n";
    std::fs::write(root.join("script"), script)?;
    let path = nested::qemu_with_svm(&home.path().join("wrap"));
    let (mut boots, mut commands) = (Figures::new(), Figures::new());
    for _ in 0..MACHINES_MAX {
        let left = [format!("RUNS={}", runs - boots.len()), format!("EXECS={}", execs - commands.len())];
        let machine = OuterGuest::boot(&home, &root, &path, &left, &options);
        while let Some(line) = machine.next_line() {
            if let Some(round) = line.strip_prefix("boot ") {
                boots.push(serde_json::from_str(round)?);
            } else if let Some(round) = line.strip_prefix("exec ") {
                commands.push(serde_json::from_str(round)?);
            } else if line == DONE {
                break;
            }
        }
        if boots.len() >= runs && commands.len() >= execs {
            return if machine.wait() {
                publish(&boots, &commands)
            } else {
                Err("the machine did not end well".into())
            };
        }
        println!(
            "the emulated machine ended early or fell silent after {} microVMs and {} commands of each; another one goes on",
            boots.len(),
            commands.len()
        );
        machine.kill();
    }
    Err(format!("{MACHINES_MAX} emulated machines made {} and {} rounds only", boots.len(), commands.len()).into())
}

/// Puts the peers that are there into the outer guest's root; whether there are any.
fn add_peers(root: &Path) -> Result<bool> {
    let peers = std::env::var_os("PEERS").map(PathBuf::from).unwrap_or_default();
    let mut are_there = false;
    for subject in Subject::ALL {
        let Some(name) = subject.peer() else { continue };
        let peer = peers.join(name);
        if !peer.is_dir() {
            println!("{name} is not there (scripts/bench-peers): without it");
            continue;
        }
        std::fs::create_dir_all(root.join("peers"))?;
        let copied = Command::new("cp").arg("-r").args([&peer, &root.join("peers")]).status()?;
        if !copied.success() {
            return Err(format!("copying {name}").into());
        }
        nested::add_libraries(root, &peer.join(subject.program()));
        are_there = true;
    }
    Ok(are_there)
}

/// Prints medians, and writes all figures where that is asked for.
fn publish(boots: &Figures, commands: &Figures) -> Result<()> {
    let mut report = Report::new("nested", &["s command to exit", "× bare, or ours"]);
    let rounds =
        boots.iter().map(|round| ("a microVM", round)).chain(commands.iter().map(|round| ("a command in it", round)));
    for (case, round) in rounds {
        let (_, first) = round.first().ok_or("a round without figures")?;
        for (who, seconds) in round {
            report.add(case, who, vec![*seconds, seconds / first]);
        }
    }
    Ok(report.publish()?)
}

/// Measures, in a machine whose KVM runs Linux.
fn inside(runs: usize, execs: usize) -> Result<()> {
    let there: Vec<_> = Subject::ALL.into_iter().filter(|subject| subject.is_there()).collect();
    if runs > 0 {
        // The first round starts the daemon and warms caches; it does not count.
        for run in 0..=runs {
            let round =
                there.iter().map(|subject| Ok((subject.boot_name(), time(&mut subject.boot()?, subjects::CODE)?)));
            let round: Round<'_> = round.collect::<Result<_>>()?;
            if run > 0 {
                println!("boot {}", serde_json::to_string(&round)?);
            }
        }
    }
    if execs > 0 {
        for mut command in there.iter().flat_map(|subject| subject.make()) {
            time(&mut command, 0)?;
        }
        for run in 0..=execs {
            let named = there.iter().filter_map(|subject| Some((subject.exec_name()?, subject)));
            let round: Round<'_> =
                named.map(|(name, subject)| Ok((name, time(&mut subject.exec(), 0)?))).collect::<Result<_>>()?;
            if run > 0 {
                println!("exec {}", serde_json::to_string(&round)?);
            }
        }
    }
    println!("{DONE}");
    let shutdown = Command::new("sandpen").args(["shutdown", "--stop-sandboxes"]).stdout(Stdio::null()).status()?;
    if shutdown.success() { Ok(()) } else { Err("sandpen shutdown failed".into()) }
}

/// Seconds until a command has ended with this code.
fn time(command: &mut Command, code: i32) -> Result<f64> {
    let begun = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let elapsed = begun.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    // libkrun's own console may lose its last bytes at power-off: the exit code is what both must have.
    if output.status.code() != Some(code) {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {:?}: {said} {errors}", output.status).into());
    }
    Ok(elapsed.as_secs_f64())
}
