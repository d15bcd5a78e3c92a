//! What the driver tells the process that becomes the microVM, as JSON on its standard input.

use std::path::PathBuf;

use crate::confine::{Policy, SharedTree};
use serde::{Deserialize, Serialize};

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
        /// Images of the root's layers, topmost first, absolute.
        root_disks: Vec<PathBuf>,
    },
    /// A bare-metal program, which writes its messages for people to the first serial port.
    Bare {
        /// An ELF file of the host, absolute.
        kernel: PathBuf,
        /// The volumes.
        shares: Vec<SharedDir>,
    },
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
            root_disks: vec!["/y".into()],
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
}
