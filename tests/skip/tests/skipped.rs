//! A real test that skips, as the test runner runs it, and the program that scripts use.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::{Command, Output};

use sandpen_skip::{ALLOWED, LIST, Reason, skip};

/// With an environment of which only these variables are known.
fn run(mut command: Command, list: &Path, variables: &[(&str, &str)]) -> Output {
    command.env_remove("CI").env_remove(ALLOWED).env_remove("NEXTEST_TEST_NAME").env(LIST, list);
    command.envs(variables.iter().copied()).output().unwrap()
}

fn program(arguments: &[&str], list: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandpen-skip"));
    command.args(arguments);
    run(command, list, variables)
}

/// Not a test of its own: it skips.
#[test]
#[ignore = "run by a_skip_is_listed_and_fails_where_it_is_not_allowed"]
fn skipping() {
    skip(Reason::NoMke2fs, "none is\ninstalled");
}

#[test]
fn a_skip_is_listed_and_fails_where_it_is_not_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("below/list");
    let test = |variables: &[(&str, &str)]| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--test-threads", "2", "skipping"]);
        run(command, &list, variables)
    };
    let report = || {
        let output = program(&["report"], &list, &[]);
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    assert_eq!(report(), ("skipped: none\n".to_owned(), Some(0)));
    let line = "skipped skipping: no-mke2fs: none is installed";
    let allowed: [&[(&str, &str)]; 3] = [&[], &[("CI", "false")], &[("CI", "true"), (ALLOWED, "no-kvm,no-mke2fs")]];
    for variables in allowed {
        let output = test(variables);
        assert!(output.status.success(), "{variables:?}: {output:?}");
        // Run again it is one line still.
        assert_eq!(report(), (format!("skipped: 1\n  {line}\n"), Some(0)));
    }
    let refused: [&[(&str, &str)]; 3] = [&[("CI", "true")], &[(ALLOWED, "")], &[(ALLOWED, "no-kvm")]];
    for variables in refused {
        assert!(program(&["clear"], &list, &[]).status.success());
        let output = test(variables);
        assert!(!output.status.success(), "{variables:?}: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("not run for no-mke2fs") && text.contains(ALLOWED), "{text}");
        assert_eq!(report(), (format!("skipped: 1\n  {line} [not allowed]\n"), Some(1)));
    }
}

#[test]
fn scripts_skip_in_the_same_way() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    let skip = |reason: &str, allowed: &str| {
        program(&["skip", "make test", reason, "no network"], &list, &[(ALLOWED, allowed)]).status.code()
    };
    assert_eq!(skip("no-krunfw", "no-krunfw"), Some(0));
    assert_eq!(skip("no-krunfw", ""), Some(1));
    assert_eq!(skip("no-such-reason", ""), Some(2));
    let text = std::fs::read_to_string(&list).unwrap();
    assert_eq!(text, "make test: no-krunfw: no network\nmake test: no-krunfw: no network [not allowed]\n");
}
