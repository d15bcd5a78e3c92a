//! A line to a server on loopback with a rate and a round-trip time, made of threads: kernels without `netem` have none.
//!
//! What the server sends goes over one wire, in pieces that take their time one after the other, and arrives half a round
//! trip later; what the client sends arrives half a round trip later, its first bytes two, for the handshake before them. A
//! connection begins with ten segments for each round trip, and twice as many for the next, as TCP does. Nothing is lost.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use super::Result;

/// Bytes of the first round trip: ten segments of Ethernet's (RFC 6928).
const FIRST_WINDOW: u64 = 14_600;
/// Bytes that take their time at once.
const PIECE: usize = 8 << 10;
/// How long what waits for the wire takes, so that it is never idle while a thread awakes.
const QUEUE: Duration = Duration::from_millis(3);
/// Most pieces that are on their way on one connection.
const PIECES: usize = 1024;

/// What a line is like.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Bits in a second.
    pub rate: u32,
    pub round_trip: Duration,
}

struct Wire {
    server: u16,
    /// Without one it only counts.
    speed: Option<Speed>,
    /// When the last piece so far has left.
    busy_until: Mutex<Instant>,
    came: AtomicU64,
    ended: AtomicBool,
}

pub struct Link {
    pub port: u16,
    wire: Arc<Wire>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.wire.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // it looks then
    }
}

impl Link {
    pub fn before(server: u16, speed: Option<Speed>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let (busy_until, came, ended) = (Mutex::new(Instant::now()), AtomicU64::new(0), AtomicBool::new(false));
        let wire = Arc::new(Wire { server, speed, busy_until, came, ended });
        let ours = Arc::clone(&wire);
        spawn(move || {
            for client in listener.incoming().flatten() {
                if ours.ended.load(Ordering::Relaxed) {
                    break;
                }
                // Who cannot be connected is told by the connection's end.
                let _ = ours.join(client);
            }
        });
        Ok(Self { port, wire })
    }

    /// How many bytes have come from the server.
    pub fn came(&self) -> u64 {
        self.wire.came.load(Ordering::Relaxed)
    }
}

impl Wire {
    fn join(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        let server = TcpStream::connect(("127.0.0.1", self.server))?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        let (asks, asked) = (client.try_clone()?, server.try_clone()?);
        let (up, down) = (Arc::clone(self), Arc::clone(self));
        spawn(move || up.ask(asks, asked));
        spawn(move || down.answer(server, client));
        Ok(())
    }

    fn half_trip(&self) -> Duration {
        self.speed.map_or(Duration::ZERO, |speed| speed.round_trip / 2)
    }

    fn ask(&self, mut from: TcpStream, to: TcpStream) {
        let (pieces, arrives) = sync_channel(PIECES);
        spawn(move || deliver(&arrives, to));
        let mut late = self.half_trip() * 3;
        let mut buffer = vec![0; PIECE];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let piece = buffer.get(..read).unwrap_or_default().to_vec();
            if pieces.send((Instant::now() + late, piece)).is_err() {
                return;
            }
            late = self.half_trip();
        }
    }

    fn answer(&self, mut from: TcpStream, to: TcpStream) {
        let (pieces, arrives) = sync_channel(PIECES);
        spawn(move || deliver(&arrives, to));
        let (mut buffer, mut window) = (vec![0; PIECE], Window::new());
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let bytes = u64::try_from(read).unwrap_or(u64::MAX);
            self.came.fetch_add(bytes, Ordering::Relaxed);
            let sent = match self.speed {
                None => Instant::now(),
                Some(speed) => {
                    window.wait(bytes, speed.round_trip);
                    self.send(bytes, speed)
                }
            };
            let piece = buffer.get(..read).unwrap_or_default().to_vec();
            if pieces.send((sent + self.half_trip(), piece)).is_err() {
                return;
            }
        }
    }

    /// Waits until the wire has nearly sent what came before; when it will have sent this.
    fn send(&self, bytes: u64, speed: Speed) -> Instant {
        let takes = Duration::from_nanos(bytes * 8 * 1_000_000_000 / u64::from(speed.rate));
        let sent = {
            let mut busy_until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
            *busy_until = (*busy_until).max(Instant::now()) + takes;
            *busy_until
        };
        let due = sent.checked_sub(QUEUE).unwrap_or(sent);
        sleep(due.saturating_duration_since(Instant::now()));
        sent
    }
}

/// How much of a connection may be on its way.
struct Window {
    size: u64,
    left: u64,
    began: Instant,
}

impl Window {
    fn new() -> Self {
        Self { size: FIRST_WINDOW, left: FIRST_WINDOW, began: Instant::now() }
    }

    fn wait(&mut self, bytes: u64, round_trip: Duration) {
        let since = self.began.elapsed();
        if since >= round_trip || self.left < bytes {
            sleep(round_trip.saturating_sub(since));
            if self.left < self.size {
                self.size = self.size.saturating_mul(2);
            }
            (self.left, self.began) = (self.size, Instant::now());
        }
        self.left = self.left.saturating_sub(bytes);
    }
}

/// Each piece at its time.
fn deliver(arrives: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    for (due, piece) in arrives {
        sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both); // the other end has gone
}
