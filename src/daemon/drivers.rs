//! Which drivers this host has.

use std::path::Path;

use sandpen_actors::driver::Drivers;
use sandpen_actors::state_dir::StateDir;

/// Every driver that can be used here, the preferred one first.
pub fn detect(_dir: &StateDir, _data_dir: &Path) -> Drivers {
    Drivers::default()
}
