//! Network interfaces and name servers.
//!
//! By rtnetlink instead of ioctls: plain bytes over a socket need no unsafe code.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use sandpen_guest::protocol::{Interface, Network};

use crate::covered::cover;
use crate::log::log;

/// Number of the loopback interface, always.
const LOOPBACK: i32 = 1;
/// The first network device, as the kernel names it.
const DEVICE: &str = "eth0";
/// The file that programs read for name servers.
/// Where it is.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A network that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel shows no network device.
    #[error("there is no network device {DEVICE}; is the driver virtio_net in this kernel?")]
    NoDevice(#[source] io::Error),
    /// A setting was refused.
    #[error("{step}")]
    Netlink {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: Errno,
    },
}

/// Brings up loopback and what `network` says.
pub fn bring_up(network: &Network) -> Result<(), NetworkError> {
    // The kernel gives it 127.0.0.1 and ::1.
    if let Err(error) = request(&link_up(LOOPBACK)) {
        log!("no loopback network: {error}");
    }
    match network {
        Network::Loopback | Network::Host => Ok(()),
        Network::Interface(interface) => bring_up_device(interface),
    }
}

fn bring_up_device(interface: &Interface) -> Result<(), NetworkError> {
    let index = fs::read_to_string(format!("/sys/class/net/{DEVICE}/ifindex"))
        .and_then(|text| text.trim().parse::<i32>().map_err(io::Error::other))
        .map_err(NetworkError::NoDevice)?;
    let failed = |step| move |source| NetworkError::Netlink { step, source };
    let (address, gateway) = (Ipv4Addr::from(interface.address), Ipv4Addr::from(interface.gateway));
    request(&add_address(index, address, interface.prefix)).map_err(failed("setting the network address"))?;
    request(&link_up(index)).map_err(failed("bringing the network device up"))?;
    request(&add_default_route(index, gateway)).map_err(failed("setting the default route"))
}

/// Makes `content` the workload's resolv.conf. The root directory's own file is covered, never
/// changed; one that has none goes without. Call it inside of the new root.
pub fn cover_resolv_conf(content: &[u8]) {
    if let Err(error) = cover(RESOLV_CONF, content) {
        log!("{RESOLV_CONF} stays as it is in the root directory: {error}");
    }
}

/// Sends a request to the kernel and reads its answer.
fn request(message: &[u8]) -> Result<(), Errno> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let fd = socket.as_raw_fd();
    sendto(fd, message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
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

/// nlmsghdr of linux/netlink.h before `payload`; the kernel answers it.
fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
    let len = u32::try_from(16 + payload.len()).unwrap_or(u32::MAX);
    [
        &len.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &(NLM_F_REQUEST_ACK | flags).to_ne_bytes(),
        &1_u32.to_ne_bytes(), // sequence number
        &0_u32.to_ne_bytes(), // sender: the kernel fills it in
        payload,
    ]
    .concat()
}

/// rtattr of linux/rtnetlink.h with four bytes of data, which needs no padding.
fn attribute(kind: u16, data: [u8; 4]) -> Vec<u8> {
    [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &data].concat()
}

/// `RTM_NEWLINK` with ifinfomsg and `IFF_UP`.
fn link_up(index: i32) -> Vec<u8> {
    const IFF_UP: u32 = 0x1;
    let info = [
        &[0; 4][..], // family, padding, device type
        &index.to_ne_bytes(),
        &IFF_UP.to_ne_bytes(),
        &IFF_UP.to_ne_bytes(), // which flags change
    ];
    message(libc::RTM_NEWLINK, 0, &info.concat())
}

const NLM_F_EXCL_CREATE: u16 = 0x200 | 0x400;
const AF_INET: u8 = 2;

/// `RTM_NEWADDR` with ifaddrmsg, `IFA_LOCAL` and `IFA_ADDRESS` of linux/if_addr.h.
fn add_address(index: i32, address: Ipv4Addr, prefix: u8) -> Vec<u8> {
    let info = [
        &[AF_INET, prefix, 0, 0][..], // family, length, flags, scope
        &index.to_ne_bytes(),
        &attribute(2, address.octets()),
        &attribute(1, address.octets()),
    ];
    message(libc::RTM_NEWADDR, NLM_F_EXCL_CREATE, &info.concat())
}

/// `RTM_NEWROUTE` with rtmsg, `RTA_GATEWAY` and `RTA_OIF` of linux/rtnetlink.h.
fn add_default_route(index: i32, gateway: Ipv4Addr) -> Vec<u8> {
    const RT_TABLE_MAIN: u8 = 254;
    const RTPROT_BOOT: u8 = 3;
    const RTN_UNICAST: u8 = 1;
    let info = [
        // Family, lengths of destination and source, type of service, table, protocol, scope, type.
        &[AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST][..],
        &[0; 4], // flags
        &attribute(5, gateway.octets()),
        &attribute(4, index.to_ne_bytes()),
    ];
    message(libc::RTM_NEWROUTE, NLM_F_EXCL_CREATE, &info.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_their_length() {
        let address = Ipv4Addr::new(10, 0, 2, 15);
        for (message, len) in
            [(link_up(1), 32_u32), (add_address(2, address, 24), 40), (add_default_route(2, address), 44)]
        {
            assert_eq!(message.len(), len as usize);
            assert_eq!(message[..4], len.to_ne_bytes());
        }
    }
}
