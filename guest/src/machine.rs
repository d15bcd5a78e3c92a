//! The machine as a whole: its name, clock and end.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::stat::{major, minor};
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

/// How long the VMM may take to see the reset.
const RESET_LIMIT: Duration = Duration::from_secs(1);

/// What drivers/char/mem.c calls `/dev/port`: the I/O ports, by their numbers.
const PORT_DEVICE: (u64, u64) = (1, 4);

/// Pulses the processor's reset line: command 0xFE at the command port of the PC's keyboard controller (8042).
fn reset_by_keyboard_controller() -> io::Result<()> {
    const COMMAND_PORT: u64 = 0x64;
    const PULSE_RESET: u8 = 0xFE;
    let ports = OpenOptions::new().write(true).custom_flags(nix::libc::O_NOFOLLOW).open("/dev/port")?;
    let device = ports.metadata()?.rdev();
    // The workload may have put something else there.
    if (major(device), minor(device)) != PORT_DEVICE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "/dev/port is another device"));
    }
    ports.write_all_at(&[PULSE_RESET], COMMAND_PORT)
}

/// Writes everything out and ends the machine.
pub fn power_off(how: PowerOff) -> ! {
    nix::unistd::sync();
    // A disk image is left clean; other roots refuse or do not care.
    let _ = mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>);
    if how == PowerOff::KeyboardController {
        match reset_by_keyboard_controller() {
            Ok(()) => std::thread::sleep(RESET_LIMIT),
            Err(error) => log!("resetting by the keyboard controller: {error}"),
        }
    }
    let modes = match how {
        PowerOff::Reset | PowerOff::KeyboardController => [RebootMode::RB_AUTOBOOT, RebootMode::RB_POWER_OFF],
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
