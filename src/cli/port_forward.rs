//! `sandpen port-forward`.
//!
//! ```text
//!   listening ──▶ a connection ─┬─ fewer than MAX ──▶ a session of the sandbox, carried both ways ──▶ closed
//!      │                        └─ else ──▶ closed at once, and said once for each time that it gets full
//!      ├ a signal ──▶ every session is hung up ──▶ 0
//!      └ the sandbox has ended ──▶ 1
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use sandpen::client::{Client, ClientError, Forward, ForwardEnd, leave};
use sandpen_types::error_chain::error_chain;
use sandpen_types::spec::{PublishedPort, SpecError};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::args::NameArg;
use super::{CliError, Global, print, signals};

/// Connections at once: half of the sessions that a sandbox can have, others are for `exec` and its kin.
const CONNECTIONS_MAX: usize = 128;
/// How long sessions may take to end at the end; those that are left end for want of a client.
const HANG_UP_LIMIT: Duration = Duration::from_secs(5);
/// A pause where the host has no descriptors left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connect ports of this host to ports of a running sandbox
///
/// Whoever connects to HOST here is connected to what listens at GUEST in the sandbox, on a loopback address or on all: it needs
/// no network and can be done at any time. It goes on until it is interrupted (exit code 0) or the sandbox has ended for good
/// (exit code 1); over restarts of the sandbox with new connections, over the death or replacement of the daemon with all of
/// them. ADDRESS before a port is IPv4; for IPv6 give --address ::1. Each connection is a session of the sandbox, which has at
/// most 256; at most 128 are carried at once, and more are closed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen port-forward web 8080:80          http://127.0.0.1:8080 is the sandbox's port 80
  sandpen port-forward web 0:80             a free port, which is printed
  sandpen port-forward --address 0.0.0.0 web 8080:80 2222:22")]
pub struct Args {
    /// Address of this host to listen at, where a port says none
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    #[command(flatten)]
    name: NameArg,
    /// Port of this host, 0 for a free one, and of the sandbox
    #[arg(required = true, value_name = "[ADDRESS:]HOST:GUEST")]
    ports: Vec<PublishedPort>,
}

/// A port that is listened at.
struct Listening {
    listener: TcpListener,
    forward: Forward,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let options = global.client_options()?;
    let client = Client::connect(&options).await?;
    if !client.inspect(&key).await?.is_active() {
        return Err(CliError::NotRunning(args.name.text().to_owned()));
    }
    let (mut signals, _) = signals::channel()?;
    let mut ports = Vec::new();
    for port in &args.ports {
        let guest = NonZeroU16::new(port.guest).ok_or_else(|| SpecError::PortText(port.to_string()))?;
        let address = SocketAddr::new(port.address.map_or(args.address, IpAddr::V4), port.host);
        let failed = |source| CliError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let at = listener.local_addr().map_err(failed)?;
        print::lines(std::iter::once(format!("{at} -> {guest}").as_str()))?;
        let (client, options, key) = (client.clone(), options.clone(), key.clone());
        ports.push(Listening { listener, forward: Forward { client, options, key, port: guest } });
    }
    let (mut connections, stop) = (JoinSet::new(), CancellationToken::new());
    let ended = tokio::select! {
        () = accept(&ports, &mut connections, &stop) => Ok(0),
        _ = signals.recv() => Ok(0),
        waited = client.wait(&options, &key) => match waited {
            Ok(_) | Err(ClientError::RemovedMeanwhile { .. }) => Err(CliError::ForwardEnded(args.name.text().to_owned())),
            Err(error) => Err(error.into()),
        },
    };
    drop(ports);
    stop.cancel();
    let _ = tokio::time::timeout(HANG_UP_LIMIT, connections.join_all()).await;
    ended
}

/// Takes connections for ever.
async fn accept(ports: &[Listening], connections: &mut JoinSet<()>, stop: &CancellationToken) {
    let accept = |port: usize| async move { (port, ports[port].listener.accept().await) };
    let mut accepting: FuturesUnordered<_> = (0..ports.len()).map(accept).collect();
    let mut is_full = false;
    loop {
        let (port, accepted) = tokio::select! {
            Some(accepted) = accepting.next() => accepted,
            // Observed: it says itself what went wrong.
            Some(_) = connections.join_next() => continue,
        };
        accepting.push(accept(port));
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Of one that has gone already, or for lack of descriptors.
            Err(error) => {
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                    print::note(&format!("a connection cannot be accepted: {error}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            if !std::mem::replace(&mut is_full, true) {
                print::note(&format!(
                    "{CONNECTIONS_MAX} connections are open, which is all there can be: others are closed"
                ));
            }
            reset(&stream);
            continue;
        }
        is_full &= connections.len() >= CONNECTIONS_MAX / 2;
        connections.spawn(carry(ports[port].forward.clone(), stream, stop.clone()));
    }
}

/// Its other side is to see that it broke, when it is closed.
fn reset(stream: &TcpStream) {
    // One that is gone needs none.
    let _ = stream.set_zero_linger();
}

async fn carry(forward: Forward, mut stream: TcpStream, stop: CancellationToken) {
    // What is typed is to arrive at once.
    let _ = stream.set_nodelay(true);
    let port = forward.port;
    let mut session = match forward.connect().await {
        Ok(session) => session,
        Err(error) => {
            print::note(&format!("port {port}: {}", error_chain(&error)));
            return reset(&stream);
        }
    };
    let (input, output) = stream.split();
    let carried = tokio::select! {
        carried = forward.carry(&mut session, input, output) => carried,
        () = stop.cancelled() => {
            leave(&mut session).await;
            return;
        }
    };
    match carried {
        Ok(ForwardEnd::Closed | ForwardEnd::Left) => {}
        Ok(ForwardEnd::Refused(reason)) => {
            print::note(&reason);
            reset(&stream);
        }
        Ok(ForwardEnd::Lost(end)) => {
            print::note(&format!("port {port}: a connection was lost: {end}"));
            reset(&stream);
        }
        Err(error) => {
            print::note(&format!("port {port}: {}", error_chain(&error)));
            reset(&stream);
        }
    }
}
