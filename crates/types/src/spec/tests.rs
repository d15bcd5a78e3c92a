//! Names, texts and limits, good and hostile.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

fn spec() -> SandboxSpec {
    SandboxSpec::new(SandboxName::new("a").unwrap(), Rootfs::Native("/srv/root".into()), vec!["/bin/true".into()])
}

#[test]
fn names_are_safe_file_names() {
    for good in ["a", "A9", "web-1", "x_y.z", &"a".repeat(63)] {
        assert!(SandboxName::new(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", ".a", "-a", "_a", "a/b", "../a", "a..b", "a b", "a\0", "a\n", "ä", &"a".repeat(64)] {
        assert!(SandboxName::new(bad).is_err(), "{bad:?}");
        assert!(ConfigName::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_name_from_json_is_checked_too() {
    assert!(serde_json::from_str::<SandboxName>("\"ok\"").is_ok());
    assert!(serde_json::from_str::<SandboxName>("\"../etc\"").is_err());
}

#[test]
fn bytes_that_are_not_text_survive_json() {
    let mut spec = spec();
    let odd = ByteString::from(OsString::from_vec(vec![0xff, b'a', 0xfe]));
    spec.env.push(("KEY".into(), odd.clone()));
    spec.command.push(odd);
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<SandboxSpec>(&json).unwrap(), spec);
}

#[test]
fn every_limit_has_its_refusal() {
    let base = spec();
    assert_eq!(base.check_values(), Ok(()));
    let refused = |change: &dyn Fn(&mut SandboxSpec)| {
        let mut spec = base.clone();
        change(&mut spec);
        spec.check_values().unwrap_err()
    };
    assert!(matches!(refused(&|s| s.resources.memory_mib = 16), SpecError::Memory { mib: 16, .. }));
    assert!(matches!(refused(&|s| s.resources.cpus = 0), SpecError::Cpus(0)));
    assert!(matches!(refused(&|s| s.command.clear()), SpecError::NoCommand));
    let idle = SandboxSpec { idle: true, command: vec![], ..base.clone() };
    assert_eq!(idle.check_values(), Ok(()));
    let odd = [
        SandboxSpec { command: base.command.clone(), ..idle.clone() },
        SandboxSpec { stdin: true, ..idle.clone() },
        SandboxSpec { terminal: Some(TerminalSize::default()), ..idle.clone() },
    ];
    for odd in odd {
        assert!(matches!(odd.check_values(), Err(SpecError::Idle { .. })), "{odd:?}");
    }
    for limit in [Duration::ZERO, Duration::from_millis(999), Duration::MAX] {
        assert_eq!(refused(&|s| s.idle_timeout = Some(limit)), SpecError::IdleTimeout(limit));
    }
    // That of an image is known when it was looked at.
    let image = |digest| Rootfs::Image(ImageRoot { digest, ..ImageRoot::new("debian".parse().unwrap()) });
    let mut unresolved = SandboxSpec { rootfs: image(None), command: vec![], ..spec() };
    assert_eq!(unresolved.check_values(), Ok(()));
    unresolved.rootfs = image(Some(crate::image::ImageDigest::new([1; 32])));
    assert_eq!(unresolved.check_values(), Err(SpecError::NoCommand));
    let refused_of_image = SandboxSpec { rootfs: image(None), command: vec!["".into()], ..spec() };
    assert_eq!(refused_of_image.check_values(), Err(SpecError::NoCommand));
    assert!(matches!(refused(&|s| s.command[0] = "a\0b".into()), SpecError::Nul { .. }));
    assert!(matches!(refused(&|s| s.env.push(("".into(), "x".into()))), SpecError::Env(_)));
    assert!(matches!(refused(&|s| s.env.push(("A=B".into(), "x".into()))), SpecError::Env(_)));
    assert!(matches!(refused(&|s| s.env.push(("A".into(), "\0".into()))), SpecError::Nul { .. }));
    assert!(matches!(refused(&|s| s.workdir = Some("tmp".into())), SpecError::Workdir(_)));
    assert!(matches!(refused(&|s| s.log.max_bytes = 1), SpecError::Log { .. }));
    for keep in [0, LOG_KEEP_MAX + 1, u32::MAX] {
        assert!(refused(&|s| s.log.keep = keep).to_string().ends_with("and 1 to 1000 files"));
    }
    let long = "x".repeat(WORKLOAD_MAX_BYTES);
    assert!(matches!(refused(&|s| s.command.push(long.as_str().into())), SpecError::TooLarge { .. }));
    assert!(matches!(refused(&|s| s.rootfs = Rootfs::Native("rel".into())), SpecError::RootfsRelative(_)));
}

#[test]
fn an_env_value_never_shows_in_an_error() {
    let mut spec = spec();
    spec.env.push(("TOKEN".into(), "s3cret\0".into()));
    assert!(!spec.check_values().unwrap_err().to_string().contains("s3cret"));
}

#[test]
fn rootfs_texts() {
    for text in ["", "native", "native:", "other:/a", "native:/a:/b", "overlayfs:", "overlayfs:/a:", "native:/a\\"] {
        assert!(Rootfs::from_text(text).is_err(), "{text:?}");
    }
    let odd = Rootfs::Overlayfs(vec!["/a:b".into(), "/c\\".into()]);
    assert_eq!(odd.to_text(), "overlayfs:/a\\:b:/c\\\\");
}

proptest! {
    #[test]
    fn rootfs_text_is_unambiguous(paths in proptest::collection::vec("/[a-z:\\\\]{1,12}", 1..4), native: bool) {
        let mut paths: Vec<PathBuf> = paths.into_iter().map(PathBuf::from).collect();
        let rootfs = if native { Rootfs::Native(paths.remove(0)) } else { Rootfs::Overlayfs(paths) };
        prop_assert_eq!(Rootfs::from_text(&rootfs.to_text()).unwrap(), rootfs);
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".*") {
        let _ = Rootfs::from_text(&text);
        let _ = SandboxName::new(text);
    }
}
