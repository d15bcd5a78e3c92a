//! The daemon as a process: its pid, its death, and how long nobody answers after it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use sandpen::actors::testing::panic::{ActorKind, PanicPlace};
use serde_json::json;

use crate::support::{DEADLINE, Home, send_if_there};

/// How long a step waits for the answer to an injected panic.
const PANIC_LIMIT: Duration = Duration::from_millis(300);

/// The living daemon of a home.
pub fn pid(home: &Home) -> Option<u32> {
    let pid = home.lock_holder()?;
    // A lock file can be older than its daemon's successor.
    home.processes().iter().any(|(found, line)| *found == pid && line.contains(" daemon")).then_some(pid)
}

/// Time from a kill to the next answer, measured beside what goes on.
pub struct Outage(JoinHandle<Duration>);

/// Kills the daemon; none where there is none. A client calls for the next one, as a user would.
pub fn kill_daemon(home: &Home) -> Option<Outage> {
    let pid = pid(home)?;
    let killed = Instant::now();
    send_if_there(pid, Signal::SIGKILL);
    let client = home.sandpen(&["ps"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
    let mut client = client.unwrap();
    let socket = home.state().join("sandpen.sock");
    Some(Outage(std::thread::spawn(move || {
        while !answers(&socket) && killed.elapsed() < DEADLINE {
            std::thread::sleep(Duration::from_millis(1));
        }
        let outage = killed.elapsed();
        client.wait().unwrap();
        outage
    })))
}

impl Outage {
    pub fn time(self) -> Duration {
        self.0.join().unwrap()
    }
}

/// Makes one of the daemon's actors panic; whether it was there.
pub fn inject_panic(home: &Home, actor: ActorKind, place: PanicPlace, sandbox: Option<&str>) -> bool {
    let body = json!({ "actor": actor, "place": place, "sandbox": sandbox }).to_string();
    let request = format!(
        "POST /v1/testing/panic HTTP/1.1\r\nHost: sandpen\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // The daemon may be dead, or stopped by a signal: a step waits for nothing.
    let Ok(mut stream) = UnixStream::connect(home.state().join("sandpen.sock")) else { return false };
    let _ = stream.set_read_timeout(Some(PANIC_LIMIT));
    let mut answer = [0; 12];
    let answered = stream.write_all(request.as_bytes()).is_ok() && stream.read_exact(&mut answer).is_ok();
    let status = answer.get(9..).unwrap_or_default();
    assert!(
        !answered || [b"204", b"404"].iter().any(|known| status == *known),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    answered && status == b"204"
}

fn answers(socket: &PathBuf) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let request = b"GET /v1/version HTTP/1.1\r\nHost: sandpen\r\nConnection: close\r\n\r\n";
    let mut answer = [0; 12];
    stream.write_all(request).is_ok() && stream.read_exact(&mut answer).is_ok() && answer.ends_with(b"200")
}
