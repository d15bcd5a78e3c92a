//! A way to a server on loopback that is worse than loopback: it counts what comes back, holds it up, and breaks
//! connections.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::Dice;

/// What becomes of what the server says.
#[derive(Debug, Clone)]
pub enum Way {
    /// All comes.
    Open,
    /// So many bytes come on each connection, and no more until there is another way.
    HeldAt(u64),
    /// A connection breaks, or stands still for a while, after a random number of bytes, on average as many as this.
    Bad(Dice, u64),
}

struct State {
    way: Way,
    passed: u64,
    broken: u64,
    asks_ranges: bool,
    connections: Vec<TcpStream>,
    ended: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What happens to a connection after so many bytes.
enum Fate {
    Breaks,
    Rests(Duration),
}

/// A listening port before that of a server.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
    accepts: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state =
            State { way: Way::Open, passed: 0, broken: 0, asks_ranges: true, connections: Vec::new(), ended: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let ours = Arc::clone(&shared);
        let accepts = std::thread::spawn(move || {
            let mut threads = Vec::new();
            for client in listener.incoming().map(Result::unwrap) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let mut state = ours.state();
                if state.ended {
                    break;
                }
                state.connections.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                drop(state);
                let (up, down) = ((client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client));
                let (of_up, of_down) = (Arc::clone(&ours), Arc::clone(&ours));
                threads.push(std::thread::spawn(move || drop(of_up.ask(up.0, up.1))));
                threads.push(std::thread::spawn(move || drop(of_down.answer(down.0, down.1))));
            }
            for thread in threads {
                thread.join().unwrap();
            }
        });
        Self { port, shared, accepts: Some(accepts) }
    }

    pub fn set(&self, way: Way) {
        self.shared.state().way = way;
        self.shared.changed.notify_all();
    }

    /// From now on the server is not told which part of something is wanted.
    pub fn hide_ranges(&self) {
        self.shared.state().asks_ranges = false;
    }

    /// How many bytes have come back.
    pub fn passed(&self) -> u64 {
        self.shared.state().passed
    }

    /// How many connections were broken.
    pub fn broken(&self) -> u64 {
        self.shared.state().broken
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let connections = {
            let mut state = self.shared.state();
            state.ended = true;
            std::mem::take(&mut state.connections)
        };
        self.shared.changed.notify_all();
        for connection in connections {
            let _ = connection.shutdown(Shutdown::Both); // it has ended by itself
        }
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(accepts) = self.accepts.take()
            && accepts.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the proxy's thread");
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What the client says goes to the server.
    fn ask(&self, mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            let read = client.read(&mut buffer)?;
            if read == 0 {
                return server.shutdown(Shutdown::Both);
            }
            let asked = &mut buffer[..read];
            if !self.state().asks_ranges
                && let Some(at) = asked.windows(7).position(|part| part.eq_ignore_ascii_case(b"\nrange:"))
            {
                asked[at + 1] = b'x';
            }
            server.write_all(asked)?;
        }
    }

    /// What the server says comes to the client.
    fn answer(&self, mut server: TcpStream, mut client: TcpStream) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        let mut fate = self.fate();
        let mut passed = 0;
        loop {
            let read = server.read(&mut buffer)?;
            if read == 0 {
                return client.shutdown(Shutdown::Both);
            }
            let mut rest = &buffer[..read];
            while !rest.is_empty() {
                let most = fate.as_ref().map_or(u64::MAX, |(left, _)| *left).min(rest.len() as u64);
                let may = self.may_pass(passed, most);
                passed += may as u64;
                client.write_all(&rest[..may])?;
                rest = &rest[may..];
                let Some((left, what)) = &mut fate else { continue };
                *left -= may as u64;
                match what {
                    _ if *left > 0 => {}
                    Fate::Rests(time) => {
                        std::thread::sleep(*time);
                        fate = self.fate();
                    }
                    Fate::Breaks => {
                        self.state().broken += 1;
                        return break_off(&client, &server);
                    }
                }
            }
        }
    }

    /// Waits until some of so many bytes may come on a connection on which others have; at the end of all, they may.
    fn may_pass(&self, passed: u64, most: u64) -> usize {
        let mut state = self.state();
        loop {
            let may = match state.way {
                Way::HeldAt(all) if !state.ended => all.saturating_sub(passed).min(most),
                _ => most,
            };
            if may > 0 {
                state.passed += may;
                return usize::try_from(may).unwrap();
            }
            state = self.changed.wait(state).unwrap();
        }
    }

    fn fate(&self) -> Option<(u64, Fate)> {
        let Way::Bad(dice, average) = &mut self.state().way else { return None };
        let after = 1 + dice.below(*average * 2);
        let fate = match dice.below(4) {
            0 => Fate::Rests(Duration::from_millis(dice.below(300))),
            _ => Fate::Breaks,
        };
        Some((after, fate))
    }
}

/// With a reset: nobody takes it for the end.
fn break_off(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(client, sockopt::Linger, &at_once)?;
    server.shutdown(Shutdown::Both)?;
    client.shutdown(Shutdown::Both)
}
