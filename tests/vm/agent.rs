//! The example `agent`: an actix application that keeps one microVM and runs commands in it, through its death and its end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Child;

use nix::sys::signal::Signal;

use crate::support::{self, Home, send};

struct Agent {
    child: Child,
    address: String,
}

impl Agent {
    fn start(home: &Home) -> Self {
        let (child, address) = support::example::start(home, "agent");
        Self { child, address }
    }

    /// Asks for a command; what comes of it.
    fn begin(&self, script: &str) -> Chunks {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
        write!(stream, "POST /exec HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{script}", script.len()).unwrap();
        let mut chunks = Chunks(BufReader::new(stream));
        let head = chunks.line();
        assert!(head.contains(" 200 "), "{head}");
        while !chunks.line().is_empty() {}
        chunks
    }

    fn exec(&self, script: &str) -> String {
        self.begin(script).collect()
    }

    fn sessions(&self) -> serde_json::Value {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
        write!(stream, "GET /sessions HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

/// The body of an answer, as it comes.
struct Chunks(BufReader<TcpStream>);

impl Chunks {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Iterator for Chunks {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut chunk = vec![0; usize::from_str_radix(&self.line(), 16).unwrap()];
        self.0.read_exact(&mut chunk).unwrap();
        self.line();
        (!chunk.is_empty()).then(|| String::from_utf8(chunk).unwrap())
    }
}

#[test]
fn commands_run_side_by_side_in_a_microvm_that_outlives_its_service() {
    let home = Home::new();
    let mut agent = Agent::start(&home);
    let boot = agent.exec("cat /proc/sys/kernel/random/boot_id; echo kept >/tmp/notes");
    assert!(boot.ends_with("\nexit code 0\n"), "{boot}");
    // Each needs the other one.
    let meet = |mine: &str, other: &str| {
        format!("touch /tmp/{mine}; until [ -e /tmp/{other} ]; do :; done; echo {mine}; exit 3")
    };
    let (one, two) = (agent.begin(&meet("one", "two")), agent.begin(&meet("two", "one")));
    assert_eq!([one, two].map(Iterator::collect::<String>), ["one\nexit code 3\n", "two\nexit code 3\n"]);
    // It is streamed; and what runs when the service is killed is there for the next one.
    let mut cut = agent.begin("echo begun; exec sleep 1000");
    assert_eq!(cut.next().unwrap(), "begun\n");
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    let mut agent = Agent::start(&home);
    assert_eq!(agent.sessions().as_array().unwrap().iter().filter(|session| session["end"].is_null()).count(), 1);
    let again = agent.exec("cat /proc/sys/kernel/random/boot_id; cat /tmp/notes >&2");
    assert!(again.starts_with(boot.lines().next().unwrap()) && again.contains("kept\n"), "{again}");
    send(agent.child.id(), Signal::SIGTERM);
    assert!(agent.child.wait().unwrap().success());
    support::until("nothing runs", || home.processes().is_empty());
}
