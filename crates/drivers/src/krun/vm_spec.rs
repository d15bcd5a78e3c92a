//! What the driver tells the process that becomes the microVM, as JSON on its standard input.

use std::path::PathBuf;

use sandpen_images::disk::{Extent, ImageDisk};
use serde::{Deserialize, Serialize};

use crate::confine::{Policy, SharedTree, descriptor_path};
use crate::image_root::RootDisk;

/// One microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VmSpec {
    /// Virtual CPUs.
    pub(super) cpus: u8,
    /// Memory in MiB.
    pub(super) memory_mib: u32,
    /// What runs in it.
    pub(super) boot: Boot,
    /// What its process may do.
    pub(super) policy: Policy,
    /// Host and guest port of each published port, where the guest's sockets are the host's.
    pub(super) tsi: Option<Vec<(u16, u16)>>,
}

/// What runs in a microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Boot {
    /// Linux with our PID 1.
    Linux {
        /// What is booted.
        kernel: GuestKernel,
        /// The host directory that becomes `/`, absolute; `None` where PID 1 makes a root of layers.
        root: Option<SharedTree>,
        /// Directories beside it: layers and volumes.
        shares: Vec<SharedDir>,
        /// The disk of the writable layer, absolute.
        disk: Option<PathBuf>,
        /// Disks of the root that are only read, topmost first.
        root_disks: Vec<BootDisk>,
    },
    /// A bare-metal program, which writes its messages for people to the first serial port.
    Bare {
        /// An ELF file of the host, absolute.
        kernel: PathBuf,
        /// The volumes.
        shares: Vec<SharedDir>,
    },
}

/// A disk that is only read; absolute paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum BootDisk {
    /// A file.
    File(PathBuf),
    /// Files with their sizes in bytes, one behind the other.
    Joined(Vec<(PathBuf, u64)>),
}

impl From<RootDisk> for BootDisk {
    fn from(disk: RootDisk) -> Self {
        match disk {
            RootDisk::File(path) => Self::File(path),
            RootDisk::Joined(disk) => {
                Self::Joined(disk.extents.into_iter().map(|extent| (extent.path, extent.bytes)).collect())
            }
        }
    }
}

impl BootDisk {
    /// Has a process get it open: the files, and behind those of a joined one the descriptor that joins them.
    pub(super) fn inherit(&self, number: usize, policy: &mut Policy) {
        match self {
            Self::File(path) => {
                policy.inherit(path, false);
            }
            Self::Joined(files) => {
                let names: Vec<_> =
                    files.iter().map(|(path, _)| descriptor_path(policy.inherit(path, false))).collect();
                let extents = files.iter().map(|(path, bytes)| Extent { path: path.clone(), bytes: *bytes }).collect();
                let text = ImageDisk { extents }.descriptor(|number| names[number].display().to_string());
                policy.inherit_content(&format!("image{number}.vmdk"), text);
            }
        }
    }
}

/// Where a guest's Linux comes from; absolute paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GuestKernel {
    /// libkrunfw.
    Firmware(PathBuf),
    /// An ELF file, the sandbox's own.
    Own(PathBuf),
}

/// A host directory for the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SharedDir {
    /// Its virtiofs tag.
    pub(super) tag: String,
    /// The directory; libkrun refuses the guest's writes to one that is read-only.
    pub(super) tree: SharedTree,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_and_nothing_else_is() {
        let tree = |directory: &str| SharedTree {
            directory: directory.into(),
            is_file: false,
            read_only: true,
            identity: None,
        };
        let volume = SharedDir { tag: "v".into(), tree: tree("/d,:\n") };
        let boot = Boot::Linux {
            kernel: GuestKernel::Own("/a b/\"c".into()),
            root: Some(tree("/r\n\\")),
            shares: vec![volume],
            disk: Some("/x".into()),
            root_disks: vec![BootDisk::File("/y".into()), BootDisk::Joined(vec![("/z".into(), 1 << 36)])],
        };
        let spec = VmSpec { cpus: 2, memory_mib: 256, boot, policy: Policy::new("vmm"), tsi: Some(vec![(1, 65535)]) };
        let json = serde_json::to_vec(&spec).unwrap();
        assert_eq!(serde_json::from_slice::<VmSpec>(&json).unwrap(), spec);
        for end in 0..json.len() {
            assert!(serde_json::from_slice::<VmSpec>(&json[..end]).is_err());
        }
        let strange = String::from_utf8(json).unwrap().replace("\"root\":", "\"x\":1,\"root\":");
        assert!(serde_json::from_str::<VmSpec>(&strange).is_err());
    }

    #[test]
    fn a_disk_of_several_files_is_joined_by_the_names_of_their_descriptors() {
        let mut policy = Policy::new("vmm");
        policy.inherit("/disk".as_ref(), true);
        BootDisk::File("/plain".into()).inherit(0, &mut policy);
        BootDisk::Joined(vec![("/a".into(), 4096), ("/b \"".into(), 8192)]).inherit(1, &mut policy);
        let files: Vec<_> = policy.inherited.iter().map(|file| (file.path.to_str().unwrap(), file.write)).collect();
        let read = |path| (path, false);
        assert_eq!(files, [("/disk", true), read("/plain"), read("/a"), read("/b \""), read("image1.vmdk")]);
        let text = policy.inherited[4].content.as_ref().unwrap();
        assert!(text.ends_with("\nRW 8 FLAT \"/proc/self/fd/34\" 0\nRW 16 FLAT \"/proc/self/fd/35\" 0\n"), "{text}");
        assert!(policy.inherited[..4].iter().all(|file| file.content.is_none()));
    }
}
