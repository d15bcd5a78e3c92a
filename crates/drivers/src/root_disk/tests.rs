//! Disks of small directories, by the real process; and a directory in whose place others come.

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use sandpen_cache::Cache;

use super::*;
use crate::tests::maker;

fn user(cache: &Path, bytes: u64) -> Arc<CacheUser> {
    let cache = Cache::new(cache.to_owned(), bytes);
    Arc::new(CacheUser::new(cache.clone(), cache.directory().join("uses/default/a.1")))
}

async fn ensure(cache: &Path, directory: &Path) -> Outcome<PathBuf, RootDiskError> {
    super::ensure(&user(cache, u64::MAX), &maker(), directory, &CancellationToken::new()).await
}

fn is_failed(result: &Outcome<PathBuf, RootDiskError>, is_it: impl Fn(&RootDiskError) -> bool) -> bool {
    matches!(result.as_ref().map_err(|error| &**error), Err(WorkError::Failed(error)) if is_it(error))
}

fn root(dir: &Path) -> PathBuf {
    let root = dir.join("odd ?root, a=b");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/file"), vec![7; 3 << 20]).unwrap();
    symlink("bin/file", root.join("link")).unwrap();
    root
}

fn count(cache: &Path) -> usize {
    let is_image = |name: std::ffi::OsString| name.to_string_lossy().ends_with(SUFFIX);
    fs::read_dir(cache.join("images")).unwrap().filter(|entry| is_image(entry.as_ref().unwrap().file_name())).count()
}

#[tokio::test]
async fn a_disk_is_made_once_for_each_content() {
    let dir = tempfile::tempdir().unwrap();
    let (root, cache) = (root(dir.path()), dir.path().join("cache"));
    let first = ensure(&cache, &root).await.unwrap();
    let meta = fs::metadata(&first).unwrap();
    assert_eq!((meta.len() % SIZE_STEP, meta.mode() & 0o777), (0, 0o644), "readable for the own users of sandboxes");
    assert!(meta.blocks() * 512 < 8 << 20, "{} blocks", meta.blocks());
    assert_eq!(ensure(&cache, &root).await.unwrap(), first);
    assert_eq!(fs::metadata(&first).unwrap().ino(), meta.ino());
    // A change that keeps size and time of modification.
    let file = root.join("bin/file");
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, vec![8; 3 << 20]).unwrap();
    File::open(&file).unwrap().set_modified(modified).unwrap();
    let second = ensure(&cache, &root).await.unwrap();
    assert_ne!(second, first);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_ne!(ensure(&cache, &root).await.unwrap(), second);
    assert_eq!(count(&cache), 3);
    // One that was cut short is made again.
    File::options().write(true).open(&second).unwrap().set_len(4096).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    ensure(&cache, &root).await.unwrap();
    let drafts = fs::read_dir(cache.join("images")).unwrap();
    assert!(drafts.flatten().all(|entry| !entry.file_name().to_string_lossy().starts_with(".draft")));
}

#[tokio::test]
async fn a_disk_that_is_used_stays_whatever_is_made_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let (root, cache) = (root(dir.path()), dir.path().join("cache"));
    let (used, passing) = (user(&cache, 0), Arc::new(CacheUser::passing(Cache::new(cache.clone(), 0))));
    let cancel = CancellationToken::new();
    let first = super::ensure(&used, &maker(), &root, &cancel).await.unwrap();
    let mut last = first.clone();
    for number in 0..3 {
        fs::write(root.join("more"), number.to_string()).unwrap();
        let next = super::ensure(&passing, &maker(), &root, &cancel).await.unwrap();
        assert!(next != last && next.exists() && first.exists());
        assert_eq!(count(&cache), 2, "the one in use, and the last one");
        last = next;
    }
    fs::remove_dir_all(cache.join("uses")).unwrap();
    passing.cache().keep_within_budget();
    assert!(!first.exists() && last.exists());
}

#[tokio::test]
async fn what_cannot_be_had_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let gone = ensure(dir.path(), &dir.path().join("gone")).await;
    assert!(is_failed(&gone, |error| matches!(error, RootDiskError::Read { .. })), "{gone:?}");
    fs::write(dir.path().join("file"), "").unwrap();
    let root = root(dir.path());
    let in_a_file = ensure(&dir.path().join("file"), &root).await;
    assert!(is_failed(&in_a_file, |error| matches!(error, RootDiskError::File { .. })), "{in_a_file:?}");
}

#[tokio::test]
async fn many_at_once_make_one_disk_and_dead_drafts_go() {
    let dir = tempfile::tempdir().unwrap();
    let (root, cache) = (root(dir.path()), dir.path().join("cache"));
    let disks = cache.join("images");
    fs::create_dir_all(&disks).unwrap();
    let held = Draft::create(&disks).unwrap();
    let dead = disks.join(".draft-dead");
    fs::write(&dead, "").unwrap();
    let made = futures::future::join_all((0..6).map(|_| ensure(&cache, &root))).await;
    let first = made[0].as_ref().unwrap();
    assert!(made.iter().all(|path| path.as_ref().unwrap() == first));
    assert_eq!(count(&cache), 1);
    assert!(held.path().exists() && !dead.exists(), "one that is written to stays, a dead daemon's goes");
    drop(held);
    assert_eq!(fs::read_dir(&disks).unwrap().count(), 1);
}

#[tokio::test]
async fn a_directory_has_one_fingerprint_whatever_its_size_and_none_that_is_too_deep() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("sub/deeper")).unwrap();
    for number in 0..3000 {
        fs::write(root.join(format!("sub/{number}")), "").unwrap();
    }
    let cancel = CancellationToken::new();
    let user = user(dir.path(), 0);
    let look = async || look(user.clone(), &root, &cancel).await.map(|(survey, _)| survey.fingerprint);
    let first = look().await.unwrap();
    assert_eq!(look().await.unwrap(), first);
    // Two that are alike but for where they lie.
    fs::write(root.join("sub/deeper/last"), "").unwrap();
    let second = look().await.unwrap();
    fs::rename(root.join("sub/deeper/last"), root.join("sub/last")).unwrap();
    let third = look().await.unwrap();
    assert!(first != second && second != third && first != third);

    fs::create_dir_all(root.join("d/".repeat(DEPTH_MAX))).unwrap();
    let error = look().await.unwrap_err().to_string();
    assert!(error.contains("more than 256 directories deep") && error.contains("virtiofs"), "{error}");
    cancel.cancel();
    assert!(matches!(&*look().await.unwrap_err(), WorkError::Cancelled));
}
