//! Why a specification is refused.

use std::path::PathBuf;
use std::time::Duration;

use super::LOG_KEEP_MAX;

/// Why a piece of a specification was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A sandbox or config name that is not a safe file name.
    #[error(
        "{what} name {name:?} is not allowed: use 1 to 63 of A-Z a-z 0-9 _ . -, starting with a letter or digit, without \"..\""
    )]
    Name {
        /// "sandbox", "config", "disk" or "volume".
        what: &'static str,
        /// The refused name.
        name: String,
    },
    /// A stored rootfs text that is neither `native:PATH` nor `overlayfs:A:B`.
    #[error("rootfs {0:?} is not of the form native:PATH or overlayfs:LOWER:LOWER")]
    RootfsText(String),
    /// The rootfs is not an absolute path.
    #[error("rootfs {0:?} is not an absolute path")]
    RootfsRelative(PathBuf),
    /// The rootfs does not exist or cannot be read.
    #[error("rootfs {path:?} cannot be used: {reason}")]
    RootfsUnusable {
        /// The path as given.
        path: PathBuf,
        /// "no such directory", "not a directory" or the system's words.
        reason: String,
    },
    /// Memory outside what a guest boots with.
    #[error("memory of {mib} MiB is outside {min} to {max} MiB: below that the guest kernel does not boot")]
    Memory {
        /// The refused amount.
        mib: u32,
        /// The least amount accepted.
        min: u32,
        /// The largest amount accepted.
        max: u32,
    },
    /// A number of virtual CPUs that no machine type takes.
    #[error("{0} cpus: use 1 to 64")]
    Cpus(u32),
    /// An environment entry without a name, or with `=` or NUL in it.
    #[error("environment entry {0:?} is not of the form NAME=VALUE")]
    Env(String),
    /// An image that was not looked at: its digest and its command are not known.
    #[error("image {0} was not looked at yet: start it by a handle, or say its digest and what to run")]
    ImageUnresolved(String),
    /// Nothing to execute.
    #[error("the command is empty")]
    NoCommand,
    /// An idle sandbox that is to run something.
    #[error("an idle sandbox runs nothing by itself and has no {what}; leave one of the two out")]
    Idle {
        /// What it would have.
        what: &'static str,
    },
    /// A NUL byte in an argument, a value or a path.
    #[error("{what} holds a NUL byte, which no program can receive")]
    Nul {
        /// Which part.
        what: &'static str,
    },
    /// A working directory that is not absolute.
    #[error("working directory {0:?} is not an absolute path in the guest")]
    Workdir(String),
    /// The command, environment and workdir together are too large for one message.
    #[error("command and environment are {bytes} bytes together; at most {max} fit")]
    TooLarge {
        /// What was asked for.
        bytes: usize,
        /// The most that is accepted.
        max: usize,
    },
    /// Log limits that cannot hold anything.
    #[error("log files of {max_bytes} bytes, {keep} kept: use at least 4096 bytes, and 1 to {LOG_KEEP_MAX} files")]
    Log {
        /// Size at which a log is rotated.
        max_bytes: u64,
        /// Files kept.
        keep: u32,
    },
    /// A key without its config.
    #[error("{0:?} is not of the form CONFIG/NAME")]
    Key(String),
    /// A policy for output that cannot be written which is none.
    #[error("{0:?} is neither block nor drop")]
    LogBacklog(String),
    /// A network that is none.
    #[error("there is no network {0:?}; there are {known}", known = super::Network::ALL.map(super::Network::as_str).join(", "))]
    Network(String),
    /// A way of a root to the guest that is none.
    #[error("a root cannot come by {0:?}; it can by {known}", known = super::RootDevice::ALL.map(super::RootDevice::as_str).join(", "))]
    RootDevice(String),
    /// A terminal's size that is none.
    #[error("{0:?} is not the size of a terminal; give COLUMNSxLINES, 1 to 65535 each, for example 80x24")]
    TerminalSize(String),
    /// A port to publish or to forward that cannot be read.
    #[error(
        "port {0:?} is not of the form [ADDR:]HOST:GUEST with ports from 1 to 65535 (HOST 0 for a free one) and an IPv4 address, for example 8080:80 or 0.0.0.0:8080:80"
    )]
    PortText(String),
    /// More ports than one sandbox may publish.
    #[error("{0} published ports; at most 64 are accepted")]
    TooManyPorts(usize),
    /// Published ports, but no network to reach them by.
    #[error("ports are published, but the network is none; choose another, for example published")]
    PortsWithoutNetwork,
    /// A limit of the workload's process that cannot be set.
    #[error("limit {text:?} cannot be set: {reason}")]
    Rlimit {
        /// As `NAME=SOFT:HARD`, or what was given.
        text: String,
        /// Why not.
        reason: String,
    },
    /// A health check that cannot be made.
    #[error("the health check cannot be used: {0}")]
    Health(&'static str),
    /// A restart policy that is none.
    #[error("{0:?} is not a restart policy; use no, on-failure, on-failure:MAX (1 or more), always or unless-stopped")]
    RestartPolicy(String),
    /// Pauses that cannot be kept.
    #[error(
        "pauses of {initial:?} to {max:?} before a restart: the first may not be longer than the longest, which may be {limit:?}",
        limit = super::RESTART_PAUSE_MAX
    )]
    RestartBackoff {
        /// The first one.
        initial: Duration,
        /// The longest one.
        max: Duration,
    },
    /// A sandbox that is removed and started again when it ends.
    #[error("a sandbox that is removed when it ends cannot have the restart policy {0}; leave one of them out")]
    RestartAndRemove(super::RestartPolicy),
    /// A session's time-out of nothing, or of more than anybody waits for.
    #[error("a session's time-out of {} s: use more than 0, and a year at most", .0.as_secs_f64())]
    SessionTimeout(Duration),
    /// A time without use that is too short or too long.
    #[error("a sandbox that nobody uses cannot be stopped after {0:?}; use 1s to a year")]
    IdleTimeout(Duration),
    /// A stay of a sandbox that removes itself which is too long.
    #[error("{0:?} is too long for an ended sandbox that is to be removed; at most {limit:?}", limit = super::REMOVE_DELAY_MAX)]
    RemoveDelay(Duration),
    /// The host has no port to listen at.
    #[error("no free port can be chosen for a published port: {0}")]
    NoFreePort(String),
    /// One port of the host for two.
    #[error("port {0} of the host is published twice")]
    PortTwice(u16),
    /// A root of no layers.
    #[error("an overlayfs rootfs has no directories; give at least one")]
    NoLayers,
    /// A directory that is two layers of one root.
    #[error("the directory {0:?} is given twice as a layer of the rootfs")]
    LayerTwice(PathBuf),
    /// A disk for a root that is written in place.
    #[error("a disk goes with an overlayfs rootfs; a native one is written in place")]
    DiskWithoutLayers,
    /// A root disk of a root that is written in place.
    #[error("a root image goes with an overlayfs rootfs; a native one is written in place")]
    RootDiskWithoutLayers,
    /// A disk that cannot be made.
    #[error("a disk of {0} bytes: use 16M to 1024G, in steps of 4K")]
    DiskSize(u64),
    /// A guest kernel that cannot be had.
    #[error("kernel {path:?} cannot be used: {reason}")]
    Kernel {
        /// The path as given.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// No name of a machine.
    #[error("{0:?} is no host name: use letters, digits and -, with dots between them, at most 64 characters")]
    Hostname(String),
    /// Nobody whom a workload can run as.
    #[error(
        "{0:?} is not of the form USER[:GROUP] with names or numbers of the root directory's /etc/passwd and /etc/group"
    )]
    User(String),
    /// A file system in memory that cannot be had.
    #[error("tmpfs {tmpfs:?} cannot be used: {reason}")]
    Tmpfs {
        /// Its path, or what was given.
        tmpfs: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Shared memory of a size that it cannot have.
    #[error("shared memory of {0} bytes: use 4K to the size of the memory")]
    ShmSize(u64),
    /// No line of a hosts file.
    #[error("{0:?} is not of the form NAME:ADDRESS with an IPv4 or IPv6 address, for example db:10.0.0.7")]
    ExtraHost(String),
    /// More names than a sandbox may have.
    #[error("{0} additional names of hosts; at most {max} are accepted", max = super::EXTRA_HOSTS_MAX)]
    ExtraHosts(usize),
    /// No setting of a kernel.
    #[error("{0:?} is not of the form NAME=VALUE with a name below /proc/sys, for example net.core.somaxconn=4096")]
    Sysctl(String),
    /// More settings than a sandbox may have.
    #[error("{0} settings of the kernel; at most {max} are accepted", max = super::SYSCTLS_MAX)]
    Sysctls(usize),
    /// No key of a label.
    #[error(
        "label key {0:?} is not allowed: use 1 to 128 of A-Z a-z 0-9 . _ - /, starting and ending with a letter or digit"
    )]
    LabelKey(String),
    /// A value that is too long.
    #[error("a label's value of {bytes} bytes; at most {max} are accepted")]
    LabelValue {
        /// Its length.
        bytes: usize,
        /// The most that is accepted.
        max: usize,
    },
    /// More labels than a sandbox may have.
    #[error("{0} labels; at most {max} are accepted", max = super::LABELS_MAX)]
    Labels(usize),
    /// The digest of a kernel that is none.
    #[error("{0:?} is no SHA-256 of a kernel, 64 hexadecimal digits in lower case")]
    KernelDigest(String),
    /// A volume that cannot be had.
    #[error("volume {volume:?} cannot be used: {reason}")]
    Volume {
        /// The part of it that is wrong.
        volume: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// More volumes than any driver takes.
    #[error("{0} volumes: use at most {max}", max = super::VOLUMES_MAX)]
    Volumes(usize),
}

impl SpecError {
    /// A refused volume, by the part of it that is wrong.
    pub fn volume(volume: &[u8], reason: &str) -> Self {
        Self::Volume { volume: String::from_utf8_lossy(volume).into_owned(), reason: reason.to_owned() }
    }

    /// A refused file system in memory, by the part of it that is wrong.
    pub(super) fn tmpfs(tmpfs: &[u8], reason: &str) -> Self {
        Self::Tmpfs { tmpfs: String::from_utf8_lossy(tmpfs).into_owned(), reason: reason.to_owned() }
    }
}
