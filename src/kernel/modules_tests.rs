//! Module trees made by hand, whole and hostile ones.

use super::*;

pub(crate) const VERSION: &str = "6.1.0-49-cloud-amd64";

/// A relocatable ELF file with a `.modinfo` section.
pub(crate) fn tiny_module(depends: &str, version: &str) -> Vec<u8> {
    let info = format!("license=GPL\0depends={depends}\0vermagic={version} SMP preempt mod_unload \0");
    let names = b"\0.modinfo\0.shstrtab\0";
    let names_at = 64 + info.len();
    let headers_at = (names_at + names.len()).next_multiple_of(8);
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend(1_u16.to_le_bytes()); // ET_REL
    elf.extend(62_u16.to_le_bytes()); // x86-64
    elf.extend(1_u32.to_le_bytes());
    for offset in [0, 0, headers_at as u64] {
        elf.extend(offset.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 0, 0, 64, 3, 2] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(info.as_bytes());
    elf.extend(names);
    elf.resize(headers_at + 64, 0);
    for (name, kind, offset, size) in [(1_u32, 1_u32, 64, info.len()), (10, 3, names_at, names.len())] {
        elf.extend(name.to_le_bytes());
        elf.extend(kind.to_le_bytes());
        for value in [0, 0, offset as u64, size as u64, 0, 1, 0] {
            elf.extend(value.to_le_bytes());
        }
    }
    elf
}

/// Writes a module tree like that of Debian's cloud kernel.
pub(crate) fn write_tree(directory: &Path) {
    let modules: [(&str, &str); 9] = [
        ("drivers/virtio/virtio_ring.ko", ""),
        ("drivers/virtio/virtio.ko", "virtio_ring"),
        ("drivers/virtio/virtio_mmio.ko", "virtio,virtio_ring"),
        ("drivers/char/virtio-console.ko", "virtio_ring,virtio"),
        ("fs/fuse/fuse.ko", ""),
        ("fs/fuse/virtiofs.ko", "fuse,virtio_ring,virtio"),
        ("fs/overlayfs/overlay.ko", ""),
        ("fs/erofs/erofs.ko", "lz4-decompress,libcrc32c"),
        ("lib/libcrc32c.ko", ""),
    ];
    for (path, depends) in modules {
        let path = directory.join("kernel").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, tiny_module(depends, VERSION)).unwrap();
    }
    std::fs::write(directory.join("modules.builtin"), "kernel/lib/lz4/lz4_decompress.ko\n").unwrap();
    std::os::unix::fs::symlink("/", directory.join("build")).unwrap();
}

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
        ["virtio_ring", "virtio", "virtio_mmio", "virtio_console", "fuse", "virtiofs", "overlay", "libcrc32c", "erofs"]
    );
    assert_eq!(modules.last().unwrap().depends, ["libcrc32c"]);
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
