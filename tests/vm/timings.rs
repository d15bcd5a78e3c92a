//! `sandpen run --timings`: where the time of a start goes, with real microVMs, through the built binary.

use std::process::Output;

use crate::support::{self, Home, explain, guests, is_there, output, run_on_host, succeeds, until};

/// A row of the table: its step, who spent the time, and the two times in microseconds.
type Row = (String, String, u64, u64);

fn microseconds(cell: &str) -> u64 {
    let (whole, part) = cell.split_once('.').unwrap();
    assert_eq!(part.len(), 3, "{cell}");
    whole.parse::<u64>().unwrap() * 1000 + part.parse::<u64>().unwrap()
}

/// The table on standard error; each row's time is the sum of what all rows up to it took.
fn table(output: &Output) -> Vec<Row> {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let lines = text.lines().skip_while(|line| !line.starts_with("STEP")).skip(1);
    let rows: Vec<Row> = lines
        .map(|line| {
            let cells: Vec<_> = line.split_whitespace().collect();
            (cells[0].to_owned(), cells[1].to_owned(), microseconds(cells[2]), microseconds(cells[3]))
        })
        .collect();
    let mut sum = 0;
    for (step, _, took, at) in &rows {
        sum += took;
        assert_eq!(sum, *at, "{step} in {text}");
    }
    rows
}

/// That RUNNING is durable beside what the workload does, which may end before that is on the disk.
fn became_running(rows: &[Row]) {
    in_order(rows, &["workload_started", "running", "exit_recorded"]);
}

/// Each of `steps` is there, one after the other.
fn in_order(rows: &[Row], steps: &[&str]) {
    let names: Vec<_> = rows.iter().map(|row| row.0.as_str()).collect();
    let places: Vec<_> = steps
        .iter()
        .map(|step| names.iter().position(|name| name == step).unwrap_or_else(|| panic!("{step}: {names:?}")))
        .collect();
    assert!(places.is_sorted(), "{names:?}");
}

const BOOTED: [&str; 16] = [
    "daemon_found",
    "requested",
    "checked",
    "recorded",
    "kernel_ready",
    "root_ready",
    "waiter_started",
    "vmm_started",
    "guest_ready",
    "start_sent",
    "workload_started",
    "workload_ended",
    "exit_recorded",
    "vmm_ended",
    "end_recorded",
    "output_shown",
];

#[test]
fn a_booted_machine_and_a_restored_one_tell_every_step() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let booted = home.run(&["run", "--timings", "--driver", "qemu", "-n", "a", &rootfs, "--", "echo", "hi"]);
    assert_eq!((booted.status.code(), booted.stdout.as_slice()), (Some(0), &b"hi\n"[..]), "{}", explain(&booted));
    let rows = table(&booted);
    in_order(&rows, &BOOTED);
    became_running(&rows);
    in_order(&rows, &["workload_started", "first_output", "output_complete"]);
    assert!(rows.iter().all(|row| row.0 != "template_ready"), "{rows:?}");
    let by = |step: &str| rows.iter().find(|row| row.0 == step).unwrap().1.clone();
    assert_eq!([by("recorded"), by("guest_ready"), by("vmm_ended")], ["sandpen", "guest", "vmm"].map(str::to_owned));

    // What programs get is the same: the daemon's steps of the table, between its own.
    let timings = &home.inspect("a")["timings"];
    assert_eq!(timings["adopted"], false);
    let steps = timings["steps"].as_array().unwrap();
    let mut sum = 0;
    for step in steps {
        sum += step["took_us"].as_u64().unwrap();
        assert_eq!(step["at_us"].as_u64().unwrap(), sum, "{steps:?}");
    }
    assert_eq!(steps.last().unwrap()["step"], "released");
    assert_eq!(steps.len(), rows.len() - 2, "{steps:?}\n{rows:?}");

    if support::restores("the steps of a restored machine") {
        let restored =
            home.run(&["run", "--rm", "--timings", "--driver", "qemu", "--root", "image", &rootfs, "--", "true"]);
        let rows = table(&restored);
        in_order(&rows, &BOOTED);
        became_running(&rows);
        in_order(&rows, &["root_ready", "template_ready", "waiter_started"]);
        in_order(&rows, &["output_shown", "removed"]);
    }
}

#[test]
fn a_machine_of_libkrun_tells_its_steps() {
    if !guests::kvm() {
        return;
    }
    let home = Home::new();
    let image = guests::build(home.path(), "print");
    let arguments = ["run", "--timings", "--driver", "krun-bare", "--memory", "96M"];
    let mut command = home.sandpen(&arguments);
    command.args([home.path(), std::path::Path::new("--"), &image]);
    let ran = output(command);
    assert_eq!(ran.status.code(), Some(42), "{}", explain(&ran));
    let rows = table(&Output { stderr: ran.stderr.strip_prefix(b"err\n").unwrap_or(&ran.stderr).to_vec(), ..ran });
    // A bare program has no kernel to look for.
    let expected: Vec<_> = BOOTED.into_iter().filter(|step| *step != "kernel_ready").collect();
    in_order(&rows, &expected);
    became_running(&rows);
}

#[test]
fn in_the_background_it_tells_the_start_and_of_an_adopted_one_that_it_is() {
    let home = Home::new();
    let started = succeeds(run_on_host(&home, &["-d", "--timings", "-n", "a"], "sleep 1000"));
    assert_eq!(started.stdout, b"a\n");
    let rows = table(&started);
    in_order(&rows, &["daemon_found", "requested", "recorded", "waiter_started", "vmm_started", "running", "answered"]);
    assert!(rows.iter().all(|row| row.0 != "workload_ended"), "{rows:?}");

    let daemon = home.daemon_pid();
    home.kill_daemon();
    until("the daemon is gone", || !is_there(daemon));
    home.ok(&["stop", "-t", "5", "a"]);
    let timings = home.inspect("a")["timings"].clone();
    assert_eq!(timings["adopted"], true);
    let steps: Vec<_> =
        timings["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert!(steps.ends_with(&["vmm_ended", "end_recorded", "released"]), "{steps:?}");
    assert!(steps.iter().all(|step| !["requested", "running"].contains(step)), "{steps:?}");

    // One that ended under another daemon is not known at all.
    home.ok(&["shutdown"]);
    assert_eq!(home.inspect("a")["timings"], serde_json::Value::Null);
}
