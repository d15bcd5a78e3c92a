//! seccomp: the system calls that a process can make. The lists are in files of their own.
//!
//! libkrun's process makes few, known ones: all others end it. libkrun's own handler for SIGSYS writes
//! the number of the call into the VMM log, unless it happens before that handler is there.
//!
//! QEMU's calls change with its version, its build and its libraries: a list of what it may do would
//! break it somewhere. So it keeps its own list (`-sandbox`), and what no VMM needs is refused to it
//! with EPERM besides. virtiofsd's list of what it may do is its library's, and ours of what it may not lies over it.
//!
//! Where a guest's memory is a private copy of a file, QEMU is told that it has punched a hole into that file when it
//! gives free memory back, and goes on to drop its copy (`ram_block_discard_range` in softmmu/physmem.c).
//!
//! To all, calls that are newer than the lists do not exist (ENOSYS), nor those of x32.

mod denied_calls;
mod krun_calls;
mod prologue;
mod sockets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use sandpen_types::confinement::Seccomp;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::{Deserialize, Serialize};

use super::{Policy, sys};
use crate::qemu::args::REPORT_BYTES;
use prologue::prologue;

/// Flags of clone(2) that make namespaces (linux/sched.h: `CLONE_NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER
/// NEWPID NEWNET`).
const NAMESPACES: u64 = 0x7E02_0000;
/// The same of unshare(2), which knows one more: `CLONE_NEWTIME`.
const NAMESPACES_OF_UNSHARE: u64 = NAMESPACES | 0x80;
/// `CLONE_THREAD`: no process, a thread.
const THREAD: u64 = 0x0001_0000;

/// Which list a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemCalls {
    /// What libkrun needs, and sockets where the policy has TCP.
    Krun,
    /// Anything but what no VMM needs that shares no files itself.
    AnyVmm,
    /// Anything but what nobody needs, besides a list of its own of what it may.
    FileServer,
    /// Anything but what nobody needs, and starting programs.
    FileWriter,
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
    usable(sys::has_seccomp_action)
}

/// The actions of ours: errors and SIGSYS.
fn usable(has: impl Fn(u32) -> io::Result<()>) -> Result<(), String> {
    for (name, action) in [("errno", libc::SECCOMP_RET_ERRNO), ("trap", libc::SECCOMP_RET_TRAP)] {
        has(action).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EINVAL) => "the kernel has no seccomp filters".to_owned(),
            Some(libc::EOPNOTSUPP) => format!("the kernel's seccomp filters lack the action {name}"),
            _ => format!("seccomp filters cannot be used: {error}"),
        })?;
    }
    Ok(())
}

/// What [`restrict`] makes hold.
pub(super) fn kind(policy: &Policy) -> Seccomp {
    match policy.system_calls {
        SystemCalls::Krun | SystemCalls::FileServer => Seccomp::AllowList,
        SystemCalls::AnyVmm | SystemCalls::FileWriter => Seccomp::DenyList,
    }
}

/// Restricts this thread, and those that it makes, for ever.
pub(super) fn restrict(policy: &Policy) -> Result<(), SeccompError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    for program in programs(policy, architecture, std::process::id())? {
        seccompiler::apply_filter(&program)?;
    }
    Ok(())
}

/// The filters in the order in which they are entered, of a process with this number. Of their answers the strictest
/// counts; the list comes last, as it may forbid entering another one.
fn programs(policy: &Policy, architecture: TargetArch, pid: u32) -> Result<Vec<BpfProgram>, BackendError> {
    let refusal = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let (rules, otherwise, matching) = match policy.system_calls {
        SystemCalls::Krun => (krun_rules(policy, pid)?, SeccompAction::Trap, SeccompAction::Allow),
        SystemCalls::AnyVmm => (vmm_rules(policy, pid)?, SeccompAction::Allow, refusal),
        SystemCalls::FileServer => (denied_rules(pid)?, SeccompAction::Allow, refusal),
        SystemCalls::FileWriter => (writer_rules(pid)?, SeccompAction::Allow, refusal),
    };
    let list = SeccompFilter::new(rules, otherwise, matching, architecture)?;
    let mut programs = vec![prologue(architecture)];
    if policy.private_memory {
        let done = SeccompAction::Errno(0);
        let holes = SeccompFilter::new(memory_holes()?, SeccompAction::Allow, done, architecture)?;
        programs.push(BpfProgram::try_from(holes)?);
    }
    programs.push(BpfProgram::try_from(list)?);
    Ok(programs)
}

