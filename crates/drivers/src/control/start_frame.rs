//! The message that makes a guest begin, as it follows from a specification.

use std::io;

use sandpen_guest::protocol::{
    Begin, Bytes, HostMessage, Network, PowerOff, Rlimit, RootfsSource, Settings, Start, Tmpfs,
};
use sandpen_types::spec::{ByteString, Hostname, Rlimit as SpecRlimit, SandboxSpec, Tmpfs as SpecTmpfs};

use super::{terminal_size, wall_clock};

/// What a guest is sent when it is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFrame {
    /// All that it needs.
    pub begin: Begin,
    /// Whether it has no workload but its sessions. Guests of a program that knew none would fail of it.
    pub idle: bool,
}

impl From<StartFrame> for HostMessage {
    fn from(StartFrame { begin, idle }: StartFrame) -> Self {
        if idle { Self::Idle(Box::new(begin)) } else { begin.into() }
    }
}

impl StartFrame {
    /// What a message says; `None` for one that makes no guest begin.
    pub(crate) fn of(message: HostMessage) -> Option<Self> {
        match message {
            HostMessage::Start(start) => Some(Self { begin: (*start).into(), idle: false }),
            HostMessage::Begin(begin) => Some(Self { begin: *begin, idle: false }),
            HostMessage::Idle(begin) => Some(Self { begin: *begin, idle: true }),
            _ => None,
        }
    }
}

/// What to send to a guest for `spec`, with fresh random bytes from this host.
///
/// # Errors
/// When the host gives no random bytes.
pub fn start_message(spec: &SandboxSpec, rootfs: RootfsSource, power_off: PowerOff) -> io::Result<StartFrame> {
    let mut entropy = [[0; 32]; 2];
    let mut random = std::fs::File::open("/dev/urandom")?;
    for half in &mut entropy {
        io::Read::read_exact(&mut random, half)?;
    }
    let bytes = |text: &ByteString| Bytes::from(text.as_bytes());
    let start = Start {
        command: spec.command.iter().map(bytes).collect(),
        env: spec.env.iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
        workdir: spec.workdir.as_ref().map(bytes),
        hostname: spec.hostname.as_ref().map_or(spec.key.name.as_str(), Hostname::as_str).to_owned(),
        stdin: spec.stdin,
        rootfs,
        wall_clock: wall_clock(),
        entropy,
        power_off,
        terminal: spec.terminal.map(terminal_size),
        volumes: Vec::new(),
        rlimits: spec.rlimits.iter().map(rlimit).collect(),
        network: Network::Loopback,
        resolv_conf: None,
    };
    Ok(StartFrame { begin: Begin { start, settings: settings(spec) }, idle: spec.idle })
}

/// What the guest arranges besides.
pub(crate) fn settings(spec: &SandboxSpec) -> Settings {
    let tmpfs = |tmpfs: &SpecTmpfs| Tmpfs {
        target: Bytes::from(tmpfs.guest.as_bytes()),
        bytes: tmpfs.bytes,
        mode: tmpfs.mode.unwrap_or(0o1777),
        owner: (tmpfs.uid, tmpfs.gid),
        exec: tmpfs.exec,
    };
    Settings {
        user: spec.user.as_ref().map(|user| user.as_str().to_owned()),
        read_only: spec.read_only,
        tmpfs: spec.tmpfs.iter().map(tmpfs).collect(),
        shm_bytes: spec.shm_bytes,
        hosts: spec.extra_hosts.iter().map(|host| (host.name.to_string(), host.address)).collect(),
        sysctls: spec.sysctls.iter().map(|sysctl| (sysctl.path(), sysctl.value().to_owned())).collect(),
        files: Vec::new(),
    }
}

fn rlimit(limit: &SpecRlimit) -> Rlimit {
    Rlimit { resource: limit.name.number(), soft: limit.soft.get(), hard: limit.hard.get() }
}
