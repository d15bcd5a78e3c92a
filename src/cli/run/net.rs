//! How a sandbox is connected.

use sandpen_types::spec::{Network, PublishedPort};

/// The network and what the host listens for.
#[derive(Debug, clap::Args)]
pub struct NetArgs {
    /// Network: none, on (the driver's own kind), tsi (krun), user or published (qemu: out and in, or
    /// only in) [default: none, or published with -p]
    #[arg(long, value_name = "KIND")]
    net: Option<Network>,
    /// Port of the sandbox that the host listens for (TCP); HOST 0 is a free one, ADDR 127.0.0.1 with
    /// qemu and the command's own with krun; may be given several times. It gives no way out: that takes
    /// --net on, and with krun, where there is no port without one, --net tsi
    #[arg(short, long, value_name = "[ADDR:]HOST:GUEST")]
    publish: Vec<PublishedPort>,
}

impl NetArgs {
    /// The kind of the network.
    pub fn network(&self) -> Network {
        self.net.unwrap_or(if self.publish.is_empty() { Network::None } else { Network::Published })
    }

    /// The ports.
    pub fn ports(&self) -> Vec<PublishedPort> {
        self.publish.clone()
    }
}