/// Holes of whole reports of free memory; those in disks are smaller.
fn memory_holes() -> Result<Rules, BackendError> {
    let punch = u64::from((libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE).cast_unsigned());
    let whole = SeccompCmpOp::MaskedEq(REPORT_BYTES - 1);
    let rule = SeccompRule::new(vec![
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, punch)?,
        SeccompCondition::new(2, SeccompCmpArgLen::Qword, whole.clone(), 0)?,
        SeccompCondition::new(3, SeccompCmpArgLen::Qword, whole, 0)?,
    ])?;
    Ok(Rules::from([(libc::SYS_fallocate, vec![rule])]))
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What libkrun's process may do.
fn krun_rules(policy: &Policy, pid: u32) -> Result<Rules, BackendError> {
    let domains = sockets::domains(policy);
    let with_sockets: &[i64] = if domains.is_empty() { &[] } else { krun_calls::SOCKETS };
    let calls = krun_calls::ALWAYS.iter().copied().flatten().chain(with_sockets);
    let mut rules: Rules = calls.map(|call| (*call, Vec::new())).collect();
    // Several rules for one call are alternatives.
    if !domains.is_empty() {
        rules.insert(libc::SYS_socket, sockets::allowed(domains)?);
    }
    let threads = masked(0, NAMESPACES | THREAD, THREAD)?;
    rules.insert(libc::SYS_clone, vec![threads]);
    // Left to the prologue: of two answers the stricter one counts, and SIGSYS is stricter.
    rules.insert(libc::SYS_clone3, Vec::new());
    let names = krun_calls::PRCTL.iter().map(|operation| equal(0, *operation)).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_prctl, names);
    rules.insert(libc::SYS_tgkill, vec![equal(0, pid.into())?]);
    Ok(rules)
}

/// What is refused to a VMM that shares no files.
fn vmm_rules(policy: &Policy, pid: u32) -> Result<Rules, BackendError> {
    let mut rules = denied_rules(pid)?;
    let domains = sockets::domains(policy);
    let connections: &[i64] = if domains.is_empty() { denied_calls::CONNECTIONS } else { &[] };
    let more = denied_calls::DENIED_WITHOUT_FILES.iter().copied().flatten().chain(connections);
    rules.extend(more.map(|call| (*call, Vec::new())));
    rules.insert(libc::SYS_socket, sockets::refused(domains)?);
    rules.insert(libc::SYS_socketpair, sockets::refused_pairs()?);
    rules.insert(libc::SYS_unshare, Vec::new());
    Ok(rules)
}

/// What is refused to a process that reads and writes files, and starts nothing.
fn writer_rules(pid: u32) -> Result<Rules, BackendError> {
    let mut rules = denied_rules(pid)?;
    rules.extend([libc::SYS_execve, libc::SYS_execveat].map(|call| (call, Vec::new())));
    Ok(rules)
}

/// What is refused to everybody.
fn denied_rules(pid: u32) -> Result<Rules, BackendError> {
    let mut rules: Rules = denied_calls::DENIED.iter().copied().flatten().map(|call| (*call, Vec::new())).collect();
    // Any of the flags: a rule for each, as a mask compares all of its bits.
    for (call, flags) in [(libc::SYS_clone, NAMESPACES), (libc::SYS_unshare, NAMESPACES_OF_UNSHARE)] {
        let flags = (0..u64::BITS).map(|bit| 1 << bit).filter(|flag| flags & flag != 0);
        rules.insert(call, flags.map(|flag| masked(0, flag, flag)).collect::<Result<_, _>>()?);
    }
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        rules.insert(call, Vec::new());
    }
    // Its own limits may go down, by its number or by none.
    let others = vec![is_not(0, 0)?, is_not(0, pid.into())?];
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(others)?]);
    Ok(rules)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    let compare = SeccompCmpOp::MaskedEq(mask);
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Qword, compare, value)?])
}

fn equal(argument: u8, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?])
}

fn is_not(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}
