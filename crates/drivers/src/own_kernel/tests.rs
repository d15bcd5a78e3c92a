//! Kernels that are read at the same time.

use std::os::unix::fs::MetadataExt as _;

use sandpen_cache::Cache;
use sandpen_kernels::testing::tiny_vmlinux;

use super::*;

/// The kernel that is in the file now.
async fn ensure<T: Send + 'static>(
    cache: PathBuf,
    file: &Path,
    cancel: &CancellationToken,
    accept: impl Fn(&Facts) -> Result<T, OwnKernelError> + Clone + Send + 'static,
) -> Result<(PathBuf, T), DriverError> {
    let looker = Arc::new(CacheUser::passing(Cache::new(cache, u64::MAX)));
    let found = super::ensure(&looker, file, None, cancel, accept).await?;
    Ok((found.copy, found.accepted))
}

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

/// Starts by the restart policy, while something writes to the file between them.
#[tokio::test]
async fn a_pinned_kernel_stays_the_same_and_leaves_one_copy_in_a_full_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, file) = (Cache::new(dir.path().join("cache"), 0), dir.path().join("vmlinux"));
    std::fs::write(&file, tiny_vmlinux(62, Some((b"Xen", 18)))).unwrap();
    let cancel = CancellationToken::new();
    let looker = Arc::new(CacheUser::passing(cache.clone()));
    let asked = super::ensure(&looker, &file, None, &cancel, accepts).await.unwrap();
    for start in 1..6_u8 {
        let grown = [std::fs::read(&file).unwrap(), vec![start]].concat();
        std::fs::write(&file, grown).unwrap();
        let list = cache.directory().join(format!("uses/default/a.{start}"));
        let user = Arc::new(CacheUser::new(cache.clone(), list));
        let found = super::ensure(&user, &file, Some(asked.digest), &cancel, accepts).await.unwrap();
        assert_eq!((&found.copy, found.digest), (&asked.copy, asked.digest));
        cache.keep_within_budget();
        let kernels = std::fs::read_dir(cache.directory()).unwrap().flatten();
        assert_eq!(kernels.filter(|entry| entry.path().is_file()).count(), 1);
    }
    // A request takes what the file holds now; the one in use stays beside it.
    let next = super::ensure(&looker, &file, None, &cancel, accepts).await.unwrap();
    assert!(next.digest != asked.digest && next.copy.exists() && asked.copy.exists());
    // Gone, with the file changed: there is nothing to boot, and the error says what to do.
    std::fs::remove_file(&asked.copy).unwrap();
    let refused = super::ensure(&looker, &file, Some(asked.digest), &cancel, accepts).await.unwrap_err().chain();
    assert!(refused.contains("sandpen run") && refused.contains("vmlinux"), "{refused}");
}
