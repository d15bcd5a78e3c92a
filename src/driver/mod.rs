//! How microVMs are made on this host: what all drivers share, and the drivers.

pub mod control;
mod guest;
pub mod host;
pub mod initramfs;
pub mod qemu;
pub mod qemu_args;
pub mod tsc;
pub mod virtiofs;

use std::path::Path;
use std::sync::Arc;

pub use guest::guest_binary;
use sandpen_actors::driver::Drivers;
use sandpen_actors::state_dir::StateDir;

/// Every driver that may work on this host, the preferred one first. What is missing for one shows
/// when it is used, with what to do about it; `sandpen doctor` looks beforehand.
pub fn detect(state_dir: &StateDir, data_dir: &Path) -> Drivers {
    let config = qemu::QemuConfig::new(state_dir.clone(), data_dir);
    Drivers::default().with(Arc::new(qemu::QemuDriver::new(config)))
}
