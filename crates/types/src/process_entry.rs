//! One process of a sandbox, as its guest tells it: one of these in JSON a line.

use serde::{Deserialize, Serialize};

/// A process, as Linux's `/proc` in the guest has it. All of it is the guest's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEntry {
    /// Its number in the guest.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
    /// The user it runs as: the name of the root's `/etc/passwd`, or the number.
    pub user: String,
    /// Processor time that it has used, in milliseconds.
    pub cpu_ms: u64,
    /// Memory of its that is there, in bytes.
    pub memory: u64,
    /// Its state, one letter as ps(1) has it.
    pub state: char,
    /// How long ago it was started, in milliseconds.
    pub age_ms: u64,
    /// Its program and arguments with spaces between them, or its name in brackets where it has none; at most 4096 bytes.
    pub command: String,
}
