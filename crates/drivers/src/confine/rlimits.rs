//! Resource limits of a process that serves a microVM.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sandpen_types::confinement::Rlimits;

/// Sets them; for good, as the hard limits go down too. The size of files stays unlimited: logs have
/// limits of their own and disks are as large as their users want them.
pub(super) fn set(open_files: u64) -> Result<Rlimits, Errno> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let open_files = open_files.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, open_files, open_files)?;
    Ok(Rlimits { core: 0, open_files })
}
