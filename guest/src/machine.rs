//! The machine as a whole: its name, clock and end.

use std::fs;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use sandpen_guest::protocol::PowerOff;

use crate::log::log;

/// A setting that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The hostname.
    #[error("setting the hostname {name:?}")]
    Hostname {
        /// As it was wanted.
        name: String,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// The clock.
    #[error("setting the clock")]
    Clock(#[source] Errno),
}

/// Sets the hostname.
pub fn set_hostname(name: &str) -> Result<(), MachineError> {
    nix::unistd::sethostname(name).map_err(|source| MachineError::Hostname { name: name.to_owned(), source })
}

/// Sets the wall clock to the host's: time since 1970.
pub fn set_clock(now: Duration) -> Result<(), MachineError> {
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(now)).map_err(MachineError::Clock)
}

/// Where systemd and D-Bus look for what tells one machine from another.
const MACHINE_ID: &str = "/etc/machine-id";

/// Gives a root that has a machine id a new one: what was copied from an image is every sandbox's. (The
/// root is a writable layer of this sandbox's own.)
pub fn renew_id() {
    let Ok(meta) = fs::symlink_metadata(MACHINE_ID) else { return };
    // An empty one is for the workload's own init to fill; a link leads to where that keeps its own.
    if !meta.is_file() || meta.len() == 0 {
        return;
    }
    let renewed = fs::read_to_string("/proc/sys/kernel/random/uuid")
        .and_then(|uuid| fs::write(MACHINE_ID, uuid.replace('-', "")));
    if let Err(error) = renewed {
        log!("{MACHINE_ID} stays as it is in the root directory: {error}");
    }
}

/// Writes everything out and ends the machine.
pub fn power_off(how: PowerOff) -> ! {
    nix::unistd::sync();
    // A disk image is left clean; other roots refuse or do not care.
    let _ = mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>);
    let modes = match how {
        PowerOff::Reset => [RebootMode::RB_AUTOBOOT, RebootMode::RB_POWER_OFF],
        PowerOff::Off => [RebootMode::RB_POWER_OFF, RebootMode::RB_AUTOBOOT],
    };
    for mode in modes {
        let Err(error) = reboot(mode);
        log!("{mode:?}: {error}");
    }
    // PID 1 must not return: that would be a kernel panic.
    loop {
        std::thread::sleep(Duration::from_hours(1));
    }
}
