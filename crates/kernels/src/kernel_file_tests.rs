//! Kernels, foreign files and damaged ones.

use proptest::prelude::*;

use super::*;
use crate::testing::tiny_vmlinux;

const PVH: Option<(&[u8], u32)> = Some((b"Xen", 18));
const X86_64: u16 = 62;

/// A bzImage around a payload.
fn tiny_bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    file[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    file.resize(1024 + 16, 0x90);
    file.extend(payload);
    file.extend([0; 32]);
    file
}

fn lz4_payload(data: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(data);
    let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
    packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
    packed.extend(block);
    packed.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    packed
}

fn open(bytes: Vec<u8>) -> Result<UnpackedKernel, KernelFileError> {
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
        assert!(matches!(open(bytes), Err(KernelFileError::NotAKernel { .. })));
    }
}

#[test]
fn another_architecture_is_named() {
    let mut arm = vec![0; 4096];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    assert!(matches!(open(arm), Err(KernelFileError::Architecture { found, .. }) if found == "aarch64"));
    assert!(
        matches!(open(tiny_vmlinux(183, PVH)), Err(KernelFileError::Architecture { found, .. }) if found == "aarch64")
    );
    assert!(matches!(open(tiny_vmlinux(243, PVH)), Err(KernelFileError::Architecture { .. })));
}

#[test]
fn a_pvh_note_is_told_from_others() {
    assert!(open(tiny_vmlinux(X86_64, PVH)).unwrap().pvh);
    for note in [None, Some((&b"Xen"[..], 17)), Some((&b"GNU"[..], 18))] {
        assert!(!open(tiny_vmlinux(X86_64, note)).unwrap().pvh);
    }
}

#[test]
fn cut_off_kernels_are_told_from_foreign_files() {
    let whole = tiny_bzimage(&lz4_payload(&tiny_vmlinux(X86_64, PVH)));
    let cut = open(whole[..whole.len() - 60].to_vec());
    assert!(matches!(cut, Err(KernelFileError::Truncated { needed, have, .. }) if needed > have));
    let elf = tiny_vmlinux(X86_64, PVH);
    assert!(matches!(open(elf[..elf.len() - 8].to_vec()), Err(KernelFileError::Truncated { .. })));
}

#[test]
fn an_old_protocol_and_an_unknown_compression_are_refused() {
    let mut old = tiny_bzimage(b"whatever");
    old[0x206] = 7;
    old[0x207] = 2;
    assert!(matches!(open(old), Err(KernelFileError::BootProtocol { version: 0x0207, .. })));
    assert!(matches!(open(tiny_bzimage(b"BZh91AY&SY whatever")), Err(KernelFileError::Compression { .. })));
    assert!(matches!(open(tiny_bzimage(b"\x02\x21\x4c\x18\xff\xff\xff\xff1234")), Err(KernelFileError::Unpack { .. })));
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
        let mut file = tiny_bzimage(&lz4_payload(&tiny_vmlinux(X86_64, PVH)));
        let at = at % file.len();
        file[at] = byte;
        file.truncate(file.len().saturating_sub(cut % 64));
        let _ = open(file);
        let mut elf = tiny_vmlinux(X86_64, PVH);
        let at = at % elf.len();
        elf[at] = byte;
        let _ = open(elf);
    }
}
