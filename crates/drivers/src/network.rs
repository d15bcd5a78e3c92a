//! Which networks the drivers make, and what has to be so before a guest is started with one.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use sandpen_guest::protocol::{Bytes, Interface, Network as GuestNetwork, RESOLV_CONF_MAX, Start};
use sandpen_types::spec::{Network, PublishedPort, SandboxSpec};
use sandpen_vmm::driver::DriverError;

use super::confine::{Policy, VmmNetwork};
use super::step::failed;

/// Where hosts name their name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// That file, and the directory in which systemd replaces what it links to.
const NAME_SERVERS: [&str; 2] = [RESOLV_CONF, "/run/systemd/resolve"];
/// Below the number in here listening at a port takes a capability (ip-sysctl), and below the other one where it says none.
const UNPRIVILEGED_START: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
/// See [`UNPRIVILEGED_START`].
const UNPRIVILEGED_DEFAULT: u16 = 1024;
/// QEMU's name server in the guest's network, which asks the host's.
const USER_RESOLV_CONF: &[u8] = b"nameserver 10.0.2.3\n";
/// QEMU's own addresses of the guest and of the way out.
const USER_INTERFACE: Interface = Interface { address: [10, 0, 2, 15], prefix: 24, gateway: [10, 0, 2, 2] };

/// Why ports cannot be published.
#[derive(Debug, thiserror::Error)]
enum PortError {
    /// Somebody listens there, or this user may not.
    #[error("cannot listen at port {port} of {address}; choose another with -p, or 0 for a free one")]
    Listen {
        address: Ipv4Addr,
        port: u16,
        #[source]
        source: io::Error,
    },
    /// No port was chosen.
    #[error("no port of the host was chosen for port {0} of the guest")]
    NotChosen(u16),
}

/// The kind of network that a driver makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NetworkKind {
    /// libkrun's.
    Tsi,
    /// QEMU's.
    User,
}

impl NetworkKind {
    /// The networks that a driver of this kind makes.
    pub(super) const fn networks(self) -> &'static [Network] {
        match self {
            Self::Tsi => &[Network::None, Network::On, Network::Tsi],
            Self::User => &[Network::None, Network::On, Network::User, Network::Published],
        }
    }
}

/// What a driver needs to know of a sandbox's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NetworkPlan {
    /// Nothing goes out.
    pub(super) restricted: bool,
    /// What the host listens for, each with its address.
    pub(super) ports: Vec<(Ipv4Addr, PublishedPort)>,
    /// Whether one of them takes a capability.
    pub(super) low_ports: bool,
    /// For the guest.
    pub(super) guest: GuestNetwork,
    /// For the guest.
    pub(super) resolv_conf: Option<Bytes>,
}

/// What a VMM with this plan has of the host's network.
pub(super) fn of_vmm(plan: Option<&NetworkPlan>) -> VmmNetwork {
    match plan {
        None => VmmNetwork::None,
        Some(plan) if plan.low_ports => VmmNetwork::HostWithLowPorts,
        Some(_) => VmmNetwork::Host,
    }
}

/// The plan for `spec`, `None` without a network. Looks at the host's ports: blocking, for
/// microseconds.
pub(super) fn plan(spec: &SandboxSpec, driver: &str, kind: NetworkKind) -> Result<Option<NetworkPlan>, DriverError> {
    let unsupported = |what: String| DriverError::Unsupported { driver: driver.to_owned(), what };
    let network = spec.network;
    if network == Network::None {
        return Ok(None);
    }
    if kind == NetworkKind::Tsi && network == Network::Published {
        return Err(unsupported(
            "the network published, which is what a published port (-p) asks for alone: here a port always comes \
             with a way out, to the host's own 127.0.0.1 too; say --net tsi if that may be, or use --driver qemu"
                .to_owned(),
        ));
    }
    if !kind.networks().contains(&network) {
        let (instead, other) = match kind {
            NetworkKind::Tsi => ("on, tsi", "qemu"),
            NetworkKind::User => ("on, user, published", "krun"),
        };
        return Err(unsupported(format!("the network {network}; use --net {instead} or none, or --driver {other}")));
    }
    if kind == NetworkKind::Tsi {
        check_tsi_ports(&spec.ports).map_err(unsupported)?;
    }
    let mut ports = Vec::new();
    let mut listeners = Vec::new();
    for port in &spec.ports {
        let default = match kind {
            // The workload may choose any address: the port has to be free at all of them.
            NetworkKind::Tsi => Ipv4Addr::UNSPECIFIED,
            NetworkKind::User => Ipv4Addr::LOCALHOST,
        };
        let address = port.address.unwrap_or(default);
        listeners.push(listen(address, port).map_err(|source| failed("publishing ports", source))?);
        ports.push((address, *port));
    }
    let restricted = network == Network::Published;
    let start = std::fs::read_to_string(UNPRIVILEGED_START).ok().and_then(|start| start.trim().parse().ok());
    let low_ports = ports.iter().any(|(_, port)| port.host < start.unwrap_or(UNPRIVILEGED_DEFAULT));
    Ok(Some(match kind {
        NetworkKind::Tsi => {
            NetworkPlan { restricted, ports, low_ports, guest: GuestNetwork::Host, resolv_conf: host_resolv_conf() }
        }
        NetworkKind::User => NetworkPlan {
            restricted,
            ports,
            low_ports,
            guest: GuestNetwork::Interface(USER_INTERFACE),
            resolv_conf: (!restricted).then(|| Bytes::from(USER_RESOLV_CONF)),
        },
    }))
}

