//! Keeping a kernel by its content, over damage and changes.

use super::*;
use crate::testing::tiny_vmlinux;

/// Both steps, as a driver takes them.
fn ensure<T>(
    cache: &Path,
    file: &Path,
    accept: impl Fn(&Facts) -> Result<T, OwnKernelError>,
) -> Result<(PathBuf, T), OwnKernelError> {
    let look = look(file)?;
    if let Some(known) = &look.known {
        let accepted = accept(known.facts())?;
        if let Some(copy) = known.copy(cache) {
            return Ok((copy, accepted));
        }
    }
    let known = look.read(cache, |facts| accept(facts).is_ok(), || false)?;
    let accepted = accept(known.facts())?;
    Ok((known.kept(cache).unwrap(), accepted))
}

fn kernel() -> Vec<u8> {
    tiny_vmlinux(62, Some((b"Xen", 18)))
}

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("vmlinux")
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn write(&self, bytes: &[u8]) {
        fs::write(self.file(), bytes).unwrap();
    }

    /// Lets the file look as if it was written long ago, so that it is remembered: the change time too, which
    /// takes waiting.
    fn settle(&self) {
        while !Identity::of(&fs::metadata(self.file()).unwrap()).is_settled() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn ensure(&self) -> Result<PathBuf, OwnKernelError> {
        let accept = |facts: &Facts| {
            assert_eq!(facts.path, self.file());
            Ok(())
        };
        ensure(&self.cache(), &self.file(), accept).map(|(copy, ())| copy)
    }
}

#[test]
fn the_copy_has_the_content_whatever_becomes_of_the_file() {
    let fixture = Fixture::new();
    fixture.write(&kernel());
    let copy = fixture.ensure().unwrap();
    assert!(fs::read(&copy).unwrap() == kernel());
    let mut other = kernel();
    other.extend([0; 7]);
    fixture.write(&other);
    assert!(fs::read(&copy).unwrap() == kernel(), "a replaced file does not change what is booted");
    let next = fixture.ensure().unwrap();
    assert!(next != copy && fs::read(&next).unwrap() == other, "the next start takes what is there");
    fixture.write(b"no kernel any more");
    assert!(matches!(fixture.ensure(), Err(OwnKernelError::File(KernelFileError::NotAKernel { .. }))));
    fs::remove_file(fixture.file()).unwrap();
    assert!(matches!(fixture.ensure(), Err(OwnKernelError::File(KernelFileError::Read { .. }))));
}

#[test]
fn a_damaged_or_missing_copy_is_made_again_also_of_a_remembered_file() {
    let fixture = Fixture::new();
    fixture.write(&kernel());
    for remembered in [false, true] {
        if remembered {
            fixture.settle();
        }
        let copy = fixture.ensure().unwrap();
        let mut flipped = kernel();
        flipped[70] ^= 1;
        for damage in [&flipped[..], b"", &kernel()[..100], &[kernel(), vec![0]].concat()] {
            fs::write(&copy, damage).unwrap();
            assert_eq!(fixture.ensure().unwrap(), copy);
            assert!(fs::read(&copy).unwrap() == kernel(), "remembered: {remembered}");
        }
        fs::remove_file(&copy).unwrap();
        std::os::unix::fs::symlink(fixture.file(), &copy).unwrap();
        assert_eq!(fixture.ensure().unwrap(), copy);
        assert!(fs::symlink_metadata(&copy).unwrap().is_file());
        assert_eq!(fs::read_dir(fixture.cache()).unwrap().count(), 1, "nothing half is left");
    }
}

#[test]
fn a_refused_kernel_is_not_kept() {
    let fixture = Fixture::new();
    fixture.write(&kernel());
    let refused = ensure(&fixture.cache(), &fixture.file(), |facts| facts.check_has(&["virtiofs"], "so what"));
    let error = refused.unwrap_err().to_string();
    for word in ["vmlinux", "6.1.0-49-cloud-amd64", "virtiofs", "CONFIG_VIRTIO_FS=y", "so what"] {
        assert!(error.contains(word), "{error}");
    }
    assert!(!fixture.cache().exists());
}

#[test]
fn many_at_once_share_one_copy() {
    let fixture = Fixture::new();
    fixture.write(&kernel());
    let copies: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| fixture.ensure().unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(copies.iter().all(|copy| *copy == copies[0]));
    assert_eq!(fs::read_dir(fixture.cache()).unwrap().count(), 1);
}
