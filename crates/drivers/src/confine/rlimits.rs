//! Resource limits of a process that serves a microVM.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// The limits that hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimits {
    /// Bytes of a core file: 0, since one would hold the guest's memory.
    pub core: u64,
    /// Open files.
    pub open_files: u64,
}

/// Sets them; for good, as the hard limits go down too. The size of files stays unlimited: logs have
/// limits of their own and disks are as large as their users want them.
pub(super) fn set(open_files: u64) -> Result<Rlimits, Errno> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let open_files = open_files.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, open_files, open_files)?;
    Ok(Rlimits { core: 0, open_files })
}
