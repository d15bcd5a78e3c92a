//! What the tests through the built binary share.

#![allow(dead_code, unused_imports, reason = "each program of tests uses its share")]

pub mod authority;
pub mod commands;
pub mod confinement;
pub mod daemon;
pub mod dice;
pub mod echo;
pub mod example;
pub mod features;
pub mod full_disk;
pub mod guests;
pub mod home;
pub mod images;
pub mod kernels;
pub mod loop_disk;
pub mod nested;
pub mod proxy;
pub mod pty;
pub mod registry;
pub mod shared;
pub mod shell;
pub mod signals;

use std::time::{Duration, Instant};

use sandpen_skip::{Reason, skip};

pub use commands::{
    expect, explain, feed, finish, in_namespaces, is_connected, output, output_within, run_named, run_on_host, said,
    spawn, succeeds,
};
pub use dice::Dice;
pub use home::{Home, make_rootfs};
pub use signals::{is_there, send, send_if_there};

/// Longest wait for anything: a boot under emulation on a busy machine takes some seconds.
pub const DEADLINE: Duration = Duration::from_mins(4);

/// Whether QEMU's machines are restored here, as they are under emulation alone; else `what` is skipped.
pub fn restores(what: &str) -> bool {
    if sandpen::driver::acceleration::acceleration().accelerator != sandpen::driver::acceleration::Accelerator::Tcg {
        skip(Reason::KvmWorks, what);
        return false;
    }
    has_mke2fs()
}

/// Whether file systems can be made here; else that is a skip.
pub fn has_mke2fs() -> bool {
    let found = sandpen::driver::mke2fs::find();
    if let Err(error) = &found {
        skip(Reason::NoMke2fs, error);
    }
    found.is_ok()
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not before the deadline: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
