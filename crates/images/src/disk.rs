//! The read-only disk of an image: several files, one behind the other, joined by a descriptor (VMDK,
//! `createType="twoGbMaxExtentFlat"`), so that images share the layers that they have in common and nothing is copied.
//!
//! ```text
//!   ┌ metadata (EROFS) ┬ blob of layer 1 ┬ blob of layer 2 ┬ … ┬ padding, a hole ┐
//!   0                  each a whole number of 4 KiB blocks                    DISK_BYTES
//! ```
//!
//! Source of the format: VMware's "Virtual Disk Format 1.1"; what QEMU's `block/vmdk.c` and the crate `imago` read of it.

use std::fmt::Write as _;
use std::path::PathBuf;

/// Bytes of a sector, the unit of a descriptor.
const SECTOR: u64 = 512;
/// Every disk is a whole number of these: a machine that was saved is restored only with disks of the sizes that it had.
pub const DISK_STEP: u64 = 64 << 30;

/// A part of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The file, absolute.
    pub path: PathBuf,
    /// Its bytes, a multiple of 4096.
    pub bytes: u64,
}

/// The disk of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDisk {
    /// Its parts, in order. At most 130 of them; the last one is padding.
    pub extents: Vec<Extent>,
}

impl ImageDisk {
    /// Its size, a multiple of [`DISK_STEP`].
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.bytes).sum()
    }

    /// The descriptor, with the name by which the process that reads it opens the extent of this number. No name may
    /// hold a quotation mark or have more than 511 bytes.
    pub fn descriptor(&self, name: impl Fn(usize) -> String) -> String {
        // Without an empty line: QEMU takes the extent behind one twice.
        let mut text = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                        createType=\"twoGbMaxExtentFlat\"\n"
            .to_owned();
        for (number, extent) in self.extents.iter().enumerate() {
            // QEMU skips extents that say RDONLY or ZERO.
            let _ = writeln!(text, "RW {} FLAT \"{}\" 0", extent.bytes / SECTOR, name(number)); // a String takes all
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_names_each_extent_once_and_has_no_empty_line() {
        let extent = |path: &str, bytes| Extent { path: path.into(), bytes };
        let disk = ImageDisk { extents: vec![extent("/a", 8192), extent("/pad", DISK_STEP - 8192)] };
        let text = disk.descriptor(|number| format!("/dev/fdset/{number}"));
        assert_eq!(disk.bytes(), DISK_STEP);
        assert!(!text.contains("\n\n"));
        let extents: Vec<_> = text.lines().filter(|line| line.starts_with("RW ")).collect();
        assert_eq!(extents, ["RW 16 FLAT \"/dev/fdset/0\" 0", "RW 134217712 FLAT \"/dev/fdset/1\" 0"]);
    }
}
