//! The writable layer of a copy-on-write root: how large it may get, and whether it outlives the
//! sandbox.

use serde::{Deserialize, Serialize};

use super::{DiskName, Rootfs, SpecError};

/// Bytes of a disk where nothing is said. It is sparse: it takes the room of what was written.
pub const DISK_DEFAULT_BYTES: u64 = 4 << 30;
/// Least bytes of a disk: a journaled file system and room for something in it.
pub const DISK_MIN_BYTES: u64 = 16 << 20;
/// Most bytes of a disk (1 TiB).
pub const DISK_MAX_BYTES: u64 = 1 << 40;
/// A disk is a whole number of these: the blocks of its file system.
const BLOCK_BYTES: u64 = 4096;

/// The disk that a sandbox writes to instead of its read-only root directories.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Its size, [`DISK_MIN_BYTES`] to [`DISK_MAX_BYTES`]; the workload can write no more. `None` for
    /// [`DISK_DEFAULT_BYTES`], or the size that a named disk has already.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// The name under which it is kept when the sandbox is removed; `None`: it goes with the sandbox,
    /// and each start by request begins with an empty one.
    #[serde(default)]
    pub name: Option<DiskName>,
}

/// Checks the layers of a root and their disk.
pub(super) fn check(rootfs: &Rootfs, disk: &Disk) -> Result<(), SpecError> {
    match rootfs {
        Rootfs::Native(_) if *disk == Disk::default() => return Ok(()),
        Rootfs::Native(_) => return Err(SpecError::DiskWithoutLayers),
        Rootfs::Overlayfs(lowers) if lowers.is_empty() => return Err(SpecError::NoLayers),
        Rootfs::Overlayfs(lowers) => {
            if let Some(twice) = (1..lowers.len()).find(|at| lowers[..*at].contains(&lowers[*at])) {
                return Err(SpecError::LayerTwice(lowers[twice].clone()));
            }
        }
        Rootfs::Image(_) => {}
    }
    match disk.bytes {
        Some(bytes) if !(DISK_MIN_BYTES..=DISK_MAX_BYTES).contains(&bytes) || bytes % BLOCK_BYTES != 0 => {
            Err(SpecError::DiskSize(bytes))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_layers_are_checked() {
        let layers = |paths: &[&str]| Rootfs::Overlayfs(paths.iter().map(Into::into).collect());
        let disk = |bytes| Disk { bytes: Some(bytes), name: None };
        let native = Rootfs::Native("/a".into());
        assert_eq!(check(&native, &Disk::default()), Ok(()));
        assert_eq!(check(&native, &disk(1 << 30)), Err(SpecError::DiskWithoutLayers));
        assert_eq!(check(&layers(&[]), &Disk::default()), Err(SpecError::NoLayers));
        assert_eq!(check(&layers(&["/a", "/b", "/a"]), &Disk::default()), Err(SpecError::LayerTwice("/a".into())));
        for bytes in [DISK_MIN_BYTES, DISK_DEFAULT_BYTES, DISK_MAX_BYTES] {
            assert_eq!(check(&layers(&["/a"]), &disk(bytes)), Ok(()));
        }
        for bytes in [0, 1 << 20, DISK_MIN_BYTES + 1, DISK_MAX_BYTES + 4096, u64::MAX] {
            assert_eq!(check(&layers(&["/a"]), &disk(bytes)), Err(SpecError::DiskSize(bytes)));
        }
        let json = r#"{"name":"../x"}"#;
        assert!(serde_json::from_str::<Disk>(json).is_err(), "a name is a safe file name");
    }
}
