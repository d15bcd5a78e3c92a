//! sandpen runs untrusted code in microVMs and keeps them running: a library to embed, a daemon
//! and a command line, with one core.

pub mod daemon;
pub mod doctor;
pub mod driver;
mod metrics;
pub mod orchestrator;
pub mod paths;

pub use orchestrator::{
    Events, EventsOptions, Handle, LockError, Output, OutputOptions, Sandpen, SandpenBuilder, SandpenError, StartError,
    StdinWriter, VmmLog, VmmLogOptions,
};
pub use sandpen_actors as actors;
pub use sandpen_api as api;
pub use sandpen_client as client;
pub use sandpen_client::private_dir;
pub use sandpen_kernels as kernel;
pub use sandpen_types::log_start::LogStart;

/// Runs one of sandpen's helpers and ends the process, if it was started for that; else does
/// nothing. An embedding application calls it first in its `main`, before it makes any thread:
/// sandpen starts the application's own program again to share root directories with guests, to
/// confine QEMU, and to become a microVM of libkrun.
pub fn run_helper_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    let Some(first) = arguments.next() else { return };
    if first == driver::virtiofs::SUBCOMMAND {
        std::process::exit(driver::virtiofs::run(arguments));
    }
    if first == driver::confine::helper::SUBCOMMAND {
        std::process::exit(driver::confine::helper::run(arguments));
    }
    #[cfg(feature = "testing")]
    if first == driver::confine::probe::SUBCOMMAND {
        std::process::exit(driver::confine::probe::run(arguments));
    }
    #[cfg(feature = "krun")]
    if first == driver::krun::helper::SUBCOMMAND {
        std::process::exit(driver::krun::helper::run());
    }
}

/// The README's example is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
