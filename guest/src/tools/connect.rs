//! A TCP connection to what listens in the machine, by standard input and output.
//!
//! ```text
//!   connecting ──▶ both ways ─┬─ input ended ──▶ our side of the connection is closed ─┬─▶ done
//!                             └─ the other side ended ──▶ output ended ────────────────┘
//! ```
//!
//! Each way ends for itself, as TCP has it: who has said all that he has may still be answered.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;

use nix::errno::Errno;
use nix::unistd::{read, write};

/// Bytes that are carried at once.
const PIECE: usize = 32 << 10;

/// Why nothing was carried, or not all.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens.
    #[error("nothing in the sandbox listens on port {port}")]
    Refused {
        /// The port.
        port: NonZeroU16,
        /// What 127.0.0.1 said.
        #[source]
        source: io::Error,
    },
    /// It broke.
    #[error("the connection to port {port}")]
    Broken {
        /// The port.
        port: NonZeroU16,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Connects, and carries bytes both ways until both have ended.
pub fn connect(port: NonZeroU16) -> Result<(), ConnectError> {
    let broken = |source| ConnectError::Broken { port, source };
    let stream = open(port)?;
    // What is typed is to arrive at once.
    stream.set_nodelay(true).map_err(broken)?;
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let sent = carry(Standard::Input, &stream);
            // Whoever is gone already needs no end.
            let _ = stream.shutdown(Shutdown::Write);
            sent
        });
        let received = carry(&stream, Standard::Output);
        // The one at the other end hears that there is no more, whatever he may still send.
        close_output();
        match (received, sending.join()) {
            (Err(error), _) => Err(broken(error)),
            // Who does not want more has a right to that.
            (Ok(()), _) => Ok(()),
        }
    })
}

/// Servers of one kind of address often are of the other one as well, but not always.
fn open(port: NonZeroU16) -> Result<TcpStream, ConnectError> {
    let at = |address: IpAddr| TcpStream::connect(SocketAddr::new(address, port.get()));
    at(Ipv4Addr::LOCALHOST.into())
        .or_else(|source| at(Ipv6Addr::LOCALHOST.into()).map_err(|_| ConnectError::Refused { port, source }))
}

/// Standard streams, unbuffered.
#[derive(Debug, Clone, Copy)]
enum Standard {
    Input,
    Output,
}

impl Read for Standard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(read(io::stdin().as_fd(), buffer)?)
    }
}

impl Write for Standard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(write(io::stdout().as_fd(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn carry(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Puts `/dev/null` in the place of standard output: its pipe ends.
fn close_output() {
    fn replace(null: BorrowedFd<'_>) -> Result<(), Errno> {
        nix::unistd::dup2_stdout(null)
    }
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        // The end of this process closes it too.
        let _ = replace(null.as_fd());
    }
}
