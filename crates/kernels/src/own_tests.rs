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

/// Both steps of a start that takes what was taken before.
fn again(fixture: &Fixture, sha256: &Sha256Sum) -> Result<PathBuf, OwnKernelError> {
    let (cache, file) = (fixture.cache(), fixture.file());
    let known = match pinned(&cache, &file, sha256) {
        Some(known) => known,
        None => read_pinned(&cache, &file, sha256, |_| true, || false)?,
    };
    assert_eq!((&known.facts().path, known.sha256()), (&file, *sha256));
    Ok(known.kept(&cache).unwrap())
}

/// The digest of what is in the file, of which there is a copy then.
fn digest(fixture: &Fixture) -> Sha256Sum {
    let known = look(&fixture.file()).unwrap().read(&fixture.cache(), |_| true, || false).unwrap();
    known.sha256()
}

#[test]
fn a_pinned_kernel_is_taken_from_its_copy_whatever_the_file_holds() {
    let fixture = Fixture::new();
    fixture.write(&kernel());
    let sha256 = digest(&fixture);
    let copy = copy_path(&fixture.cache(), &sha256);
    for step in 0..5_u8 {
        fixture.write(&[kernel(), vec![step; 9]].concat());
        assert_eq!(again(&fixture, &sha256).unwrap(), copy);
        assert_eq!(fs::read_dir(fixture.cache()).unwrap().count(), 1);
    }
    // As another process finds it: nothing is remembered of it.
    KNOWN.lock().unwrap().retain(|known| known.sha256 != sha256);
    assert!(pinned(&fixture.cache(), &fixture.file(), &sha256).is_none());
    assert_eq!(again(&fixture, &sha256).unwrap(), copy);
    assert!(pinned(&fixture.cache(), &fixture.file(), &sha256).is_some());
    assert!(pinned(&fixture.dir.path().join("other"), &fixture.file(), &sha256).is_none());
    assert!(fs::read(&copy).unwrap() == kernel());
}

#[test]
fn a_pinned_kernel_without_a_copy_has_to_be_in_the_file_still() {
    let fixture = Fixture::new();
    fixture.write(&kernel());
    let sha256 = digest(&fixture);
    let copy = copy_path(&fixture.cache(), &sha256);
    let other = [kernel(), vec![1]].concat();
    for damage in [None, Some(&b"no kernel"[..]), Some(&other)] {
        match damage {
            None => fs::remove_file(&copy).unwrap(),
            Some(bytes) => fs::write(&copy, bytes).unwrap(),
        }
        assert_eq!(again(&fixture, &sha256).unwrap(), copy, "the file has it");
        assert!(fs::read(&copy).unwrap() == kernel());
    }
    fs::remove_file(&copy).unwrap();
    let refused = |words: &str| {
        let error = again(&fixture, &sha256).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, OwnKernelError::Replaced { .. }), "{text}");
        for word in [words, "sandpen run", "vmlinux", &hex(&sha256)] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!copy.exists());
    };
    fixture.write(&other);
    refused("holds another one now");
    fixture.write(b"no kernel any more");
    refused("not a Linux kernel");
    fs::remove_file(fixture.file()).unwrap();
    refused("No such file");
    // A link to what has the digest is no copy of ours.
    fs::write(fixture.dir.path().join("elsewhere"), kernel()).unwrap();
    std::os::unix::fs::symlink(fixture.dir.path().join("elsewhere"), &copy).unwrap();
    assert!(again(&fixture, &sha256).is_err());
    fixture.write(&kernel());
    assert_eq!(again(&fixture, &sha256).unwrap(), copy);
    assert!(fs::symlink_metadata(&copy).unwrap().is_file());
}

#[test]
fn contents_are_compared_to_the_last_byte() {
    let fixture = Fixture::new();
    let long: Vec<u8> = (0..CHUNK * 2 + 7).map(|at| u8::try_from(at % 251).unwrap()).collect();
    fixture.write(&long);
    assert!(holds(&fixture.file(), &long));
    for other in [&long[1..], &long[..long.len() - 1], &[&long[..], &[0]].concat(), &long[..CHUNK], b""] {
        assert!(!holds(&fixture.file(), other), "{} bytes", other.len());
    }
    assert!(!holds(&fixture.dir.path().join("gone"), b""));
}
