//! How the layers of a copy-on-write root reach the guest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Rootfs, SpecError};

/// What the guest sees of the read-only directories of an [`Rootfs::Overlayfs`] root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootDevice {
    /// Whatever keeps the meaning of the directories: they are shared.
    #[default]
    Auto,
    /// A disk of each directory as it is at the start, made once for each content; `image` on the command line and
    /// in JSON. What changes in the directory later is seen by later starts.
    #[serde(rename = "image")]
    Disk,
    /// The directories themselves, shared read-only by virtiofs.
    Virtiofs,
}

impl RootDevice {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Disk, Self::Virtiofs];

    /// Its name on the command line and in a specification.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Disk => "image",
            Self::Virtiofs => "virtiofs",
        }
    }

    /// Whether root disks are made.
    pub fn is_disk(self) -> bool {
        self == Self::Disk
    }
}

impl fmt::Display for RootDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for RootDevice {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let found = Self::ALL.into_iter().find(|device| device.as_str() == text);
        found.ok_or_else(|| SpecError::RootDevice(text.to_owned()))
    }
}

/// A root disk is of something that the sandbox does not write to.
pub(super) fn check(rootfs: &Rootfs, device: RootDevice) -> Result<(), SpecError> {
    match rootfs {
        Rootfs::Native(_) if device.is_disk() => Err(SpecError::RootDiskWithoutLayers),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_layers_become_images() {
        let (native, layers) = (Rootfs::Native("/a".into()), Rootfs::Overlayfs(vec!["/a".into()]));
        assert_eq!(check(&native, RootDevice::Disk), Err(SpecError::RootDiskWithoutLayers));
        assert_eq!(check(&layers, RootDevice::Disk), Ok(()));
        for device in [RootDevice::Auto, RootDevice::Virtiofs] {
            assert_eq!(check(&native, device), Ok(()));
            assert_eq!(check(&layers, device), Ok(()));
        }
        for device in RootDevice::ALL {
            assert_eq!(serde_json::to_value(device).unwrap(), device.as_str());
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert!(serde_json::from_str::<RootDevice>("\"erofs\"").is_err());
        let error = "erofs".parse::<RootDevice>().unwrap_err().to_string();
        assert_eq!(error, "a root cannot come by \"erofs\"; it can by auto, image, virtiofs");
    }
}
