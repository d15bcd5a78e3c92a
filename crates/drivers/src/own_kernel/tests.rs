//! Kernels that are read at the same time.

use std::os::unix::fs::MetadataExt as _;

use sandpen_kernels::testing::tiny_vmlinux;

use super::*;

#[allow(clippy::unnecessary_wraps, reason = "as a driver's")]
fn accepts(_: &Facts) -> Result<(), OwnKernelError> {
    Ok(())
}

/// A kernel that is large, or on a slow disk, holds up nobody who wants another one; nor can a file that is none.
#[tokio::test]
async fn nobody_waits_for_another_ones_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let quick = dir.path().join("quick");
    std::fs::write(&quick, tiny_vmlinux(62, Some((b"Xen", 18)))).unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let cancel = CancellationToken::new();
    let refused = ensure(cache.clone(), &fifo, &cancel, accepts).await.unwrap_err();
    assert!(refused.chain().contains("fifo"), "{}", refused.chain());
    // One that is being looked at without end.
    let slow = dir.path().join("slow");
    std::fs::write(&slow, tiny_vmlinux(62, Some((b"Xen", 18)))).unwrap();
    let (begun, is_begun) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (begun, released) = (std::sync::Mutex::new(begun), std::sync::Mutex::new(released));
    let held = std::sync::Arc::new(move |_: &Facts| {
        begun.lock().unwrap().send(()).unwrap();
        let _ = released.lock().unwrap().recv();
        Ok(())
    });
    let (into, its) = (cache.clone(), cancel.clone());
    let slow_one = tokio::spawn(async move { ensure(into, &slow, &its, move |facts: &Facts| held(facts)).await });
    let (mut looks, mut passed) = (0, false);
    while !passed {
        tokio::task::yield_now().await;
        passed = is_begun.try_recv().is_ok();
        looks += 1;
        assert!(looks < 10_000_000, "it never began");
    }
    let found = ensure(cache.clone(), &quick, &cancel, accepts);
    let (copy, ()) = tokio::time::timeout(Duration::from_secs(30), found).await.expect("it waits").unwrap();
    assert_eq!(std::fs::metadata(&copy).unwrap().size(), std::fs::metadata(&quick).unwrap().size());
    // Who wants the slow one leaves.
    cancel.cancel();
    let left = tokio::time::timeout(Duration::from_secs(30), slow_one).await.expect("it waits").unwrap();
    assert!(matches!(left, Err(DriverError::Cancelled)), "{left:?}");
    drop(release);
}

/// Another machine's demands are not one's own.
#[tokio::test]
async fn a_kernel_that_is_refused_for_one_is_taken_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, file) = (dir.path().join("cache"), dir.path().join("vmlinux"));
    std::fs::write(&file, tiny_vmlinux(62, Some((b"Xen", 18)))).unwrap();
    while own::look(&file).unwrap().key().is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let cancel = CancellationToken::new();
    let demanding = |facts: &Facts| facts.check_has(&["virtiofs"], "so what");
    let (refused, taken) =
        tokio::join!(ensure(cache.clone(), &file, &cancel, demanding), ensure(cache.clone(), &file, &cancel, accepts));
    assert!(refused.unwrap_err().chain().contains("so what"));
    assert!(taken.unwrap().0.starts_with(&cache));
}
