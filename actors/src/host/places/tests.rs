//! Nesting by path and by mounts; the mounts are written down, but for one test that makes some.

use sandpen_types::spec::{SandboxName, Volume};

use super::*;

const MOUNTS: &str = "\
1 0 8:1 / / rw
2 1 8:2 / /nowhere/data rw
3 1 8:1 /nowhere/share/sub /nowhere/bind rw
4 2 8:1 /nowhere/elsewhere /nowhere/data/in rw
5 1 8:2 /roots /nowhere/share/mounted rw
6 1 8:1 /boot/vmlinux /nowhere/share/kernel rw";

fn state() -> StateDir {
    StateDir::new("/nowhere/state".into())
}

fn key(name: &str) -> SandboxKey {
    SandboxKey::new(SandboxName::new(name).unwrap())
}

/// A sandbox with a read-only layer as root, and what else is said.
fn spec(name: &str, volumes: &[(&str, bool)]) -> SandboxSpec {
    let volume = |(number, (host, read_only)): (usize, &(&str, bool))| {
        Volume::of_host(host, format!("/{number}").as_str(), *read_only)
    };
    let root = Rootfs::Overlayfs(vec!["/nowhere/layer".into()]);
    let mut spec = SandboxSpec::new(key(name), root, vec!["x".into()]);
    spec.volumes = volumes.iter().enumerate().map(volume).collect();
    spec
}

fn places(spec: &SandboxSpec) -> Places {
    Places::of(spec, &state(), &mounts::parse(MOUNTS))
}

/// Whether a sandbox with this volume can be beside one with that, writable one.
fn refusal(inner: &str, outer: &str) -> Option<String> {
    let (inner, outer) = (spec("new", &[(inner, true)]), spec("old", &[(outer, false)]));
    let (new, old) = (places(&inner), places(&outer));
    let one = new.check_apart(&key("new"), &old, &key("old"));
    // In whatever order they are started.
    let other = old.check_apart(&key("old"), &new, &key("new"));
    assert_eq!(one.is_err(), other.is_err(), "{one:?} {other:?}");
    one.err().map(|nested| nested.to_string())
}

#[test]
fn what_lies_below_a_writable_directory_is_refused_and_the_same_directory_is_not() {
    let told = refusal("/nowhere/share/a", "/nowhere/share").unwrap();
    for word in
        ["volume \"/nowhere/share/a\"", "default/new", "\"/nowhere/share\"", "default/old can write", "stop", ":ro"]
    {
        assert!(told.contains(word), "{word}: {told}");
    }
    for beside in ["/nowhere/share", "/nowhere/sharex", "/nowhere/shar", "/nowhere", "/"] {
        assert_eq!(refusal(beside, "/nowhere/share"), None, "{beside}");
    }
    assert!(refusal("/nowhere/share/a/b/c", "/").is_some());
    // Read-only ones hold nothing that could be changed.
    let (ro, inner) =
        (places(&spec("ro", &[("/nowhere/share", true)])), places(&spec("a", &[("/nowhere/share/a", false)])));
    assert_eq!(inner.check_apart(&key("a"), &ro, &key("ro")), Ok(()));
}

#[test]
fn a_mount_hides_nothing() {
    for (inner, outer) in [
        // A bind mount of a directory in the share, and what is below it.
        ("/nowhere/bind", "/nowhere/share"),
        ("/nowhere/bind/x", "/nowhere/share"),
        // The share is the bind mount.
        ("/nowhere/share/sub/x", "/nowhere/bind"),
        // What is mounted in the share is reached by its guest, by whatever path others have it.
        ("/nowhere/data/roots/a", "/nowhere/share"),
        ("/nowhere/share/mounted", "/nowhere/share"),
        ("/nowhere/share/mounted/a", "/nowhere/data"),
        // Mounted in what is mounted.
        ("/nowhere/elsewhere/x", "/nowhere/data"),
        ("/nowhere/data/in/x", "/nowhere/elsewhere"),
    ] {
        assert!(refusal(inner, outer).is_some(), "{inner} in {outer}");
    }
    for (beside, outer) in [
        ("/nowhere/bind", "/nowhere/share/sub"),
        ("/nowhere/data", "/nowhere/share"),
        ("/nowhere/data/roots", "/nowhere/share"),
        ("/nowhere/data/other", "/nowhere/share"),
        ("/nowhere/bindx", "/nowhere/share"),
    ] {
        assert_eq!(refusal(beside, outer), None, "{beside} in {outer}");
    }
}

#[test]
fn roots_and_kernels_count_and_a_kernel_in_its_own_sandbox_too() {
    let native = SandboxSpec { rootfs: Rootfs::Native("/nowhere/root".into()), ..spec("native", &[]) };
    let layers = SandboxSpec { rootfs: Rootfs::Overlayfs(vec!["/nowhere/root/l".into()]), ..spec("layers", &[]) };
    let refused =
        places(&layers).check_apart(&key("layers"), &places(&native), &key("native")).unwrap_err().to_string();
    assert!(refused.contains("root directory \"/nowhere/root/l\"") && refused.contains("default/native"), "{refused}");
    assert_eq!(places(&native).check_apart(&key("native"), &places(&native), &key("twin")), Ok(()));
    // Nobody writes to layers.
    let kernel = |path: &str, of: &SandboxSpec| SandboxSpec { kernel: Some(path.into()), ..of.clone() };
    let within = kernel("/nowhere/root/l/vmlinux", &layers);
    assert_eq!(places(&within).check_own(&key("layers")), Ok(()));
    let refused = places(&within).check_apart(&key("layers"), &places(&native), &key("native"));
    assert!(refused.is_err());
    let own = places(&kernel("/nowhere/root/boot/vmlinux", &native)).check_own(&key("native")).unwrap_err().to_string();
    for word in ["kernel \"/nowhere/root/boot/vmlinux\"", "the sandbox itself", "somewhere else", "--disk"] {
        assert!(own.contains(word), "{word}: {own}");
    }
    assert_eq!(places(&kernel("/nowhere/vmlinux", &native)).check_own(&key("native")), Ok(()));
    // The file itself is mounted in a share.
    let mounted = kernel("/boot/vmlinux", &spec("a", &[("/nowhere/share", false)]));
    assert!(places(&mounted).check_own(&key("a")).is_err());
    // A sandbox's own directories may lie in each other.
    let nested = spec("a", &[("/nowhere/share", false), ("/nowhere/share/a", true)]);
    assert_eq!(places(&nested).check_own(&key("a")), Ok(()));
}

#[test]
fn real_paths_are_found_on_their_real_mounts() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    std::fs::create_dir_all(base.join("share/inner")).unwrap();
    let volume = |path: &str, read_only| spec("a", &[(base.join(path).to_str().unwrap(), read_only)]);
    let of = |spec: &SandboxSpec| Places::of(spec, &state(), &mounts::now());
    let (share, inner, gone) =
        (of(&volume("share", false)), of(&volume("share/inner", true)), of(&volume("share/gone", true)));
    assert!(inner.check_apart(&key("b"), &share, &key("a")).is_err());
    assert!(gone.check_apart(&key("b"), &share, &key("a")).is_err());
    assert_eq!(share.check_apart(&key("b"), &of(&volume(".", true)), &key("a")), Ok(()));
    // Without any knowledge of mounts nothing is told to be nested, and nothing fails.
    assert_eq!(Places::of(&volume("share", false), &state(), &[]).check_own(&key("a")), Ok(()));
}
