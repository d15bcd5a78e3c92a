//! What a process that serves a microVM gives up before it touches anything of a guest.
//!
//! ```text
//!   driver: Policy (paths, network, list of system calls) ──JSON──▶ the process
//!     inherited descriptors closed ─▶ cgroup joined ─▶ rlimits ─▶ files that it gets opened ─▶ jail entered ─▶
//!     [what it still has to open] ─▶ no_new_privs ─▶ capabilities dropped ─▶ report written ─▶ Landlock ─▶ seccomp ─▶
//!     guest
//! ```
//!
//! Steps that the kernel or the rights at hand do not allow are left out and the report says so; a
//! step that is possible and still fails ends the process. So a report of a live process is
//! true. The microVM processes of libkrun and virtiofsd do this to themselves; QEMU is started
//! through [`helper`].

mod capabilities;
pub mod cgroup;
pub mod helper;
mod jail;
mod landlock;
mod policy;
#[cfg(feature = "testing")]
pub mod probe;
mod report;
pub mod rights;
mod rlimits;
mod sandbox_jail;
mod seccomp;
mod steps;
mod sys;

pub use jail::{JailError, JailNetwork, JailPlan};
pub use landlock::kernel_abi;
pub use policy::{
    FIRST_INHERITED, Inherited, POLICY, Policy, SharedTree, SharedTreeError, descriptor_path, share_path,
};
pub use report::read;
pub use sandbox_jail::{ConfinementError, Needs, SandboxJail, VmmNetwork};
pub use seccomp::{SystemCalls, available as seccomp_available};
pub use steps::{Begun, ConfineError, begin, enforce};
pub use sys::close_inherited;
