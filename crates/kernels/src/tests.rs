//! Installing and finding, from hand-made files.

use std::fs;

use super::*;
use crate::testing::{Fixture, VERSION};

fn entries(fixture: &Fixture) -> Vec<String> {
    let entries = fs::read_dir(fixture.data().join("kernel")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_installed_kernel_is_found() {
    let fixture = Fixture::new();
    assert!(matches!(find(&fixture.data()), Err(KernelError::NotInstalled(_))));
    let installed = fixture.install().unwrap();
    assert_eq!(installed.version(), VERSION);
    assert_eq!(find(&fixture.data()).unwrap(), installed);
    assert_eq!(entries(&fixture), [VERSION, "current", "lock"]);
    assert_eq!(installed.check_has("virtiofs"), Ok(()));
    assert!(installed.check_has("virtio_net").unwrap_err().to_string().contains("kernel install"));
    let names: Vec<_> =
        installed.modules_for(&["virtiofs", "virtio_mmio", "not_there"]).into_iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["virtio_ring", "virtio", "virtio_mmio", "fuse", "virtiofs"]);
}

#[test]
fn a_second_install_replaces_and_a_failed_one_changes_nothing() {
    let fixture = Fixture::new();
    let first = fixture.install().unwrap();
    let overlay = fixture.modules().join("kernel/fs/overlayfs/overlay.ko");
    fs::write(&overlay, "damaged").unwrap();
    assert!(matches!(fixture.install(), Err(KernelError::Modules(_))));
    assert_eq!(find(&fixture.data()).unwrap(), first);
    fs::remove_file(&overlay).unwrap();
    let second = fixture.install().unwrap();
    assert_eq!(second.manifest().modules.len() + 1, first.manifest().modules.len());
    assert_eq!(find(&fixture.data()).unwrap(), second);
    assert_eq!(entries(&fixture), [VERSION, "current", "lock"]);
}

#[test]
fn damage_is_noticed_and_repaired_by_installing_again() {
    let fixture = Fixture::new();
    let installed = fixture.install().unwrap();
    for damaged in [
        installed.vmlinux(),
        installed.directory().join("modules/fuse.ko"),
        installed.directory().join("manifest.json"),
    ] {
        fs::write(&damaged, "x").unwrap();
        assert!(matches!(find(&fixture.data()), Err(KernelError::Damaged { .. })), "{damaged:?}");
        fs::remove_file(&damaged).unwrap();
        assert!(matches!(find(&fixture.data()), Err(KernelError::Damaged { .. })), "{damaged:?}");
        fixture.install().unwrap();
        find(&fixture.data()).unwrap();
    }
}

#[test]
fn what_an_older_sandpen_did_not_look_for_is_told_and_installing_again_gets_it() {
    let fixture = Fixture::new();
    let installed = fixture.install().unwrap();
    assert!(installed.not_looked_for().is_empty(), "what this kernel does not have is nobody's fault");
    let path = installed.directory().join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest.as_object_mut().unwrap().remove("wanted");
    manifest["modules"].as_array_mut().unwrap().retain(|module| module["name"] != "tun");
    fs::write(&path, manifest.to_string()).unwrap();
    let older = find(&fixture.data()).unwrap();
    assert!(older.not_looked_for().contains(&"tun") && !older.not_looked_for().contains(&"virtiofs"));
    assert!(fixture.install().unwrap().not_looked_for().is_empty());
}

#[test]
fn what_was_fetched_is_told_from_what_was_installed_from_files() {
    let fixture = Fixture::new();
    let path = fixture.install().unwrap().directory().join("manifest.json");
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert!(manifest["origin"].as_str().unwrap().starts_with("files "));
    let with = |origin: &str, version: &str| {
        let mut manifest = manifest.clone();
        manifest["origin"] = origin.into();
        manifest["version"] = version.into();
        fs::write(&path, manifest.to_string()).unwrap();
        find(&fixture.data()).unwrap().is_fetched()
    };
    assert!(!with(manifest["origin"].as_str().unwrap(), VERSION));
    assert!(with("package linux-image-6.1.0-49-cloud-amd64=6.1.192-2", VERSION));
    assert!(with("", VERSION) && !with("", "6.12.1"));
}

#[test]
fn hostile_markers_and_manifests_are_refused() {
    let fixture = Fixture::new();
    let installed = fixture.install().unwrap();
    let current = fixture.data().join("kernel/current");
    for hostile in ["../../etc", "/etc", "", "a\nb"] {
        fs::write(&current, hostile).unwrap();
        assert!(matches!(find(&fixture.data()), Err(KernelError::Damaged { .. })), "{hostile:?}");
    }
    fs::write(&current, VERSION).unwrap();
    let manifest = installed.directory().join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    for (from, to) in [
        ("\"fuse\"", "\"../fuse\""),
        ("\"char-major-10-200\"", "\"a\\nb\""),
        ("\"format\": 1", "\"format\": 2"),
        ("\"version\": \"6", "\"version\": \"../6"),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        fs::write(&manifest, changed).unwrap();
        assert!(matches!(find(&fixture.data()), Err(KernelError::Damaged { .. })), "{to}");
    }
}

#[test]
fn what_a_killed_install_left_is_cleared() {
    let fixture = Fixture::new();
    let left = fixture.data().join("kernel/.installing-abc");
    fs::create_dir_all(left.join("kernel/modules")).unwrap();
    fixture.install().unwrap();
    assert!(!left.exists());
}

/// Needs the network, so it runs only when asked for: `cargo test -p sandpen-kernels -- --ignored debian`.
#[test]
#[ignore = "downloads 27 MB from the distribution's archive"]
fn debians_kernel_installs() {
    let data = tempfile::tempdir().unwrap();
    let installed = install(data.path(), &KernelSource::Debian).unwrap();
    assert!(installed.version().ends_with("-cloud-amd64"));
    assert_eq!(find(data.path()).unwrap(), installed);
}
