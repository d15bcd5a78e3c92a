//! The machine as a whole: its name, clock, loopback network and end.

use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
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

/// Brings the loopback interface up; the kernel then gives it 127.0.0.1 and `::1`.
///
/// By rtnetlink instead of `SIOCSIFFLAGS`: plain bytes over a socket need no unsafe code.
pub fn loopback_up() -> Result<(), Errno> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    sendto(fd, &loopback_request(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0_u8; 256];
    let len = recv(fd, &mut answer, MsgFlags::empty())?;
    // nlmsghdr (16 bytes), then the negative errno of nlmsgerr.
    let code = answer[..len].get(16..20).and_then(|bytes| bytes.first_chunk()).map(|code| i32::from_ne_bytes(*code));
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw(-code)),
        None => Err(Errno::EBADMSG),
    }
}

/// `RTM_NEWLINK` for interface 1 (always `lo`) with `IFF_UP`: nlmsghdr and ifinfomsg of
/// linux/netlink.h and linux/rtnetlink.h.
fn loopback_request() -> Vec<u8> {
    const LEN: u32 = 32;
    const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
    const IFF_UP: u32 = 0x1;
    [
        &LEN.to_ne_bytes()[..],
        &libc::RTM_NEWLINK.to_ne_bytes(),
        &NLM_F_REQUEST_ACK.to_ne_bytes(),
        &1_u32.to_ne_bytes(), // sequence number
        &0_u32.to_ne_bytes(), // sender: the kernel fills it in
        &[0; 4],              // family, padding, device type
        &1_i32.to_ne_bytes(), // interface
        &IFF_UP.to_ne_bytes(),
        &IFF_UP.to_ne_bytes(), // which flags change
    ]
    .concat()
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
