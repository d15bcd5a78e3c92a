//! Which drivers this daemon offers.

use std::path::Path;

use sandpen_drivers::HostOptions;
use sandpen_drivers::krun_host::KrunUnusable;
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::driver::Drivers;

/// Every driver that works on this host, the preferred one first.
///
/// # Errors
/// As [`sandpen_drivers::detect`].
pub fn offer(dir: &StateDir, data_dir: &Path, options: &HostOptions) -> Result<Drivers, KrunUnusable> {
    let drivers = sandpen_drivers::detect(dir, data_dir, options)?;
    #[cfg(all(feature = "testing", feature = "krun-driver"))]
    let drivers = with_bare_krun(drivers, dir, data_dir);
    Ok(with_process_driver(drivers, dir))
}

/// Bare-metal programs instead of Linux, asked for by name, in test builds.
#[cfg(all(feature = "testing", feature = "krun-driver"))]
fn with_bare_krun(drivers: Drivers, dir: &StateDir, data_dir: &Path) -> Drivers {
    use std::sync::Arc;

    use sandpen_drivers::krun::{KrunConfig, KrunDriver};
    drivers.with(Arc::new(KrunDriver::bare(KrunConfig::new(dir.clone(), data_dir))))
}

/// Host commands instead of microVMs, asked for by name, in test builds.
#[cfg(feature = "testing")]
fn with_process_driver(drivers: Drivers, dir: &StateDir) -> Drivers {
    use std::sync::Arc;

    use sandpen_actors::testing::process_driver::ProcessDriver;
    drivers.with(Arc::new(ProcessDriver::new(dir.bin())))
}

#[cfg(not(feature = "testing"))]
fn with_process_driver(drivers: Drivers, _dir: &StateDir) -> Drivers {
    drivers
}
