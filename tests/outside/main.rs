//! An application outside of this workspace, with sandpen as its only dependency: the README's example builds there and
//! runs, with nothing of this workspace's configuration.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Home, explain, output_within, until};

/// A build of sandpen's crates on two busy cores.
const BUILD_DEADLINE: std::time::Duration = std::time::Duration::from_mins(20);
/// What an application is called here; nothing else in the target directory may be.
const NAME: &str = "sandpen-outside-application";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The application's cargo, in its directory, where no configuration of this workspace is found.
fn cargo(application: &Path, arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(arguments).arg("--offline").current_dir(application).stdin(Stdio::null());
    // What this workspace's configuration, cargo and the runner of tests have set.
    let of_ours = ["CARGO", "RUST", "NEXTEST", "PKG_CONFIG", "LD_LIBRARY_PATH", "LIBCLANG", "__CARGO"];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if of_ours.iter().any(|ours| text.starts_with(ours)) && text != "CARGO_HOME" && text != "RUSTUP_HOME" {
            cargo.env_remove(&name);
        }
    }
    if let Some(toolchain) = std::env::var_os("RUSTUP_TOOLCHAIN") {
        cargo.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    // No system's libkrun either.
    cargo.env("PKG_CONFIG_LIBDIR", application);
    // What other packages need was built before; only the directory is shared.
    cargo.env("CARGO_TARGET_DIR", target()).env("CARGO_INCREMENTAL", "0");
    cargo
}

/// This workspace's target directory.
fn target() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_sandpen")).ancestors().nth(2).unwrap().to_owned()
}

/// The README's example, in these directories.
fn example(state_dir: &str, rootfs: &str) -> String {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```rust,no_run\n").expect("an example");
    let code = rest.split("```").next().unwrap();
    let places = [("/var/lib/my-service", state_dir), ("/srv/rootfs", rootfs)];
    places.into_iter().fold(code.to_owned(), |code, (place, ours)| {
        assert!(code.contains(place), "the example has no {place}");
        code.replace(place, ours)
    })
}

/// The line of the README that an application depends on sandpen with, for the tree that this is.
fn dependency() -> String {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let line = readme.lines().find(|line| line.starts_with("sandpen = {")).expect("the one line");
    let place = line.split('"').nth(1).unwrap();
    line.replace(place, root().to_str().unwrap())
}

#[test]
fn the_example_of_the_readme_builds_and_runs_with_one_line_of_dependencies() {
    let home = Home::new();
    let application = home.path().join("application");
    fs::create_dir_all(application.join("src")).unwrap();
    // The versions and the profile that what is shared was built with.
    fs::copy(root().join("Cargo.lock"), application.join("Cargo.lock")).unwrap();
    let ours = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let profile = ours.split("\n\n").filter(|part| part.contains("[profile.dev")).collect::<Vec<_>>().join("\n\n");
    let dependency = dependency();
    let manifest = format!(
        "[package]\nname = \"{NAME}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependency}\n\n{profile}\n"
    );
    fs::write(application.join("Cargo.toml"), manifest).unwrap();
    let state = home.state();
    fs::write(application.join("src/main.rs"), example(state.to_str().unwrap(), &home.rootfs())).unwrap();

    let built = output_within(BUILD_DEADLINE, cargo(&application, &["build", "--quiet"]));
    assert!(built.status.success(), "{}", explain(&built));
    let tree = output_within(BUILD_DEADLINE, cargo(&application, &["tree", "--prefix=none", "--edges=normal,build"]));
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.contains("\nlibkrun v") && !tree.contains("krun-sys"), "{tree}");

    let program = target().join("debug").join(NAME);
    let ran = output_within(support::DEADLINE, Command::new(&program));
    fs::remove_file(&program).unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let hello = format!("{:?}", b"hello\n");
    assert!(ran.status.success() && said.contains(&hello) && said.ends_with("STOPPED\n"), "{}", explain(&ran));
    assert!(ran.stderr.is_empty(), "{}", explain(&ran));
    until("nothing runs", || home.processes().is_empty());
}
