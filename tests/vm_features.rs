//! Every feature of a specification, with every driver that runs Linux on this machine: one table
//! ([`support::features`]). Where KVM runs no Linux, libkrun's half is in `vm_krun_nested.rs`, with the
//! same table.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::process::Stdio;

use support::features::FEATURES;
use support::{Home, explain, feed, finish};

#[test]
fn every_driver_has_every_feature() {
    let home = Home::new();
    let (rootfs, dir) = (home.rootfs(), home.path().join("dir"));
    let dir = dir.to_str().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&home.run(&["doctor", "--json"]).stdout).unwrap();
    let mut drivers = vec!["qemu"];
    if report["auto"] == "krun" {
        drivers.push("krun");
    }
    let mut failures = Vec::new();
    for (driver, feature) in drivers.iter().flat_map(|driver| FEATURES.iter().map(move |feature| (driver, feature))) {
        std::fs::create_dir(dir).unwrap();
        let argv = feature.argv(driver, dir, &rootfs);
        let mut command = home.sandpen(&argv.iter().map(String::as_str).collect::<Vec<_>>());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        feed(&mut child, feature.stdin.unwrap_or_default().as_bytes());
        let output = finish(child);
        if !feature.agrees(output.status.code(), &output.stdout, &output.stderr) {
            failures.push(format!("{} with {driver}: {}", feature.name, explain(&output)));
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
