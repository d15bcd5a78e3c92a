//! What can be wrong with the host, in words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A fault of the host that sandpen lives with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// No room, or no quota, on a disk that is written to.
    DiskFull,
    /// A file system is read-only, as Linux makes one that is damaged.
    ReadOnly,
    /// Another error of a disk or its file system.
    StorageFailed,
    /// Another program holds the database's lock.
    DatabaseLocked,
    /// This process has too few file descriptors for another sandbox.
    OpenFiles,
    /// No process and no thread can be made: a limit is reached, or there is no memory.
    Processes,
    /// Somebody set the clock.
    ClockJumped,
}

impl Fault {
    /// All.
    pub const ALL: [Self; 7] = [
        Self::DiskFull,
        Self::ReadOnly,
        Self::StorageFailed,
        Self::DatabaseLocked,
        Self::OpenFiles,
        Self::Processes,
        Self::ClockJumped,
    ];

    /// Its word, in events and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DiskFull => "disk_full",
            Self::ReadOnly => "read_only",
            Self::StorageFailed => "storage_failed",
            Self::DatabaseLocked => "database_locked",
            Self::OpenFiles => "open_files",
            Self::Processes => "processes",
            Self::ClockJumped => "clock_jumped",
        }
    }

    /// Whether states and logs may be impossible to write while it lasts.
    pub fn hinders_writing(self) -> bool {
        matches!(self, Self::DiskFull | Self::ReadOnly | Self::StorageFailed | Self::DatabaseLocked)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_the_same_in_json() {
        for fault in Fault::ALL {
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.as_str());
        }
    }
}
