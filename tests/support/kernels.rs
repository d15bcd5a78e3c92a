//! Kernel images made by hand, and one that has everything built in.

use std::io::Write as _;
use std::path::Path;

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

/// The tests' version, which nothing installs.
pub const VERSION: &str = "6.99.0-sandpen-test";
/// Where a `vmlinux` and libkrunfw's kernel are loaded (`CONFIG_PHYSICAL_START` and libkrunfw).
const LOAD_ADDRESS: u64 = 0x0100_0000;
/// A PVH note's header and name, before its address (Linux `include/xen/interface/elfnote.h`).
const PVH_NOTE: [u8; 16] = [4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0];

/// An ELF file with one loaded segment, and a note at an offset in it.
fn elf(machine: u16, entry: u64, segment: &[u8], note: Option<usize>) -> Vec<u8> {
    const START: usize = 4096;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend(2_u16.to_le_bytes()); // ET_EXEC
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    for value in [entry, 64, 0] {
        elf.extend(value.to_le_bytes()); // entry, program headers, no sections
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // PT_LOAD, PT_NOTE
    let note = note.map_or((0, 0), |at| (at, PVH_NOTE.len() + 8));
    for (kind, offset, size) in [(1_u32, 0, segment.len()), (4, note.0, note.1)] {
        elf.extend(kind.to_le_bytes());
        elf.extend(7_u32.to_le_bytes());
        let address = LOAD_ADDRESS + offset as u64;
        for value in [(START + offset) as u64, address, address, size as u64, size as u64, 4] {
            elf.extend(value.to_le_bytes());
        }
    }
    elf.resize(START, 0);
    elf.extend(segment);
    elf
}

/// What looks like a kernel of [`VERSION`] in which `strings` can be found; it does not run.
pub fn vmlinux(machine: u16, pvh: bool, strings: &[&str]) -> Vec<u8> {
    let mut segment = format!("Linux version {VERSION} (builder) #1\0{}\0", strings.join("\0")).into_bytes();
    segment.resize(segment.len().next_multiple_of(8), 0);
    let note = segment.len();
    segment.extend(PVH_NOTE);
    segment.extend(LOAD_ADDRESS.to_le_bytes());
    elf(machine, LOAD_ADDRESS, &segment, pvh.then_some(note))
}

/// A bzImage around a `vmlinux`, packed with gzip, which takes no time where it packs nothing.
pub fn bzimage(vmlinux: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    packed.write_all(vmlinux).unwrap();
    let payload = packed.finish().unwrap();
    let mut image = vec![0; 1024];
    image[0x1f1] = 1; // setup sectors
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image.extend(payload);
    image
}

/// libkrunfw's kernel as a `vmlinux`: it has everything built in and no modules. It is in the library's
/// data as it is in memory.
pub fn of_libkrunfw(library: &Path) -> Vec<u8> {
    let bytes = std::fs::read(library).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let content = |name| {
        let symbol = file.dynamic_symbols().find(|symbol| symbol.name() == Ok(name)).unwrap();
        let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
        section.data_range(symbol.address(), symbol.size()).unwrap().unwrap()
    };
    let data = content("KERNEL_BUNDLE");
    let note = data.windows(PVH_NOTE.len()).position(|window| window == PVH_NOTE).unwrap();
    elf(62, entry_point(content("krunfw_get_kernel"), data.len() as u64), data, Some(note))
}

/// Where the kernel of libkrunfw begins. That is written in a function only, which stores three constants:
/// `movq $IMM32,(REG)`, the address, the entry point and the size in whole pages.
fn entry_point(code: &[u8], len: u64) -> u64 {
    let stored = code.windows(7).filter(|code| code.starts_with(&[0x48, 0xc7]) && code[2] & 0xf8 == 0);
    let stored = stored.map(|code| u64::from(u32::from_le_bytes(code[3..].try_into().unwrap())));
    stored.into_iter().find(|value| *value > LOAD_ADDRESS && *value != len / 4096 * 4096).unwrap()
}
