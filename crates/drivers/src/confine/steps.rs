//! The steps, in their order.

use std::collections::BTreeMap;
use std::io;

use nix::errno::Errno;
use sandpen_types::confinement::{Cgroup, ProcessConfinement, Rlimits, Seccomp};

use super::landlock::LandlockError;
use super::rlimits;
use super::seccomp::{self, SeccompError};
use super::{Policy, capabilities, landlock, report, sys};

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// What was open before.
    #[error("closing inherited descriptors")]
    Descriptors(#[source] io::Error),
    /// A limit cannot be set.
    #[error("limiting resources")]
    Rlimits(#[source] Errno),
    /// The kernel refused no_new_privs.
    #[error("giving up gaining privileges")]
    NoNewPrivs(#[source] Errno),
    /// Capabilities cannot be dropped.
    #[error("dropping capabilities")]
    Capabilities(#[source] capng::Error),
    /// The report cannot be written.
    #[error("writing what holds into the runtime directory")]
    Report(#[source] io::Error),
    /// The kernel has Landlock, but refused the ruleset.
    #[error("restricting the process to its files")]
    Landlock(#[from] LandlockError),
    /// The kernel has seccomp filters, but refused ours.
    #[error("restricting system calls")]
    Seccomp(#[from] SeccompError),
}

/// A process between the two halves of its confinement.
#[derive(Debug)]
pub struct Begun {
    rlimits: Rlimits,
    cgroup: Option<Cgroup>,
    left_out: BTreeMap<String, String>,
}

/// The first half, before the process opens anything of its own: nothing inherited stays open, its
/// cgroup and its limits hold. Must be called while the process has one thread.
///
/// # Errors
/// [`ConfineError`]; the process must end then.
pub fn begin(policy: &Policy) -> Result<Begun, ConfineError> {
    sys::close_inherited().map_err(ConfineError::Descriptors)?;
    let rlimits = rlimits::set(policy.open_files).map_err(ConfineError::Rlimits)?;
    let mut begun = Begun { rlimits, cgroup: None, left_out: BTreeMap::new() };
    let joined = policy.cgroup.as_ref().map_err(Clone::clone).and_then(|plan| Ok((plan.join()?, &plan.missing)));
    match joined {
        Ok((cgroup, missing)) => {
            begun.cgroup = Some(cgroup);
            if !missing.is_empty() {
                begun.leave_out("cgroup", format!("no controller {}", missing.join(", ")));
            }
        }
        Err(why) => begun.leave_out("cgroup", why),
    }
    Ok(begun)
}

impl Begun {
    /// How many files may be open.
    pub fn open_files(&self) -> u64 {
        self.rlimits.open_files
    }

    /// Notes why a step is left out.
    fn leave_out(&mut self, step: &str, why: String) {
        self.left_out.insert(step.to_owned(), why);
    }
}

/// The second half for a process with a sandbox of another making: what is left is giving up
/// privileges by execution, and the report. `kept` are the capabilities that it will keep; `left_out`
/// says why it has no Landlock ruleset; it enters an allow-list of system calls of its own.
///
/// # Errors
/// [`ConfineError`]; the process must end then.
pub fn announce(policy: &Policy, mut begun: Begun, kept: Vec<String>, left_out: &str) -> Result<(), ConfineError> {
    nix::sys::prctl::set_no_new_privs().map_err(ConfineError::NoNewPrivs)?;
    begun.leave_out("landlock", left_out.to_owned());
    let Begun { rlimits, cgroup, left_out } = begun;
    let seccomp = Some(Seccomp::AllowList);
    let confinement = ProcessConfinement {
        no_new_privs: true,
        capabilities: kept,
        rlimits,
        landlock: None,
        seccomp,
        cgroup,
        left_out,
    };
    report::write(&policy.role, &confinement).map_err(ConfineError::Report)
}

/// The second half, before the process meets anything of a guest's making. Must be called while the
/// process has one thread; in the sandbox's runtime directory.
///
/// # Errors
/// [`ConfineError`]; the process must end then.
pub fn enforce(policy: &Policy, mut begun: Begun) -> Result<(), ConfineError> {
    let kept = capabilities::kept(policy);
    nix::sys::prctl::set_no_new_privs().map_err(ConfineError::NoNewPrivs)?;
    capabilities::keep(&kept).map_err(ConfineError::Capabilities)?;
    let landlock = match landlock::kernel_abi() {
        Ok(abi) => Some(landlock::reach(abi, policy)),
        Err(why) => {
            begun.leave_out("landlock", why);
            None
        }
    };
    let seccomp = match seccomp::available() {
        Ok(()) => Some(seccomp::kind(policy)),
        Err(why) => {
            begun.leave_out("seccomp", why);
            None
        }
    };
    let (has_landlock, has_seccomp) = (landlock.is_some(), seccomp.is_some());
    let Begun { rlimits, cgroup, left_out } = begun;
    let confinement =
        ProcessConfinement { no_new_privs: true, capabilities: kept, rlimits, landlock, seccomp, cgroup, left_out };
    // Later the runtime directory is out of reach. If a step fails now the process ends.
    report::write(&policy.role, &confinement).map_err(ConfineError::Report)?;
    if has_landlock {
        landlock::restrict(policy)?;
    }
    if has_seccomp {
        seccomp::restrict(policy)?;
    }
    Ok(())
}
