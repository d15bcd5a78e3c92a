//! Landlock: paths, unix sockets by path (from Linux 7.1 on), TCP (and UDP from 7.2 on), and the reach of signals and
//! abstract sockets.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use nix::errno::Errno;
use sandpen_types::confinement::Landlock;

use super::policy::descriptor_path;
use super::{Policy, sys};

/// The newest ABI whose rights are known here; what a later kernel adds stays as it is.
const NEWEST: ABI = ABI::V10;
/// What nobody does in directories of its own either: device nodes, programs, sockets of others.
const NOT_OF_OWN: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    MakeChar | MakeBlock | Execute | IoctlDev | ResolveUnix
});
/// Before this one (Linux 5.19) no file could be moved from one directory to another.
const OLDEST: i32 = 2;
/// From this one on TCP is restricted (Linux 6.7).
const WITH_TCP: i32 = 4;
/// From this one on signals and abstract unix sockets are (Linux 6.12).
const WITH_SCOPES: i32 = 6;

/// Why a ruleset could not be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    #[error("opening {path:?} for a Landlock rule")]
    Open {
        path: PathBuf,
        #[source]
        source: PathFdError,
    },
    #[error("making a Landlock ruleset")]
    Ruleset(#[from] RulesetError),
    #[error("the kernel has Landlock, but did not enforce the ruleset")]
    NotEnforced,
}

/// The kernel's ABI version.
///
/// # Errors
/// Why it has none that could be used, for people.
pub fn kernel_abi() -> Result<i32, String> {
    usable(sys::landlock_abi())
}

fn usable(asked: io::Result<i32>) -> Result<i32, String> {
    match asked {
        Ok(abi) if abi >= OLDEST => Ok(abi),
        Ok(_) => Err("the kernel's Landlock forbids moving files between directories (before Linux 5.19)".to_owned()),
        Err(error) if error.raw_os_error() == Some(Errno::ENOSYS as i32) => {
            Err("the kernel has no Landlock".to_owned())
        }
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
            Err("Landlock is switched off (kernel parameter lsm=)".to_owned())
        }
        Err(error) => Err(format!("Landlock cannot be used: {error}")),
    }
}

/// What a ruleset for `policy` restricts under this ABI.
pub(super) fn reach(abi: i32, policy: &Policy) -> Landlock {
    Landlock { abi, network_denied: abi >= WITH_TCP && !policy.tcp, scoped: abi >= WITH_SCOPES }
}

/// Restricts this thread, and those that it makes, for ever.
pub(super) fn restrict(policy: &Policy) -> Result<(), LandlockError> {
    let all = AccessFs::from_all(NEWEST);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let modify = read | AccessFs::WriteFile | AccessFs::Truncate;
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?;
    if !policy.tcp {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let mut created = ruleset.scope(Scope::from_all(NEWEST))?.create()?;
    let own = all & !NOT_OF_OWN;
    let mut grants = Vec::new();
    let mut grant = |paths: &[PathBuf], access| grants.extend(paths.iter().map(|path| (path.clone(), access)));
    grant(&policy.read, read);
    grant(&policy.execute, read | AccessFs::Execute);
    grant(&policy.modify, modify);
    grant(&policy.devices, modify | AccessFs::IoctlDev);
    let shares = policy.share_paths().zip(&policy.shares);
    grants.extend(shares.map(|(path, share)| (path, if share.read_only { read } else { own })));
    // Of files in memory it takes no rule, nor asks for one (`SB_NOUSER` in security/landlock/fs.c).
    let inherited = policy.inherited_descriptors().filter(|(_, file)| file.content.is_none());
    grants.extend(inherited.map(|(fd, file)| (descriptor_path(fd), if file.write { modify } else { read })));
    for (path, access) in grants {
        if let Some(rule) = rule(&path, access)? {
            created = created.add_rule(rule)?;
        }
    }
    match created.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err(LandlockError::NotEnforced),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

fn rule(path: &Path, access: BitFlags<AccessFs>) -> Result<Option<PathBeneath<PathFd>>, LandlockError> {
    let Ok(meta) = std::fs::metadata(path) else { return Ok(None) };
    let access = if meta.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    let fd = PathFd::new(path).map_err(|source| LandlockError::Open { path: path.to_owned(), source })?;
    Ok(Some(PathBeneath::new(fd, access)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_old_kernel_lacks_is_said() {
        assert!(usable(Err(Errno::ENOSYS.into())).unwrap_err().contains("has no Landlock"));
        assert!(usable(Err(Errno::EOPNOTSUPP.into())).unwrap_err().contains("lsm="));
        assert!(usable(Err(Errno::EPERM.into())).is_err());
        assert!(usable(Ok(1)).unwrap_err().contains("5.19"));
        assert_eq!(usable(Ok(2)), Ok(2));
    }

    #[test]
    fn what_holds_depends_on_the_abi_and_the_network() {
        let mut policy = Policy::new("vmm");
        let reach_of = |abi, policy: &Policy| {
            let Landlock { network_denied, scoped, .. } = reach(abi, policy);
            (network_denied, scoped)
        };
        assert_eq!(reach_of(2, &policy), (false, false));
        assert_eq!(reach_of(4, &policy), (true, false));
        assert_eq!(reach_of(7, &policy), (true, true));
        policy.tcp = true;
        assert_eq!(reach_of(7, &policy), (false, true));
    }
}
