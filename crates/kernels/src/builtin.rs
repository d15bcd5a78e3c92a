//! What a kernel has built in, as far as its file tells.
//!
//! A driver registers itself under a name, which lies in the kernel as a string with its NUL. Where the
//! string is missing, so is the driver. Where it is there, the driver is too, all but certainly: another
//! string may end in the same letters.

/// A part of the kernel, what gives it away, and how a kernel gets it.
struct Part {
    name: &'static str,
    string: &'static [u8],
    option: &'static str,
}

const fn part(name: &'static str, string: &'static [u8], option: &'static str) -> Part {
    Part { name, string, option }
}

/// Devices of the virtio-mmio transport are found in ACPI's tables.
pub const ACPI_DEVICES: &str = "virtio_mmio by ACPI";
/// They are found on the kernel's command line.
pub const COMMAND_LINE_DEVICES: &str = "virtio_mmio by command line";
/// libkrun's patches that pass calls on sockets to the host.
pub const TSI: &str = "TSI";

/// Names of modules where they have one. Strings: `drivers/virtio/virtio_mmio.c` (driver name, ACPI
/// id, parameter), `virtio_console.c`, `virtio_net.c`, `virtio_blk.c` and `virtio_balloon.c` (`KBUILD_MODNAME`), `name` of
/// `file_system_type` in `fs/`; the parameter of libkrunfw's patches.
const PARTS: [Part; 12] = [
    part("virtio_mmio", b"virtio-mmio", "CONFIG_VIRTIO_MMIO=y"),
    part("virtio_console", b"virtio_console", "CONFIG_VIRTIO_CONSOLE=y"),
    part("virtiofs", b"virtiofs", "CONFIG_VIRTIO_FS=y"),
    part("virtio_net", b"virtio_net", "CONFIG_VIRTIO_NET=y"),
    part("virtio_blk", b"virtio_blk", "CONFIG_VIRTIO_BLK=y"),
    part("virtio_balloon", b"virtio_balloon", "CONFIG_VIRTIO_BALLOON=y"),
    part("ext4", b"ext4", "CONFIG_EXT4_FS=y"),
    part("overlay", b"overlay", "CONFIG_OVERLAY_FS=y"),
    part("erofs", b"erofs", "CONFIG_EROFS_FS=y"),
    part(ACPI_DEVICES, b"LNRO0005", "CONFIG_ACPI=y"),
    part(COMMAND_LINE_DEVICES, b"virtio_mmio.device", "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y"),
    part(TSI, b"tsi_hijack", "the patches of libkrunfw"),
];

/// Which of the known parts a kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Builtin([bool; PARTS.len()]);

impl Builtin {
    /// Looks through an unpacked kernel.
    pub fn of(vmlinux: &[u8]) -> Self {
        let has_string = |string: &[u8]| {
            memchr::memmem::find_iter(vmlinux, string).any(|at| vmlinux.get(at + string.len()) == Some(&0))
        };
        Self(PARTS.each_ref().map(|part| has_string(part.string)))
    }

    /// Whether the kernel has a part. False for names that are not known here.
    pub fn has(&self, name: &str) -> bool {
        PARTS.iter().zip(self.0).any(|(part, found)| found && part.name == name)
    }
}

/// What a kernel is built with to have a part, for people.
pub fn option(name: &str) -> &'static str {
    PARTS.iter().find(|part| part.name == name).map_or("its driver", |part| part.option)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_strings_at_their_end() {
        let builtin = Builtin::of(b"\0virtio-mmio\0x_virtiofs\0overlays\0virtio_netx\0ext4\0virtio_blk");
        let has =
            ["virtio_mmio", "virtiofs", "overlay", "virtio_net", "ext4", "virtio_blk"].map(|name| builtin.has(name));
        assert_eq!(has, [true, true, false, false, true, false]);
        assert_eq!(Builtin::of(b""), Builtin([false; PARTS.len()]));
    }

    #[test]
    fn every_part_is_found_by_its_string_alone() {
        for part in &PARTS {
            let builtin = Builtin::of(&[part.string, b"\0"].concat());
            assert!(builtin.has(part.name), "{}", part.name);
            assert_eq!(builtin.0.iter().filter(|found| **found).count(), 1, "{}", part.name);
        }
    }
}
