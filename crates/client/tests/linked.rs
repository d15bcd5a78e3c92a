//! A client is small: what a daemon is made of is not linked into it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

/// What no client and nothing below it may depend on, however far away.
const FORBIDDEN: [&str; 8] =
    ["actix", "actix-rt", "actix-web", "sqlx", "libsqlite3-sys", "libkrun", "sandpen-actors", "sandpen-guest"];

fn linked(package: &str) -> Vec<String> {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--package", package]);
    let output = tree.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    names.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn a_client_links_nothing_of_a_daemon() {
    let client = linked("sandpen-client");
    assert!(client.iter().any(|name| name == "hyper"), "{client:?}");
    for name in FORBIDDEN {
        assert!(!client.iter().any(|linked| linked == name), "{name}");
    }
    let ours: Vec<_> = client.iter().filter(|name| name.starts_with("sandpen-")).collect();
    assert!(
        ours.iter().all(|name| ["sandpen-client", "sandpen-api", "sandpen-types"].contains(&name.as_str())),
        "{ours:?}"
    );
}

#[test]
fn the_wire_and_the_types_do_no_io() {
    for package in ["sandpen-api", "sandpen-types"] {
        let names = linked(package);
        for name in FORBIDDEN.into_iter().chain(["tokio", "hyper", "nix", "rustix"]) {
            assert!(!names.iter().any(|linked| linked == name), "{package}: {name}");
        }
    }
}
