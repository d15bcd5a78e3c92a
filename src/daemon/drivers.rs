//! Which drivers this daemon offers.

use std::path::Path;

use sandpen_actors::driver::Drivers;
use sandpen_actors::state_dir::StateDir;

use crate::driver;

/// Every driver that works on this host, the preferred one first.
pub fn offer(dir: &StateDir, data_dir: &Path) -> Drivers {
    driver::detect(dir, data_dir)
}