/// Puts into `start` what the guest needs to know of it.
pub(super) fn tell(plan: Option<NetworkPlan>, start: &mut Start) {
    if let Some(plan) = plan {
        start.network = plan.guest;
        start.resolv_conf = plan.resolv_conf;
    }
}

/// Lets the VMM process do what the plan needs. With a network of its own the guest asks a name server of the VMM's.
pub(super) fn permit(plan: Option<&NetworkPlan>, policy: &mut Policy) {
    let Some(plan) = plan else { return };
    policy.tcp = true;
    if matches!(plan.guest, GuestNetwork::Interface(_)) && !plan.restricted {
        policy.read.extend(NAME_SERVERS.map(PathBuf::from));
    }
    if plan.low_ports {
        policy.capabilities.push("NET_BIND_SERVICE".to_owned());
    }
}

/// What libkrun cannot do with ports.
fn check_tsi_ports(ports: &[PublishedPort]) -> Result<(), String> {
    for (number, port) in ports.iter().enumerate() {
        if let Some(address) = port.address {
            return Err(format!(
                "an address ({address}) for a published port: it listens where the workload does; \
                 leave the address out and let the workload listen there, or use --driver qemu"
            ));
        }
        if ports[..number].iter().any(|other| other.guest == port.guest) {
            return Err(format!("port {} of the guest published twice; use --driver qemu", port.guest));
        }
    }
    Ok(())
}

/// Here with words of our own: a VMM would only be found dead. It listens itself a moment later.
fn listen(address: Ipv4Addr, port: &PublishedPort) -> Result<TcpListener, PortError> {
    if port.host == 0 {
        return Err(PortError::NotChosen(port.guest));
    }
    TcpListener::bind((address, port.host)).map_err(|source| PortError::Listen { address, port: port.host, source })
}

/// The host's own, which holds for sockets of the host; `None` if it is none that can be passed on.
fn host_resolv_conf() -> Option<Bytes> {
    let content = std::fs::read(RESOLV_CONF).ok()?;
    (content.len() <= RESOLV_CONF_MAX).then(|| Bytes::from(content))
}

#[cfg(test)]
mod tests {
    use sandpen_types::spec::{Rootfs, SandboxName};

    use super::*;

    fn spec(network: Network, ports: &[&str]) -> SandboxSpec {
        let mut spec = SandboxSpec::new(SandboxName::new("a").unwrap(), Rootfs::Native("/".into()), vec!["x".into()]);
        spec.network = network;
        spec.ports = ports.iter().map(|text| text.parse().unwrap()).collect();
        spec
    }

    fn refusal(network: Network, ports: &[&str], kind: NetworkKind) -> String {
        plan(&spec(network, ports), "x", kind).unwrap_err().chain()
    }

    #[test]
    fn each_driver_makes_its_own_kind() {
        for kind in [NetworkKind::Tsi, NetworkKind::User] {
            assert_eq!(plan(&spec(Network::None, &[]), "x", kind).unwrap(), None);
            assert!(plan(&spec(Network::On, &[]), "x", kind).unwrap().is_some());
        }
        assert!(refusal(Network::Tsi, &[], NetworkKind::User).contains("--driver krun"));
        assert!(refusal(Network::User, &[], NetworkKind::Tsi).contains("--driver qemu"));
        let published = refusal(Network::Published, &["1:2"], NetworkKind::Tsi);
        assert!(["-p", "--net tsi", "--driver qemu"].iter().all(|word| published.contains(word)), "{published}");
        let published = plan(&spec(Network::Published, &[]), "x", NetworkKind::User).unwrap().unwrap();
        assert!(published.restricted && published.resolv_conf.is_none());
        let on = plan(&spec(Network::On, &[]), "x", NetworkKind::User).unwrap().unwrap();
        assert!(!on.restricted && on.resolv_conf.is_some());
    }

    #[test]
    fn ports_are_refused_before_anything_starts() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        for kind in [NetworkKind::Tsi, NetworkKind::User] {
            let error = refusal(Network::On, &[&format!("{port}:80")], kind);
            assert!(error.contains(&format!("port {port} of ")) && error.contains("in use"), "{error}");
        }
        assert!(refusal(Network::On, &["0:80"], NetworkKind::User).contains("80"));
        assert!(refusal(Network::On, &["127.0.0.1:1:80"], NetworkKind::Tsi).contains("address"));
        assert!(refusal(Network::On, &["1:80", "2:80"], NetworkKind::Tsi).contains("twice"));
        drop(taken);
        let free = plan(&spec(Network::On, &[&format!("{port}:80")]), "x", NetworkKind::User).unwrap().unwrap();
        assert_eq!(free.ports[0].0, Ipv4Addr::LOCALHOST);
    }
}
