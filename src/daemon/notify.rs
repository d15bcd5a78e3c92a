//! Tells a service manager how far we are, as sd_notify(3) does: a datagram to the socket that
//! `NOTIFY_SOCKET` names. Without one nothing is told.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable with the socket: a path, or `@` and an abstract name.
const SOCKET: &str = "NOTIFY_SOCKET";

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Requests are answered.
    Ready,
    /// The end has begun.
    Stopping,
}

impl Stage {
    fn message(self) -> &'static str {
        match self {
            Self::Ready => "READY=1\nSTATUS=Serving.",
            Self::Stopping => "STOPPING=1\nSTATUS=Ending.",
        }
    }
}

/// Tells it, where somebody wants to know. A failure is logged: nothing here depends on it.
pub(super) fn tell(stage: Stage) {
    let Some(socket) = std::env::var_os(SOCKET).filter(|socket| !socket.is_empty()) else { return };
    let told = address(socket.as_bytes()).and_then(|address| {
        let sender = UnixDatagram::unbound()?;
        // A manager that does not read must not hold us up.
        sender.set_nonblocking(true)?;
        sender.send_to_addr(stage.message().as_bytes(), &address)
    });
    if let Err(error) = told {
        tracing::warn!(?socket, ?stage, %error, "the service manager could not be told");
    }
}

fn address(socket: &[u8]) -> io::Result<SocketAddr> {
    match socket.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        Some((b'/', _)) => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(socket)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a path nor an abstract name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_paths_or_abstract_names() {
        assert_eq!(address(b"/run/x").unwrap().as_pathname(), Some(std::path::Path::new("/run/x")));
        assert_eq!(address(b"@x").unwrap().as_abstract_name(), Some(&b"x"[..]));
        assert!(address(b"vsock:2:1").is_err() && address(b"").is_err());
    }
}
