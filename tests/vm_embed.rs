//! The example service: sandpen inside an actix-web application, with a real microVM per request.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::Home;

struct Service {
    child: Child,
    address: String,
}

impl Service {
    fn start(home: &Home) -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_sandpen")).with_file_name("examples").join("embed_actix_web");
        let rootfs = home.rootfs();
        let mut child = Command::new(binary)
            .arg(rootfs)
            .arg(home.state())
            .arg("0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example is built with the tests");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").expect("its address").to_owned();
        Self { child, address }
    }

    fn request(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{answer}");
        body.to_owned()
    }
}

#[test]
fn a_request_runs_in_a_microvm_and_streams_its_output() {
    let home = Home::new();
    let mut service = Service::start(&home);
    std::thread::scope(|scope| {
        let (service, jobs) = (&service, ["one", "two"]);
        let answers = jobs.map(|job| {
            scope.spawn(move || service.request("POST", "/run", &format!("echo {job}; echo error >&2; echo end")))
        });
        for (job, answer) in jobs.into_iter().zip(answers) {
            let text = answer.join().unwrap();
            assert!(
                text.contains(&format!("{job}\n")) && text.contains("error\n") && text.contains("end\n"),
                "{text:?}"
            );
        }
    });
    let changes = service.request("GET", "/changes", "");
    assert!(changes.contains("RUNNING") && changes.contains("STOPPED"), "{changes}");

    kill(Pid::from_raw(i32::try_from(service.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(service.child.wait().unwrap().success());
    support::until("nothing runs", || home.processes().is_empty());
    let run = home.state().join("run/default");
    assert!(!run.exists() || std::fs::read_dir(run).unwrap().next().is_none());
}
