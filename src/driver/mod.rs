//! How microVMs are made on this host: what all drivers share, and the drivers.

pub mod control;
mod guest;
pub mod host;
pub mod initramfs;
pub mod qemu_args;
pub mod tsc;
pub mod virtiofs;

pub use guest::guest_binary;
use std::path::Path;

use sandpen_actors::driver::Drivers;
use sandpen_actors::state_dir::StateDir;

/// Every driver that works on this host.
pub fn detect(_state_dir: &StateDir, _data_dir: &Path) -> Drivers {
    Drivers::default()
}
