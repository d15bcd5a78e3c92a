//! Kernel images, foreign files and damaged ones.

use super::*;
use proptest::prelude::*;

/// A small ELF file with one loaded segment that holds the banner and, if wanted, a PVH note.
pub(crate) fn tiny_vmlinux(machine: u16, note: Option<(&[u8], u32)>) -> Vec<u8> {
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

const PVH: Option<(&[u8], u32)> = Some((b"Xen", 18));
const X86_64: u16 = 62;

/// A bzImage around a payload.
fn tiny_bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image.resize(1024 + 16, 0x90);
    image.extend(payload);
    image.extend([0; 32]);
    image
}

fn lz4_payload(data: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(data);
    let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
    packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
    packed.extend(block);
    packed.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    packed
}

fn open(bytes: Vec<u8>) -> Result<Image, ImageError> {
    unpack(bytes, Path::new("/boot/vmlinuz"))
}

#[test]
fn a_bzimage_and_a_vmlinux_give_the_same() {
    let vmlinux = tiny_vmlinux(X86_64, PVH);
    let from_elf = open(vmlinux.clone()).unwrap();
    let from_bzimage = open(tiny_bzimage(&lz4_payload(&vmlinux))).unwrap();
    assert_eq!(from_elf.version, "6.1.0-49-cloud-amd64");
    assert_eq!(from_bzimage.version, from_elf.version);
    assert!(from_bzimage.vmlinux == vmlinux);
}

#[test]
fn what_is_no_kernel_is_named_so() {
    for bytes in [b"".to_vec(), b"#!/bin/sh\necho hello\n".to_vec(), vec![0; 4096], b"\x7fELF".to_vec()] {
        assert!(matches!(open(bytes), Err(ImageError::NotAKernel { .. })));
    }
}

#[test]
fn another_architecture_is_named() {
    let mut arm = vec![0; 4096];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    assert!(matches!(open(arm), Err(ImageError::Architecture { found, .. }) if found == "aarch64"));
    assert!(matches!(open(tiny_vmlinux(183, PVH)), Err(ImageError::Architecture { found, .. }) if found == "aarch64"));
    assert!(matches!(open(tiny_vmlinux(243, PVH)), Err(ImageError::Architecture { .. })));
}

#[test]
fn a_pvh_note_is_told_from_others() {
    assert!(open(tiny_vmlinux(X86_64, PVH)).unwrap().pvh);
    for note in [None, Some((&b"Xen"[..], 17)), Some((&b"GNU"[..], 18))] {
        assert!(!open(tiny_vmlinux(X86_64, note)).unwrap().pvh);
    }
}

#[test]
fn cut_off_images_are_told_from_foreign_files() {
    let whole = tiny_bzimage(&lz4_payload(&tiny_vmlinux(X86_64, PVH)));
    let cut = open(whole[..whole.len() - 60].to_vec());
    assert!(matches!(cut, Err(ImageError::Truncated { needed, have, .. }) if needed > have));
    let elf = tiny_vmlinux(X86_64, PVH);
    assert!(matches!(open(elf[..elf.len() - 8].to_vec()), Err(ImageError::Truncated { .. })));
}

#[test]
fn an_old_protocol_and_an_unknown_compression_are_refused() {
    let mut old = tiny_bzimage(b"whatever");
    old[0x206] = 7;
    old[0x207] = 2;
    assert!(matches!(open(old), Err(ImageError::BootProtocol { version: 0x0207, .. })));
    assert!(matches!(open(tiny_bzimage(b"BZh91AY&SY whatever")), Err(ImageError::Compression { .. })));
    assert!(matches!(open(tiny_bzimage(b"\x02\x21\x4c\x18\xff\xff\xff\xff1234")), Err(ImageError::Unpack { .. })));
}

#[test]
fn versions_are_safe_names() {
    for good in ["6.1.0-49-cloud-amd64", "6.18.44-fc-v669", "7.0", "6.6.87.2-microsoft-standard-WSL2+"] {
        assert!(is_version(good), "{good}");
    }
    for bad in ["", "6", "../6.1", "6.1/..", "6..1", ".6.1", "6.1 x", "6.1\n", &format!("6.{}", "1".repeat(80))] {
        assert!(!is_version(bad), "{bad}");
    }
}

proptest! {
    #[test]
    fn damage_never_panics(at in 0_usize..2000, byte in any::<u8>(), cut in 0_usize..2000) {
        let mut image = tiny_bzimage(&lz4_payload(&tiny_vmlinux(X86_64, PVH)));
        let at = at % image.len();
        image[at] = byte;
        image.truncate(image.len().saturating_sub(cut % 64));
        let _ = open(image);
        let mut elf = tiny_vmlinux(X86_64, PVH);
        let at = at % elf.len();
        elf[at] = byte;
        let _ = open(elf);
    }
}
