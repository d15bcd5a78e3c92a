//! Linux under libkrun, on every host: QEMU emulates a processor with SVM, KVM runs inside of that
//! guest, and sandpen in it makes microVMs of libkrun. Both sides are this build.
//!
//! Here and only here, under QEMU 7.2's emulation of SVM, a microVM ends by itself now and then (VMM exit
//! code 0, no report), or the emulated machine says nothing more. The cause is not known for certain. What
//! broke so is told, and tried again in a new machine; wrong output of a microVM that lived never is.
//!
//! Needs `sandpen kernel install` (with the KVM modules) and `sandpen kernel install --krunfw`, else it
//! is skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]
#![allow(clippy::needless_raw_string_hashes, reason = "scripts are quoted alike")]

mod scenarios;
#[path = "../support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use sandpen_skip::{Reason, skip};
use scenarios::{Scenario, features, scenarios};
use support::nested::OuterGuest;
use support::{Home, kernels, nested};

/// How long a scenario may take in there: some ten times what the longest one takes.
const SCENARIO_LIMIT: Duration = Duration::from_secs(100);
/// So often a scenario is tried that an emulated processor broke.
const TRIES: usize = 4;

/// Runs what `/scenarios` holds of the names it is given, and says after each how it ended.
const RUNNER: &str = r#"
broken() { sandpen events --json | grep -c "without an exit report"; }
before=0
for name in $SCENARIOS; do
    echo "== begin $name"
    timeout -k 5 $LIMIT sh /scenarios/$name
    code=$?
    if [ $code -ge 124 ]; then echo "== hung $name"; exit 0; fi
    now=$(broken)
    if [ "$now" = "$before" ]; then echo "== done $name"; else echo "== broken $name"; fi
    before=$now
done
sandpen shutdown --stop-sandboxes
echo "== left $(ls /root/state/run/default | wc -l)"
"#;

/// How a scenario ended.
enum End {
    /// As the emulated machine says: whole, or with a microVM that ended by itself.
    Said { broken: bool, output: Vec<String> },
    /// It did not end in time, or nothing more was heard of the machine.
    Hung,
}

/// What the emulated machine says of the next scenario.
fn next_end(machine: &OuterGuest<'_>, name: &str) -> End {
    let (begin, done) = (format!("== begin {name}"), format!("== done {name}"));
    let (broken, hung) = (format!("== broken {name}"), format!("== hung {name}"));
    let mut output = Vec::new();
    while let Some(line) = machine.next_line() {
        if line == begin {
            output.clear();
        } else if line == done || line == broken {
            return End::Said { broken: line == broken, output };
        } else if line == hung {
            return End::Hung;
        } else {
            output.push(line);
        }
    }
    End::Hung
}

/// All scenarios in one machine, and what broke for the emulator's sake in another one.
fn run_all(home: &Home, root: &Path, path: &OsStr, mut pending: VecDeque<(usize, Scenario)>) {
    while !pending.is_empty() {
        let names: Vec<_> = pending.iter().map(|(_, scenario)| scenario.name.as_str()).collect();
        let limit = format!("LIMIT={}", SCENARIO_LIMIT.as_secs());
        let machine =
            OuterGuest::boot(home, root, path, &[format!("SCENARIOS={}", names.join(" ")), limit], &["--memory", "1G"]);
        let mut again = VecDeque::new();
        let mut hung = false;
        while let Some((tries, scenario)) = pending.pop_front() {
            let why = match next_end(&machine, &scenario.name) {
                End::Said { broken, output } => {
                    let lines: Vec<&str> = output.iter().map(String::as_str).collect();
                    if !broken || scenario.name == "reset" {
                        (scenario.check)(&lines);
                        continue;
                    }
                    "a microVM ended by itself"
                }
                End::Hung => {
                    hung = true;
                    "nothing more was heard of it"
                }
            };
            eprintln!("tried again, {} of {TRIES}: scenario {:?}: {why}", tries + 1, scenario.name);
            assert!(tries + 1 < TRIES, "scenario {:?} fails again and again: {why}", scenario.name);
            again.push_back((tries + 1, scenario));
            if hung {
                break;
            }
        }
        if hung {
            machine.kill();
        } else {
            assert_eq!(machine.next_line().as_deref(), Some("== left 0"));
            assert!(machine.wait());
        }
        again.append(&mut pending);
        pending = again;
    }
}

#[test]
fn linux_runs_in_microvms_of_libkrun() {
    if sandpen::driver::acceleration::acceleration().accelerator != sandpen::driver::acceleration::Accelerator::Tcg {
        return skip(Reason::KvmWorks, "with KVM, QEMU's processor is the host's");
    }
    let firmware = match sandpen::kernel::krunfw::find(None, &nested::data_dir()) {
        Ok(firmware) => firmware,
        Err(error) => return skip(Reason::NoKrunfw, error),
    };
    let kernel = sandpen::kernel::find(&nested::data_dir()).unwrap();
    let modules = kernel.directory().join("modules");
    if !modules.join("kvm_amd.ko").exists() {
        return skip(Reason::NoKernel, "the installed kernel has no KVM modules; run `sandpen kernel install` again");
    }
    let home = Home::new();
    let root = home.path().join("outer");
    nested::outer_root(&root, Path::new(env!("CARGO_BIN_EXE_sandpen")), &modules, &firmware);
    std::fs::write(root.join("own-kernel"), kernels::of_libkrunfw(&firmware)).unwrap();
    let mke2fs = sandpen::driver::mke2fs::find().expect("mke2fs (`make test` installs it)");
    // Busybox's own is another one.
    std::fs::remove_file(root.join("bin/mke2fs")).unwrap();
    nested::add_program(&root, &mke2fs, "mke2fs");
    std::fs::write(root.join("script"), nested::PREPARE.to_owned() + RUNNER).unwrap();
    std::fs::create_dir(root.join("scenarios")).unwrap();
    let all: VecDeque<_> = scenarios().into_iter().chain(features()).map(|scenario| (0, scenario)).collect();
    for (_, scenario) in &all {
        let script = format!("{}\nexit 0\n", scenario.script);
        std::fs::write(root.join("scenarios").join(&scenario.name), script).unwrap();
    }
    let path = nested::qemu_with_svm(&home.path().join("wrap"));
    run_all(&home, &root, &path, all);
}
