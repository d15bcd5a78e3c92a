//! Daemons in the foreground.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};

use super::{DEADLINE, Home};

/// Starts a daemon in the foreground, as a service manager does; it serves when this returns.
pub fn daemon(home: &Home, args: &[&str]) -> Child {
    serving(home, home.sandpen(&[&["daemon"], args].concat()))
}

/// The same with a command that is one.
pub fn serving(home: &Home, mut command: Command) -> Child {
    // One socket for each daemon: the one that ends tells that too.
    let number = fs::read_dir(home.path()).unwrap().count();
    let socket = home.path().join(format!("notify{number}.sock"));
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let child = command.env("NOTIFY_SOCKET", &socket).spawn().unwrap();
    let mut message = [0; 100];
    let length = manager.recv(&mut message).unwrap();
    assert!(message[..length].starts_with(b"READY=1\n"), "{:?}", String::from_utf8_lossy(&message));
    assert_eq!(home.daemon_pid(), child.id());
    child
}
