//! How microVMs are made on this host: what all drivers share, and the drivers.
//!
//! May know: the traits of `sandpen-vmm`, kernels, images, the guest's protocols, QEMU, libkrun, virtiofsd, and how a
//! process is confined. May not: actors, the database, HTTP, the command line.

pub mod acceleration;
pub mod cache;
pub mod confine;
pub mod control;
pub mod disk;
mod disk_maker;
#[cfg(feature = "testing")]
pub mod fuse_probe;
mod guest;
mod host_options;
pub mod image_helper;
pub mod image_root;
#[cfg(feature = "krun-driver")]
pub mod krun;
pub mod krun_host;
mod launching;
mod memory;
pub mod mke2fs;
mod network;
mod own_kernel;
mod program_files;
pub mod qemu;
mod real_directory;
mod root_disk;
mod sessions;
mod shares;
mod standard_input;
pub mod start_message;
mod step;
mod storage;
pub mod virtiofs;
mod waited;
mod work;

use std::path::Path;
use std::sync::Arc;

pub use guest::guest_binary;
pub use host_options::HostOptions;
use sandpen_types::spec::Network;
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::driver::Drivers;

use self::krun_host::KrunUnusable;
use self::network::NetworkKind;

/// The names that a specification may ask for, in alphabetical order.
pub const NAMES: &[&str] = &[
    #[cfg(feature = "krun-driver")]
    krun::NAME,
    qemu::NAME,
];

/// The networks that the driver of this name makes; `None` where none of [`NAMES`] has it.
pub fn networks(driver: &str) -> Option<&'static [Network]> {
    match driver {
        #[cfg(feature = "krun-driver")]
        krun::NAME => Some(NetworkKind::Tsi.networks()),
        qemu::NAME => Some(NetworkKind::User.networks()),
        _ => None,
    }
}

/// Every driver, the preferred one first: libkrun where KVM runs Linux and libkrunfw is there, else
/// QEMU. What is missing for one shows when it is used, with what to do about it; `sandpen doctor`
/// looks beforehand. Blocking, for milliseconds.
///
/// # Errors
/// [`KrunUnusable`] when a libkrunfw is named, there or in the environment, and cannot
/// be used.
pub fn detect(state_dir: &StateDir, data_dir: &Path, options: &HostOptions) -> Result<Drivers, KrunUnusable> {
    let krunfw = options.krunfw.as_deref();
    let require_confinement = options.demands_confinement();
    let config = qemu::QemuConfig::new(state_dir.clone(), data_dir);
    let cache_bytes = options.cache.unwrap_or(config.cache_bytes);
    let config = qemu::QemuConfig { require_confinement, cache_bytes, ..config };
    let qemu = Arc::new(qemu::QemuDriver::new(config));
    #[cfg(feature = "krun-driver")]
    {
        // What was named stays the same when the current directory changes.
        let firmware = sandpen_kernels::krunfw::named(krunfw).map_err(KrunUnusable::Named)?;
        let config = krun::KrunConfig::new(state_dir.clone(), data_dir);
        let config = krun::KrunConfig { firmware, require_confinement, cache_bytes, ..config };
        let krun = Arc::new(krun::KrunDriver::new(config));
        Ok(if krun_is_usable(krunfw, data_dir)? {
            Drivers::default().with(krun).with(qemu)
        } else {
            Drivers::default().with(qemu).with(krun)
        })
    }
    #[cfg(not(feature = "krun-driver"))]
    {
        krun_is_usable(krunfw, data_dir)?;
        Ok(Drivers::default().with(qemu))
    }
}

/// Whether libkrun is the preferred driver.
fn krun_is_usable(krunfw: Option<&Path>, data_dir: &Path) -> Result<bool, KrunUnusable> {
    match krun_host::find(krunfw, data_dir) {
        Err(error @ KrunUnusable::Named(_)) => Err(error),
        // Without libkrun nothing would come of it.
        Err(error @ KrunUnusable::LeftOut) if krunfw.is_some() => Err(error),
        usable => Ok(usable.is_ok()),
    }
}

/// Runs one of sandpen's helpers and ends the process, if it was started for that; else does
/// nothing. An embedding application calls it first in its `main`, before it makes any thread:
/// sandpen starts the application's own program again to share root directories with guests, to
/// confine QEMU, to read archives of images, and to become a microVM of libkrun.
pub fn run_helper_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    let Some(first) = arguments.next() else { return };
    if first == virtiofs::SUBCOMMAND {
        std::process::exit(virtiofs::run(arguments));
    }
    if first == image_helper::SUBCOMMAND {
        std::process::exit(image_helper::run(arguments));
    }
    if first == confine::helper::SUBCOMMAND {
        std::process::exit(confine::helper::run(arguments));
    }
    if first == confine::rights::SUBCOMMAND {
        std::process::exit(confine::rights::run(arguments));
    }
    #[cfg(feature = "testing")]
    if first == confine::probe::SUBCOMMAND {
        std::process::exit(confine::probe::run(arguments));
    }
    #[cfg(feature = "testing")]
    if first == fuse_probe::SUBCOMMAND {
        std::process::exit(fuse_probe::run(arguments));
    }
    #[cfg(feature = "krun-driver")]
    if first == krun::helper::SUBCOMMAND {
        std::process::exit(krun::helper::run());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::confine::rights::is_initial_root;
    use super::confine::{JailNetwork, JailPlan};
    use super::disk_maker::DiskMaker;
    use super::*;

    /// The program that is built with these tests (`cargo test` without `--lib`).
    pub(crate) fn helper() -> PathBuf {
        let tests = std::env::current_exe().unwrap();
        let helper = tests.parent().unwrap().parent().unwrap().join("examples/drivers_helper");
        assert!(helper.exists(), "{helper:?} is not built: cargo build -p sandpen-drivers --examples");
        helper
    }

    /// What makes file systems, in a jail where one can be made.
    pub(crate) fn maker() -> Arc<DiskMaker> {
        let plan = JailPlan { uid: Some(0x7FFF_FFFE), network: JailNetwork::Own, empty_root: None };
        Arc::new(DiskMaker::new(&helper(), is_initial_root().then_some(plan).ok_or_else(|| "not root".to_owned())))
    }

    #[test]
    fn the_names_are_those_of_all_drivers() {
        let dir = tempfile::tempdir().unwrap();
        let drivers = detect(&StateDir::new(dir.path().join("state")), dir.path(), &HostOptions::default()).unwrap();
        assert_eq!(format!("{drivers:?}"), format!("{:?}", BTreeSet::from_iter(NAMES)));
    }
}
