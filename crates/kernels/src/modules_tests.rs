//! Module trees made by hand, whole and hostile ones.

use super::*;
use crate::testing::{VERSION, tiny_module, write_tree};

fn tree() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_tree(directory.path());
    directory
}

#[test]
fn dependencies_come_first_and_optional_ones_may_miss() {
    let directory = tree();
    let (modules, builtin) = collect(directory.path(), VERSION).unwrap();
    assert!(builtin.is_empty());
    let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "virtio_ring",
            "virtio",
            "virtio_mmio",
            "virtio_console",
            "fuse",
            "virtiofs",
            "overlay",
            "libcrc32c",
            "erofs",
            "tun"
        ]
    );
    let find = |name| modules.iter().find(|module| module.name == name).unwrap();
    assert_eq!(find("erofs").depends, ["libcrc32c"]);
    assert_eq!(find("tun").aliases, ["devname:net/tun", "char-major-10-200"]);
    let list = directory.path().join("modules.builtin");
    std::fs::write(list, "kernel/drivers/net/virtio_net.ko\nkernel/lib/lz4/lz4_decompress.ko\n").unwrap();
    assert_eq!(collect(directory.path(), VERSION).unwrap().1, ["virtio_net"]);
}

#[test]
fn compressed_modules_are_unpacked() {
    let directory = tree();
    let plain = directory.path().join("kernel/fs/fuse/fuse.ko");
    let bytes = std::fs::read(&plain).unwrap();
    let mut packed = Vec::new();
    lzma_rs::xz_compress(&mut bytes.as_slice(), &mut packed).unwrap();
    std::fs::write(plain.with_extension("ko.xz"), packed).unwrap();
    std::fs::remove_file(&plain).unwrap();
    let (modules, _) = collect(directory.path(), VERSION).unwrap();
    assert!(modules.iter().any(|module| module.name == "fuse" && module.bytes == bytes));
}

#[test]
fn what_is_wrong_is_named() {
    let directory = tree();
    let fuse = directory.path().join("kernel/fs/fuse/fuse.ko");
    assert!(
        matches!(collect(directory.path(), "6.1.0-1"), Err(ModulesError::Version { found, .. }) if found == VERSION)
    );
    std::fs::write(&fuse, "no module").unwrap();
    assert!(matches!(collect(directory.path(), VERSION), Err(ModulesError::NotAModule { path, .. }) if path == fuse));
    std::fs::write(&fuse, tiny_module("virtiofs", VERSION)).unwrap();
    assert!(matches!(collect(directory.path(), VERSION), Err(ModulesError::Circle(_))));
    std::fs::remove_file(&fuse).unwrap();
    assert!(matches!(collect(directory.path(), VERSION), Err(ModulesError::Missing { name, .. }) if name == "fuse"));
    let nowhere = directory.path().join("nowhere");
    assert!(matches!(collect(&nowhere, VERSION), Err(ModulesError::Read { .. })));
}
