//! Which networks the drivers make.

use sandpen_actors::driver::DriverError;
use sandpen_actors::spec::{Network, SandboxSpec};

/// Refuses what `driver` cannot do.
pub(super) fn check(spec: &SandboxSpec, driver: &str) -> Result<(), DriverError> {
    match spec.network {
        Network::None => Ok(()),
        other => {
            Err(DriverError::Unsupported { driver: driver.to_owned(), what: format!("the network {other}; use none") })
        }
    }
}
