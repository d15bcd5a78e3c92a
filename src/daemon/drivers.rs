//! Which drivers this daemon offers.

use std::path::Path;

use sandpen_actors::driver::Drivers;
use sandpen_actors::state_dir::StateDir;

use crate::driver;

/// Every driver that works on this host, the preferred one first.
pub fn offer(dir: &StateDir, data_dir: &Path) -> Drivers {
    with_process_driver(driver::detect(dir, data_dir), dir)
}

/// Host commands instead of microVMs, asked for by name, in test builds.
#[cfg(feature = "testing")]
fn with_process_driver(drivers: Drivers, dir: &StateDir) -> Drivers {
    use std::sync::Arc;

    use sandpen_actors::process_driver::ProcessDriver;
    drivers.with(Arc::new(ProcessDriver::new(dir.bin())))
}

#[cfg(not(feature = "testing"))]
fn with_process_driver(drivers: Drivers, _dir: &StateDir) -> Drivers {
    drivers
}
