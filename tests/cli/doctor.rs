//! `sandpen doctor`: what it says of this host, and of one that allows less.

use crate::support::{Home, explain, in_namespaces, output};

#[test]
fn the_doctor_reports_without_a_daemon() {
    let home = Home::new();
    let text = home.run(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&text.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.iter().all(|check| ["ok", "warn", "fail"].contains(&check["status"].as_str().unwrap())));
    assert_eq!(text.status.code(), Some(i32::from(report["auto"].is_null())), "{}", explain(&text));
    let table = String::from_utf8(home.run(&["doctor"]).stdout).unwrap();
    assert!(table.contains("driver: ") && table.lines().count() == checks.len() + 2, "{table}");
    assert!(!home.state().exists());
}

#[test]
fn it_fails_for_what_is_demanded_alone() {
    let home = Home::new();
    let jail = |options: &[&str], demanded: Option<&str>| {
        let doctor = home.sandpen(&[&["doctor", "--json"], options].concat());
        // Whoever may make no mount namespace makes no jail.
        let mut command = in_namespaces("echo 0 > /proc/sys/user/max_mnt_namespaces", &doctor)?;
        command.env_remove("SANDPEN_REQUIRE_CONFINEMENT");
        let said = output({
            command.envs(demanded.map(|demanded| ("SANDPEN_REQUIRE_CONFINEMENT", demanded)));
            command
        });
        let report: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        let jail = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "jail").unwrap();
        // No daemon with these options starts a microVM.
        assert_eq!(said.status.code(), Some(i32::from(report["auto"].is_null())), "{}", explain(&said));
        assert!(jail["status"] != "fail" || report["auto"].is_null(), "{report}");
        Some(jail["status"].as_str().unwrap().to_owned())
    };
    for (options, demanded, status) in [
        (&["--require-confinement"][..], None, "fail"),
        (&[], Some("yes"), "fail"),
        (&[], Some("no"), "warn"),
        // Root of another user namespace is not the host's.
        (&[], None, "warn"),
        (&["--require-confinement=no"], Some("yes"), "warn"),
    ] {
        let Some(found) = jail(options, demanded) else { return };
        assert_eq!(found, status, "{options:?} {demanded:?}");
    }
}
