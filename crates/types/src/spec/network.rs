//! How a sandbox is connected, and which of its ports the host has.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SpecError;

/// How a sandbox is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Loopback only.
    #[default]
    None,
    /// Whatever the driver has: [`Network::Tsi`] or [`Network::User`].
    On,
    /// The guest's internet sockets are sockets of the host's VMM process (libkrun's transparent
    /// socket impersonation).
    Tsi,
    /// A network of the guest's own, whose connections the VMM process makes for it (QEMU's user
    /// networking).
    User,
    /// As [`Network::User`], but nothing goes out: the published ports are reached, and that is all.
    Published,
}

impl Network {
    /// Every one, in the order of the documentation.
    pub const ALL: [Self; 5] = [Self::None, Self::On, Self::Tsi, Self::User, Self::Published];

    /// The word for it on the command line and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::On => "on",
            Self::Tsi => "tsi",
            Self::User => "user",
            Self::Published => "published",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Network {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let found = Self::ALL.into_iter().find(|network| network.as_str() == text);
        found.ok_or_else(|| SpecError::Network(text.to_owned()))
    }
}

/// Most published ports of one sandbox.
pub const PORTS_MAX: usize = 64;

/// A TCP port of the guest that the host listens for. As text `[ADDR:]HOST:GUEST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The host's address that is listened at; `None` for 127.0.0.1 or, where the driver leaves
    /// no choice, the address that the workload itself listens at.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// The host's port; 0 for a free one, which is chosen at the start and kept for restarts.
    pub host: u16,
    /// The guest's port, not 0.
    pub guest: u16,
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(f, "{address}:")?;
        }
        write!(f, "{}:{}", self.host, self.guest)
    }
}

impl FromStr for PublishedPort {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let refused = || SpecError::PortText(text.to_owned());
        let mut parts = text.rsplitn(3, ':');
        let (guest, host) = (parts.next().ok_or_else(refused)?, parts.next().ok_or_else(refused)?);
        let address = parts.next().map(|address| address.parse().map_err(|_| refused())).transpose()?;
        // `parse` would take a sign.
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u16>().ok()).flatten().ok_or_else(refused)
        };
        let port = Self { address, host: number(host)?, guest: number(guest)? };
        if port.guest == 0 { Err(refused()) } else { Ok(port) }
    }
}

/// Checks what a network and its published ports say together.
pub(super) fn check(network: Network, ports: &[PublishedPort]) -> Result<(), SpecError> {
    if ports.len() > PORTS_MAX {
        return Err(SpecError::TooManyPorts(ports.len()));
    }
    if network == Network::None && !ports.is_empty() {
        return Err(SpecError::PortsWithoutNetwork);
    }
    let everywhere = |port: &PublishedPort| port.address.is_none_or(|address| address.is_unspecified());
    for (number, port) in ports.iter().enumerate() {
        if port.guest == 0 {
            return Err(SpecError::PortText(port.to_string()));
        }
        // Without an address it can be any, which is the driver's to say.
        let same = |other: &&PublishedPort| {
            port.host != 0
                && other.host == port.host
                && (other.address == port.address || everywhere(other) || everywhere(port))
        };
        if ports[..number].iter().any(|other| same(&other)) {
            return Err(SpecError::PortTwice(port.host));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn port() -> impl Strategy<Value = PublishedPort> {
        (proptest::option::of(any::<[u8; 4]>()), any::<u16>(), 1..=u16::MAX)
            .prop_map(|(address, host, guest)| PublishedPort { address: address.map(Ipv4Addr::from), host, guest })
    }

    proptest! {
        #[test]
        fn a_port_is_read_as_it_is_written(port in port()) {
            prop_assert_eq!(port.to_string().parse::<PublishedPort>(), Ok(port));
            let json = serde_json::to_string(&port).unwrap();
            prop_assert_eq!(serde_json::from_str::<PublishedPort>(&json).unwrap(), port);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9:.\\[\\]+a -]{0,24}") {
            if let Ok(port) = text.parse::<PublishedPort>() {
                prop_assert_eq!(port.to_string().parse::<PublishedPort>(), Ok(port));
            }
        }
    }

    #[test]
    fn a_network_is_read_as_it_is_written() {
        for network in Network::ALL {
            assert_eq!(network.to_string().parse(), Ok(network));
            assert_eq!(serde_json::to_value(network).unwrap(), network.as_str());
        }
        let error = "host".parse::<Network>().unwrap_err().to_string();
        assert_eq!(error, "there is no network \"host\"; there are none, on, tsi, user, published");
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in [
            "",
            ":",
            "80",
            "80:",
            ":80",
            "1:0",
            "0:0",
            "65536:1",
            "1:65536",
            "+1:2",
            "-1:2",
            " 1:2",
            "1:2 ",
            "1:2:3:4",
            "localhost:1:2",
            "[::1]:1:2",
            "::1:1:2",
            "1.2.3:1:2",
            "1.2.3.256:1:2",
            ":1:2",
            "1:2/tcp",
            "１:2",
        ] {
            assert!(matches!(text.parse::<PublishedPort>(), Err(SpecError::PortText(_))), "{text:?}");
        }
        assert_eq!("0:80".parse::<PublishedPort>().unwrap().host, 0);
        assert_eq!("0.0.0.0:8080:80".parse::<PublishedPort>().unwrap().address, Some(Ipv4Addr::UNSPECIFIED));
    }

    #[test]
    fn ports_that_cannot_be_together_are_refused() {
        let check = |network, texts: &[&str]| {
            let ports: Vec<PublishedPort> = texts.iter().map(|text| text.parse().unwrap()).collect();
            check(network, &ports)
        };
        assert_eq!(check(Network::None, &[]), Ok(()));
        assert_eq!(check(Network::None, &["1:2"]), Err(SpecError::PortsWithoutNetwork));
        assert_eq!(check(Network::On, &["1:2", "2:2", "0:3", "0:3"]), Ok(()));
        assert_eq!(check(Network::User, &["127.0.0.1:1:2", "127.0.0.2:1:2"]), Ok(()));
        for ports in [["1:2", "1:3"], ["1:2", "127.0.0.1:1:2"], ["0.0.0.0:1:2", "127.0.0.1:1:3"]] {
            assert_eq!(check(Network::On, &ports), Err(SpecError::PortTwice(1)), "{ports:?}");
        }
        let many: Vec<_> = (0..=64).map(|_| "0:1").collect();
        assert_eq!(check(Network::On, &many), Err(SpecError::TooManyPorts(65)));
    }

    #[test]
    fn words_are_the_same_in_json() {
        for network in Network::ALL {
            assert_eq!(serde_json::to_value(network).unwrap(), network.as_str());
        }
    }
}
