//! What a waiter has locked for what its microVM uses.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::*;

/// Whether somebody has the file locked.
fn is_locked(path: &Path) -> bool {
    match File::open(path).unwrap().try_lock() {
        Ok(()) => false,
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(error)) => panic!("{error}"),
    }
}

fn leased(home: &Home, script: &str) -> (PathBuf, WaiterSpec) {
    let lease = home.path().join("lease");
    fs::write(&lease, "").unwrap();
    let spec = WaiterSpec { leases: vec![lease.clone()], ..home.spec(vec![shell("vmm", script)]) };
    (lease, spec)
}

/// Until it is so; a killed process gives its locks back a moment later.
async fn until_locked(path: &Path, wanted: bool) {
    let waited = async {
        while is_locked(path) != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within(waited).await;
}

#[tokio::test]
async fn what_a_microvm_uses_is_locked_until_its_waiter_ends() {
    let home = Home::new();
    let (lease, spec) = leased(&home, "read line < control.in; exit 3");
    let ours = File::open(&lease).unwrap();
    ours.lock_shared().unwrap();
    let vmm = home.launch_spec(spec).await.unwrap();
    drop(ours);
    assert!(is_locked(&lease));
    home.write("control.in", b"go\n");
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Code(3));
    assert!(is_locked(&lease), "until it is released");
    within(vmm.release()).await.unwrap();
    until_locked(&lease, false).await;
}

#[tokio::test]
async fn a_waiter_that_takes_a_killed_ones_place_locks_what_that_one_had_locked() {
    let home = Home::new();
    let (lease, spec) = leased(&home, "exec sleep 1000");
    let vmm = home.launch_spec(spec).await.unwrap();
    for _ in 0..2 {
        drop(WaitedVmm::adopt(&home.runtime(), &home.bin()).await.unwrap());
        kill(&home.pidfd("waiter")).await;
        until_locked(&lease, false).await;
        drop(WaitedVmm::adopt(&home.runtime(), &home.bin()).await.unwrap());
        assert!(is_locked(&lease));
    }
    // Gone, or somebody else's alone: what runs is watched all the same.
    kill(&home.pidfd("waiter")).await;
    fs::remove_file(&lease).unwrap();
    let adopted = WaitedVmm::adopt(&home.runtime(), &home.bin()).await.unwrap();
    assert!(!crate::pidfd::has_ended(home.pidfd("waiter")).unwrap());
    assert!(fs::read_to_string(home.runtime().join("waiter.err")).unwrap().contains("cannot lock"));
    assert_eq!(adopted.pid(), vmm.pid());
    within(vmm.release()).await.unwrap();
}

#[tokio::test]
async fn nothing_starts_without_what_it_is_to_lock() {
    let home = Home::new();
    let (lease, spec) = leased(&home, "touch ../ran");
    fs::remove_file(&lease).unwrap();
    let error = home.launch_spec(spec.clone()).await.unwrap_err();
    assert!(error.to_string().contains("locking, so that it is not removed"), "{error}");
    fs::write(&lease, "").unwrap();
    let alone = File::open(&lease).unwrap();
    alone.lock().unwrap();
    home.launch_spec(spec.clone()).await.unwrap_err();
    let relative = WaiterSpec { leases: vec!["lease".into()], ..spec };
    assert!(matches!(home.launch_spec(relative).await, Err(WaiterError::Invalid(_))));
    assert!(!home.runtime().exists() && !home.path().join("ran").exists());
}
