//! A filter before the lists, for what a list that compares numbers one by one cannot say: calls that did not exist
//! when it was written, and those of another calling convention under numbers of their own. They do not exist here
//! either, so that libraries take what they took before.

use nix::libc;
use seccompiler::{BpfProgram, TargetArch, sock_filter};

use super::denied_calls::NEWEST;

/// Offsets in `struct seccomp_data` of linux/seccomp.h.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// Classes and modes of linux/filter.h: load a word, jump if equal, jump if greater, answer.
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const ANSWER: u16 = 0x06;

/// `AUDIT_ARCH_*` of linux/audit.h.
pub(super) const fn audit(architecture: TargetArch) -> u32 {
    match architecture {
        TargetArch::x86_64 => 0xC000_003E,
        TargetArch::aarch64 => 0xC000_00B7,
        TargetArch::riscv64 => 0xC000_00F3,
    }
}

/// The filter for an architecture: ENOSYS for numbers above [`NEWEST`], which those of x32 are too (they have bit 30
/// set), and for clone3, whose flags are in memory where no filter sees them. Other architectures are the lists' to
/// refuse.
pub(super) fn prologue(architecture: TargetArch) -> BpfProgram {
    let no_such_call = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    let step = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    // Jumps count from the next instruction.
    vec![
        step(LOAD, ARCHITECTURE, 0, 0),
        step(IF_EQUAL, audit(architecture), 0, 3),
        step(LOAD, NUMBER, 0, 0),
        step(IF_GREATER, NEWEST, 2, 0),
        step(IF_EQUAL, u32::try_from(libc::SYS_clone3).unwrap_or(NEWEST), 1, 0),
        step(ANSWER, libc::SECCOMP_RET_ALLOW, 0, 0),
        step(ANSWER, no_such_call, 0, 0),
    ]
}
