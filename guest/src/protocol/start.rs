//! What a guest is told of its workload and its machine.
//!
//! Fields and variants are encoded by their position: raise [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION) when one changes.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::messages::Bytes;

/// How to make the workload run. Environment values may be secrets: `Debug` shows none.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Program and arguments; a program without a slash is looked up in the workload's `PATH`.
    pub command: Vec<Bytes>,
    /// The whole environment. Only `PATH`, `HOME` and, with a terminal, `TERM` have defaults, where it
    /// does not name them.
    pub env: Vec<(Bytes, Bytes)>,
    /// Working directory in the guest; `/` if `None`.
    pub workdir: Option<Bytes>,
    /// Name of the machine, at most 64 bytes (the kernel's limit).
    pub hostname: String,
    /// Whether the stdin port feeds the workload; if not, it reads from `/dev/null`, or from a terminal
    /// on which nobody types.
    pub stdin: bool,
    /// Where `/` comes from.
    pub rootfs: RootfsSource,
    /// The host's wall clock: time since 1970-01-01 00:00 UTC.
    pub wall_clock: Duration,
    /// 512 bits from the host's random number generator, for the guest's; never used twice.
    pub entropy: [[u8; 32]; 2],
    /// How the guest ends its machine.
    pub power_off: PowerOff,
    /// A terminal of this size as standard input, output and error; `None`: pipes.
    pub terminal: Option<TerminalSize>,
    /// Shared directories beside the root, in the order in which they are mounted.
    pub volumes: Vec<Volume>,
    /// Limits of the workload's process.
    pub rlimits: Vec<Rlimit>,
    /// How the machine is connected.
    pub network: Network,
    /// What the workload's `/etc/resolv.conf` says, if it has one; `None` leaves it as it is. At most
    /// [`RESOLV_CONF_MAX`] bytes.
    pub resolv_conf: Option<Bytes>,
}

/// How much a terminal shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines, from 1.
    pub rows: u16,
    /// Characters a line, from 1.
    pub cols: u16,
}

/// Most bytes of [`Start::resolv_conf`].
pub const RESOLV_CONF_MAX: usize = 4096;

/// A limit of the workload's process, as setrlimit(2) takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// The number of its `RLIMIT_` constant in asm-generic/resource.h.
    pub resource: u32,
    /// What holds at first; `u64::MAX` is no limit.
    pub soft: u64,
    /// Up to where the workload may raise it.
    pub hard: u64,
}

/// How a guest is connected.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Network {
    /// Not beyond its loopback interface.
    #[default]
    Loopback,
    /// By its first network device.
    Interface(Interface),
    /// By the host's own sockets, which the kernel arranges (libkrun's TSI).
    Host,
}

/// Settings of a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its IPv4 address.
    pub address: [u8; 4],
    /// Bits of the address that name the network.
    pub prefix: u8,
    /// Where everything else is sent.
    pub gateway: [u8; 4],
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("program", &self.command.first().map(|program| String::from_utf8_lossy(program)))
            .field("arguments", &self.command.len().saturating_sub(1))
            .field("env", &self.env.len())
            .field("rootfs", &self.rootfs)
            .finish_non_exhaustive()
    }
}

/// Where the guest's `/` comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootfsSource {
    /// A directory of the host, mounted read-write by virtiofs.
    Virtiofs {
        /// The device's tag, usually [`ROOTFS_TAG`](super::ROOTFS_TAG).
        tag: String,
    },
    /// What is `/` already, as libkrun arranges it.
    Current,
    /// Read-only directories of the host under a writable layer.
    Overlay {
        /// Tags of the directories, topmost first.
        lowers: Vec<String>,
        /// The disk of the writable layer, an ext4 file system; for example `/dev/vda`.
        disk: String,
    },
    /// Read-only disks, of directories (ext4) or of an image (EROFS), under a writable layer on another one (ext4). Disks
    /// are named by their serial numbers.
    Images {
        /// The layers, topmost first.
        layers: Vec<String>,
        /// The disk of the writable layer.
        disk: String,
    },
}

/// A directory of the host, mounted by virtiofs below the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The device's tag.
    pub tag: String,
    /// The mount point, absolute; made where it is missing.
    pub target: Bytes,
    /// Whether it is mounted read-only. (The host enforces it as well.)
    pub read_only: bool,
}

/// How a guest ends its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PowerOff {
    /// By a reset, which the VMM takes for the end (QEMU with `-no-reboot`; its `microvm` machine has
    /// no power button). Also what a guest does that was never told.
    #[default]
    Reset,
    /// By switching the machine off.
    Off,
}
