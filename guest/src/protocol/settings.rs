//! What a guest arranges for its workload besides a [`Start`]. As there, the order of fields is what is sent.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Bytes, HostMessage, Start};

/// A start, and what the guest arranges besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// How the workload is run.
    pub start: Start,
    /// What else.
    pub settings: Settings,
}

impl From<Start> for Begin {
    fn from(start: Start) -> Self {
        Self { start, settings: Settings::default() }
    }
}

impl From<Begin> for HostMessage {
    /// The oldest message that says it, which guests of before know too.
    fn from(begin: Begin) -> Self {
        match begin.settings == Settings::default() {
            true => Self::Start(Box::new(begin.start)),
            false => Self::Begin(Box::new(begin)),
        }
    }
}

/// What the guest arranges for the workload besides a [`Start`]; nothing by default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Settings {
    /// `USER[:GROUP]`, names or numbers of the root; `None` for root.
    pub user: Option<String>,
    /// Whether the root is made read-only before the workload runs.
    pub read_only: bool,
    /// File systems in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Most bytes of `/dev/shm`.
    pub shm_bytes: Option<u64>,
    /// First lines of `/etc/hosts`: names and their addresses.
    pub hosts: Vec<(String, IpAddr)>,
    /// Files below `/proc/sys`, without a `/` in front, and what is written to them.
    pub sysctls: Vec<(String, String)>,
    /// Tags of those [`Volume`](super::Volume)s that are one file, of the name [`VOLUME_FILE`](super::VOLUME_FILE).
    pub files: Vec<String>,
}

/// A file system in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// The mount point, absolute; made where it is missing.
    pub target: Bytes,
    /// Most bytes in it.
    pub bytes: Option<u64>,
    /// Mode of its directory.
    pub mode: u16,
    /// Its owner and group.
    pub owner: (u32, u32),
    /// Whether programs in it can be executed.
    pub exec: bool,
}
