//! seccomp: the system calls that a process can make. The lists are in files of their own.
//!
//! libkrun's process makes few, known ones: all others end it. libkrun's own handler for SIGSYS writes
//! the number of the call into the VMM log, unless it happens before that handler is there.
//!
//! QEMU's calls change with its version, its build and its libraries: a list of what it may do would
//! break it somewhere. So it keeps its own list (`-sandbox`), and what no VMM needs is refused to it
//! with EPERM besides.

mod denied_calls;
mod krun_calls;

use std::collections::BTreeMap;

use nix::libc;
use sandpen_types::confinement::Seccomp;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::{Deserialize, Serialize};

use super::Policy;

/// Where the kernel says what its filters can do.
const ACTIONS: &str = "/proc/sys/kernel/seccomp/actions_avail";

/// Flags of clone(2) that make namespaces (linux/sched.h: `CLONE_NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER
/// NEWPID NEWNET`).
const NAMESPACES: u64 = 0x7E02_0000;
/// `CLONE_THREAD`: no process, a thread.
const THREAD: u64 = 0x0001_0000;

/// Which list a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemCalls {
    /// What libkrun needs, and sockets where the policy has TCP.
    Krun,
    /// Anything but what no VMM needs.
    AnyVmm,
}

/// Why a filter could not be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The list cannot be compiled.
    #[error("compiling the list of system calls")]
    Compile(#[from] BackendError),
    /// The kernel refused it.
    #[error("entering the list of system calls")]
    Enter(#[from] seccompiler::Error),
}

/// Whether the kernel has filters.
///
/// # Errors
/// Why not, for people.
pub fn available() -> Result<(), String> {
    match std::fs::read_to_string(ACTIONS) {
        Ok(actions) => usable(&actions),
        Err(error) => Err(format!("the kernel has no seccomp filters ({ACTIONS}: {error})")),
    }
}

fn usable(actions: &str) -> Result<(), String> {
    let missing = ["errno", "trap"].into_iter().find(|action| !actions.split_whitespace().any(|word| word == *action));
    missing.map_or(Ok(()), |action| Err(format!("the kernel's seccomp filters lack the action {action}")))
}

/// What [`restrict`] makes hold.
pub(super) fn kind(policy: &Policy) -> Seccomp {
    match policy.system_calls {
        SystemCalls::Krun => Seccomp::AllowList,
        SystemCalls::AnyVmm => Seccomp::DenyList,
    }
}

/// Restricts this thread, and those that it makes, for ever.
pub(super) fn restrict(policy: &Policy) -> Result<(), SeccompError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    // The flags of clone3 are in memory, which no filter sees. Who does not find it uses clone.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let no_such_call = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let clone3 = SeccompFilter::new(clone3, SeccompAction::Allow, no_such_call, architecture)?;
    let (rules, otherwise, matching) = match policy.system_calls {
        SystemCalls::Krun => (krun_rules(policy.tcp)?, SeccompAction::Trap, SeccompAction::Allow),
        SystemCalls::AnyVmm => {
            (denied_rules()?, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.cast_unsigned()))
        }
    };
    let list = SeccompFilter::new(rules, otherwise, matching, architecture)?;
    // The list last: it may forbid entering another one.
    for filter in [clone3, list] {
        seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn krun_rules(sockets: bool) -> Result<Rules, BackendError> {
    let sockets: &[i64] = if sockets { krun_calls::SOCKETS } else { &[] };
    let calls = krun_calls::ALWAYS.iter().copied().flatten().chain(sockets);
    let mut rules: Rules = calls.map(|call| (*call, Vec::new())).collect();
    let threads = masked(0, NAMESPACES | THREAD, THREAD)?;
    rules.insert(libc::SYS_clone, vec![threads]);
    // Left to the other filter: of two answers the stricter one counts, and SIGSYS is stricter.
    rules.insert(libc::SYS_clone3, Vec::new());
    // Several rules for one call are alternatives.
    let names = krun_calls::PRCTL.iter().map(|operation| equal(0, *operation)).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_prctl, names);
    rules.insert(libc::SYS_tgkill, vec![equal(0, std::process::id().into())?]);
    Ok(rules)
}

fn denied_rules() -> Result<Rules, BackendError> {
    let mut rules: Rules = denied_calls::DENIED.iter().copied().flatten().map(|call| (*call, Vec::new())).collect();
    // Any of the flags: a rule for each, as a mask compares all of its bits.
    let flags = (0..u64::BITS).map(|bit| 1 << bit).filter(|flag| NAMESPACES & flag != 0);
    rules.insert(libc::SYS_clone, flags.map(|flag| masked(0, flag, flag)).collect::<Result<_, _>>()?);
    Ok(rules)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    let compare = SeccompCmpOp::MaskedEq(mask);
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Qword, compare, value)?])
}

fn equal(argument: u8, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_what_is_needed_is_noticed() {
        assert_eq!(usable("kill_process kill_thread trap errno user_notif trace log allow\n"), Ok(()));
        assert!(usable("kill_thread errno allow").unwrap_err().contains("trap"));
        assert!(usable("").is_err());
    }

    #[test]
    fn no_call_is_allowed_that_is_denied_to_any_vmm() {
        let (allowed, denied) = (krun_rules(true).unwrap(), denied_rules().unwrap());
        for call in denied.keys().filter(|call| **call != libc::SYS_clone) {
            assert!(!allowed.contains_key(call), "{call}");
        }
        assert!(krun_rules(true).unwrap().len() > krun_rules(false).unwrap().len());
        assert!(!krun_rules(false).unwrap().contains_key(&libc::SYS_socket));
    }
}
