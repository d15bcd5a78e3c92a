//! Every feature of a specification, with every driver that runs Linux on this machine: one table
//! ([`crate::support::features`]), and once more with an image as root. Where KVM runs no Linux, libkrun's half is
//! in `tests/nested`, with the same table.

use std::process::Stdio;

use crate::support::features::FEATURES;
use crate::support::{Home, explain, feed, finish};

#[test]
fn every_driver_has_every_feature() {
    let home = Home::new();
    let (rootfs, dir) = (home.rootfs(), home.path().join("dir"));
    let dir = dir.to_str().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&home.run(&["doctor", "--json"]).stdout).unwrap();
    let mut drivers = vec![("qemu", false), ("qemu", true)];
    if report["auto"] == "krun" {
        drivers.extend([("krun", false), ("krun", true)]);
    }
    let mut failures = Vec::new();
    let rows = drivers.iter().flat_map(|driver| FEATURES.iter().map(move |feature| (driver, feature)));
    for ((driver, image), feature) in rows {
        std::fs::create_dir(dir).unwrap();
        let mut argv = feature.argv(driver, dir, &rootfs);
        if *image && !argv.iter().any(|arg| arg == "--root") {
            // Under emulation the machine is restored then, where nothing but disks belongs to it.
            argv.splice(1..1, ["--root".to_owned(), "image".to_owned()]);
        }
        let mut command = home.sandpen(&argv.iter().map(String::as_str).collect::<Vec<_>>());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        feed(&mut child, feature.stdin.unwrap_or_default().as_bytes());
        let output = finish(child);
        if !feature.agrees(output.status.code(), &output.stdout, &output.stderr) {
            failures.push(format!("{} with {driver}, image {image}: {}", feature.name, explain(&output)));
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
