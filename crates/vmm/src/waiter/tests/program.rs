//! Which program a waiter is.

use std::collections::HashSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::*;

/// The one that an orchestrator of before, or anybody else of our user, has put where ours lay.
#[tokio::test]
async fn a_file_in_the_place_of_the_waiter_is_not_run() {
    let home = Home::new();
    let installed = install::from_file(&home.bin()).unwrap().name().to_owned();
    let length = fs::metadata(&installed).unwrap().len();
    let mut hostile = format!("#!/bin/sh\ntouch {}/ran\n", home.path().display()).into_bytes();
    hostile.resize(usize::try_from(length).unwrap(), b'#');
    fs::remove_file(&installed).unwrap();
    fs::write(&installed, hostile).unwrap();
    fs::set_permissions(&installed, fs::Permissions::from_mode(0o700)).unwrap();
    let vmm = home.launch(vec![shell("vmm", "exit 42")]).await.unwrap();
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Code(42));
    within(vmm.release()).await.unwrap();
    assert!(!home.path().join("ran").exists());
}

#[tokio::test]
async fn waiters_share_their_memory_and_are_known_by_their_names() {
    let home = Home::new();
    let mut programs = HashSet::new();
    for name in ["a", "b", "c"] {
        let (runtime, spec) = (home.path().join("run").join(name), home.spec(vec![shell("vmm", "exec sleep 1000")]));
        let vmm = WaitedVmm::launch(&runtime, &home.bin(), spec, &StartTimings::default()).await.unwrap();
        let record = fs::read_to_string(runtime.join("processes")).unwrap();
        let waiter = format!("/proc/{}", ProcessesRecord::from_text(&record).unwrap().processes[0].1);
        let program = fs::metadata(format!("{waiter}/exe")).unwrap();
        programs.insert((program.dev(), program.ino()));
        let read = |file: &str| fs::read_to_string(format!("{waiter}/{file}")).unwrap();
        assert_eq!((read("comm").as_str(), read("cmdline").as_str()), ("sandpen-waiter\n", "sandpen-waiter\0test\0"));
        within(vmm.release()).await.unwrap();
    }
    assert_eq!(programs.len(), 1);
    // Unless this system allows none.
    if install::program(&home.bin()).unwrap().name() == Path::new(install::NAME) {
        assert!(!home.bin().exists(), "no file is needed");
    }
}

#[test]
fn where_memory_is_not_executed_a_file_is() {
    let home = Home::new();
    let mut process = home.run_test("waiter::tests::program::in_a_process_whose_memory_is_not_executed");
    assert!(process.wait().unwrap().success());
    assert_eq!(fs::read_dir(home.bin()).unwrap().count(), 1);
}

/// In a process of its own: the memory is every test's of a process.
#[ignore = "run by another test"]
#[tokio::test]
async fn in_a_process_whose_memory_is_not_executed() {
    let home = Home::from_environment();
    let memory = install::program(&home.bin()).unwrap();
    fs::set_permissions(memory.path(), fs::Permissions::from_mode(0o600)).unwrap();
    for _ in 0..2 {
        let vmm = home.launch(vec![shell("vmm", "exec sleep 1000")]).await.unwrap();
        let program = fs::read_link(format!("/proc/{}/exe", home.pid("waiter"))).unwrap();
        assert!(program.starts_with(home.bin()), "{program:?}");
        within(vmm.release()).await.unwrap();
    }
}
