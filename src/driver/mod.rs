//! How microVMs are made on this host: what all drivers share, and the drivers.

pub mod confine;
pub mod control;
pub mod disk;
mod guest;
pub mod host;
pub mod initramfs;
#[cfg(feature = "krun")]
pub mod krun;
#[cfg(feature = "krun")]
mod krun_ffi;
mod memory;
mod network;
pub mod qemu;
pub mod qemu_args;
mod shares;
mod standard_input;
pub mod start_order;
pub mod tsc;
pub mod virtiofs;
mod waited;

use std::path::Path;
use std::sync::Arc;

pub use guest::guest_binary;
use sandpen_actors::driver::Drivers;
use sandpen_actors::state_dir::StateDir;

/// Every driver, the preferred one first: libkrun where KVM runs Linux and libkrunfw is there, else
/// QEMU. What is missing for one shows when it is used, with what to do about it; `sandpen doctor`
/// looks beforehand. Blocking, for milliseconds.
pub fn detect(state_dir: &StateDir, data_dir: &Path) -> Drivers {
    let qemu = Arc::new(qemu::QemuDriver::new(qemu::QemuConfig::new(state_dir.clone(), data_dir)));
    #[cfg(feature = "krun")]
    {
        let krun = Arc::new(krun::KrunDriver::new(krun::KrunConfig::new(state_dir.clone(), data_dir)));
        match host::krun(data_dir) {
            Ok(_) => Drivers::default().with(krun).with(qemu),
            Err(_) => Drivers::default().with(qemu).with(krun),
        }
    }
    #[cfg(not(feature = "krun"))]
    Drivers::default().with(qemu)
}
