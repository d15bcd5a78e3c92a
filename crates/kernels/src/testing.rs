//! Kernels and modules made by hand, for tests: of this crate, and of those that boot kernels (feature `testing`).
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on fails")]
#![allow(clippy::new_without_default, missing_docs, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

use crate::{InstalledKernel, KernelError, KernelSource, install};

/// A small ELF file with one loaded segment that holds the banner and, if wanted, a PVH note.
pub fn tiny_vmlinux(machine: u16, note: Option<(&[u8], u32)>) -> Vec<u8> {
    let mut elf = Vec::new();
    elf.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend(2_u16.to_le_bytes()); // ET_EXEC
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    elf.extend(0x0100_0000_u64.to_le_bytes()); // entry
    elf.extend(64_u64.to_le_bytes()); // program headers
    elf.extend(0_u64.to_le_bytes());
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let banner = b"Linux version 6.1.0-49-cloud-amd64 (builder) #1\0";
    let mut notes = Vec::new();
    if let Some((name, kind)) = note {
        notes.extend(u32::try_from(name.len() + 1).unwrap().to_le_bytes());
        notes.extend(4_u32.to_le_bytes());
        notes.extend(kind.to_le_bytes());
        notes.extend(name);
        notes.resize(12 + (name.len() + 1).next_multiple_of(4), 0);
        notes.extend(0x0100_0000_u32.to_le_bytes());
    }
    let data = 64 + 2 * 56;
    for (kind, offset, size) in [(1_u32, data, banner.len()), (4, data + banner.len().next_multiple_of(4), notes.len())]
    {
        elf.extend(kind.to_le_bytes());
        elf.extend(4_u32.to_le_bytes());
        for value in [offset as u64, 0, 0, size as u64, size as u64, 4] {
            elf.extend(value.to_le_bytes());
        }
    }
    elf.extend(banner);
    elf.resize(data + banner.len().next_multiple_of(4), 0);
    elf.extend(notes);
    elf
}

pub const VERSION: &str = "6.1.0-49-cloud-amd64";

/// A relocatable ELF file with a `.modinfo` section.
pub fn tiny_module(depends: &str, version: &str) -> Vec<u8> {
    tiny_module_with_aliases(depends, version, &[])
}

/// The same with aliases.
pub fn tiny_module_with_aliases(depends: &str, version: &str, aliases: &[&str]) -> Vec<u8> {
    let aliases: String = aliases.iter().map(|alias| format!("alias={alias}\0")).collect();
    let info = format!("license=GPL\0{aliases}depends={depends}\0vermagic={version} SMP preempt mod_unload \0");
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
pub fn write_tree(directory: &Path) {
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
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, tiny_module(depends, VERSION)).unwrap();
    }
    let tun = tiny_module_with_aliases("", VERSION, &["devname:net/tun", "char-major-10-200", "not one"]);
    fs::create_dir_all(directory.join("kernel/drivers/net")).unwrap();
    fs::write(directory.join("kernel/drivers/net/tun.ko"), tun).unwrap();
    fs::write(directory.join("modules.builtin"), "kernel/lib/lz4/lz4_decompress.ko\n").unwrap();
    std::os::unix::fs::symlink("/", directory.join("build")).unwrap();
}

/// A hand-made kernel with modules, and a data directory.
pub struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        let fixture = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(fixture.modules()).unwrap();
        write_tree(&fixture.modules());
        fs::write(fixture.kernel(), tiny_vmlinux(62, Some((b"Xen", 18)))).unwrap();
        fixture
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn kernel(&self) -> PathBuf {
        self.directory.path().join("vmlinux")
    }

    pub fn modules(&self) -> PathBuf {
        self.directory.path().join(VERSION)
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn install(&self) -> Result<InstalledKernel, KernelError> {
        install(&self.data(), &KernelSource::Files { kernel: self.kernel(), modules: self.modules() })
    }
}
