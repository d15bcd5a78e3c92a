//! `sandpen port-forward` to a real microVM without a network.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;

use crate::support::{DEADLINE, Home, explain, finish, output, send, spawn, until};

const BIG: usize = 8 << 20;

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect()
}

/// A `port-forward` that runs, and what it said.
struct Forward {
    child: Child,
    lines: BufReader<ChildStdout>,
    said: Arc<Mutex<String>>,
}

impl Forward {
    fn new(command: Command) -> Self {
        let mut child = spawn(command);
        let lines = BufReader::new(child.stdout.take().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        let (stderr, heard) = (BufReader::new(child.stderr.take().unwrap()), said.clone());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                heard.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, lines, said }
    }

    /// The next port that it says it listens at.
    fn port(&mut self) -> u16 {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let (at, _) = line.split_once(" -> ").unwrap_or_else(|| panic!("{line:?}: {}", self.said()));
        at.rsplit(':').next().unwrap().parse().unwrap()
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn end(mut self, signal: Option<Signal>) -> Option<i32> {
        if let Some(signal) = signal {
            send(self.child.id(), signal);
        }
        self.child.wait().unwrap().code()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// None, if it was closed even before this side knew that it was open.
fn connect_or_reset(forward: &Forward, port: u16) -> Option<TcpStream> {
    match TcpStream::connect(("127.0.0.1", port)) {
        Ok(stream) => {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            Some(stream)
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("{error}: {}", forward.said()),
    }
}

fn ask(port: u16) -> TcpStream {
    let mut stream = connect(port);
    stream.write_all(b"GET /big HTTP/1.0\r\n\r\n").unwrap();
    stream
}

/// What is left of an answer; how it broke off.
fn rest(stream: &mut TcpStream) -> Result<Vec<u8>, std::io::Error> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

#[test]
fn connections_go_both_ways_over_the_daemons_death_and_to_the_sandboxs_end() {
    let home = Home::new();
    let rootfs = home.rootfs();
    home.ok(&["run", "-d", "--idle", "-n", "a", "--memory", "512M", &rootfs]);
    let sh = |script: &str| home.ok(&["exec", "a", "--", "sh", "-c", script]);
    fs::write(home.path().join("big"), pattern(BIG)).unwrap();
    let mut put = home.sandpen(&["exec", "-i", "a", "--", "sh", "-c", "mkdir -p /srv && cat > /srv/big"]);
    put.stdin(fs::File::open(home.path().join("big")).unwrap());
    assert!(output(put).status.success());
    sh("httpd -p 80 -h /srv");
    let mut forward = Forward::new(home.sandpen(&["port-forward", "a", "0:80", "127.0.0.1:0:81", "0:7001", "0:7002"]));
    let (http, nobody, ask_first, say_first) = (forward.port(), forward.port(), forward.port(), forward.port());
    assert!(rest(&mut ask(http)).unwrap().ends_with(&pattern(BIG)));
    nobody_listens(&forward, nobody);
    half_closed(&home, ask_first, say_first);
    // Slower than the daemon dies.
    let mut stream = ask(http);
    let mut answer = vec![0; 100_000];
    stream.read_exact(&mut answer).unwrap();
    home.kill_daemon();
    answer.extend(rest(&mut stream).unwrap());
    assert!(answer.ends_with(&pattern(BIG)), "{} bytes: {}", answer.len(), forward.said());
    // The server has closed it, and this side as well.
    drop(stream);
    many_at_once(&home, &forward, http);
    // One that never reads holds up nobody, and is left with its client.
    let _never = ask(http);
    assert!(rest(&mut ask(http)).unwrap().ends_with(&pattern(BIG)));
    refusals(&home, http);
    assert_eq!(forward.end(Some(Signal::SIGINT)), Some(0));
    until("every session has ended", || home.ok(&["sessions", "--json", "a"]).trim() == "[]");
    let mut forward = Forward::new(home.sandpen(&["port-forward", "--address", "::1", "a", "0:80"]));
    forward.port();
    home.ok(&["stop", "a"]);
    let said = forward.said.clone();
    assert_eq!(forward.end(None), Some(1));
    until("it says why", || said.lock().unwrap().contains("sandbox a has ended"));
    let refused = output(home.sandpen(&["port-forward", "a", "0:80"]));
    assert!(refused.status.code() == Some(1) && explain(&refused).contains("does not run"), "{}", explain(&refused));
}

fn nobody_listens(forward: &Forward, port: u16) {
    // Closed or reset.
    let answer = connect_or_reset(forward, port).and_then(|mut stream| rest(&mut stream).ok());
    assert_eq!(answer.unwrap_or_default(), b"");
    until("it is said", || forward.said().contains("nothing in the sandbox listens on port 81"));
}

/// Each side ends what it says for itself.
fn half_closed(home: &Home, ask_first: u16, say_first: u16) {
    let listening = |port: u16| {
        until("it is listened", || {
            home.ok(&["exec", "a", "--", "sh", "-c", "netstat -ltn"]).contains(&format!(":{port} "))
        });
    };
    // It answers when all was asked.
    let answering = spawn(home.sandpen(&["exec", "a", "--", "sh", "-c", "nc -l -p 7001 -e sh -c 'wc -c; echo done'"]));
    listening(7001);
    let mut stream = connect(ask_first);
    stream.write_all(&pattern(3_000_000)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(String::from_utf8(rest(&mut stream).unwrap()).unwrap().trim(), "3000000\ndone");
    assert!(finish(answering).status.success());
    // It says all that it has, and listens on.
    let script = "echo hello | nc -l -p 7002 > /tmp/got; wc -c < /tmp/got";
    let listening_on = spawn(home.sandpen(&["exec", "a", "--", "sh", "-c", script]));
    listening(7002);
    let mut stream = connect(say_first);
    assert_eq!(rest(&mut stream).unwrap(), b"hello\n", "its end comes at once");
    stream.write_all(&pattern(3_000_000)).unwrap();
    drop(stream);
    let got = finish(listening_on);
    assert_eq!(String::from_utf8_lossy(&got.stdout).trim(), "3000000", "{}", explain(&got));
}

fn many_at_once(home: &Home, forward: &Forward, port: u16) {
    let sessions = || home.ok(&["sessions", "a"]).lines().filter(|line| line.contains("connect to port 80")).count();
    until("none is left", || sessions() == 0);
    // None of them asks before all are there.
    let mut all: Vec<TcpStream> = (0..300).filter_map(|_| connect_or_reset(forward, port)).collect();
    until("it is said", || forward.said().contains("128 connections are open, which is all there can be"));
    // The last one of before may have been about to end.
    let most = 127..=128;
    until("as many as there can be are carried", || most.contains(&sessions()));
    let served = all.iter_mut().filter(|stream| {
        let asked = (&**stream).write_all(b"GET /none HTTP/1.0\r\n\r\n");
        let mut answer = Vec::new();
        asked.and_then(|()| (&**stream).read_to_end(&mut answer)).is_ok() && answer.starts_with(b"HTTP/1.")
    });
    let served = served.count();
    assert!(most.contains(&served), "{served}");
    drop(all);
    until("there is room again", || sessions() == 0);
    assert!(rest(&mut ask(port)).unwrap().ends_with(&pattern(BIG)));
}

fn refusals(home: &Home, taken: u16) {
    let refused = |args: &[&str], code: i32, words: &str| {
        let output = output(home.sandpen(&[&["port-forward"], args].concat()));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(words), "{args:?}: {}", explain(&output));
    };
    let busy = format!("{taken}:80");
    refused(&["a", &busy], 1, &format!("cannot listen at 127.0.0.1:{taken}; give another HOST port"));
    refused(&["no-such", "0:80"], 1, "there is no sandbox");
    for port in ["80", "1:0", "65536:1", "1:65536", "x:80", "80:http", "1:2:3:4", ""] {
        refused(&["a", port], 2, "is not of the form [ADDR:]HOST:GUEST");
    }
    refused(&["a"], 2, "[ADDRESS:]HOST:GUEST");
    refused(&["--address", "localhost", "a", "0:80"], 2, "--address");
    let far = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = format!("192.0.2.1:{}:80", far.local_addr().unwrap().port());
    refused(&["a", &far], 1, "cannot listen at 192.0.2.1");
}
