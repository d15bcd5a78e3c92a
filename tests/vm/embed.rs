//! The example service: sandpen inside an actix-web application, with a real microVM per request.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::support::{self, Home, send};

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

    send(service.child.id(), Signal::SIGTERM);
    assert!(service.child.wait().unwrap().success());
    support::until("nothing runs", || home.processes().is_empty());
    let run = home.state().join("run/default");
    assert!(!run.exists() || std::fs::read_dir(run).unwrap().next().is_none());
}

/// Lines of a log that counts, and whether none is missing or doubled.
fn counted(log: &Path) -> usize {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
    for (number, line) in whole.lines().enumerate() {
        assert_eq!(line, format!("line {}", number + 1));
    }
    whole.lines().count()
}

#[test]
fn a_killed_service_finds_its_microvm_again() {
    let home = Home::new();
    let mut first = Service::start(&home);
    let body = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done";
    let mut request = TcpStream::connect(&first.address).unwrap();
    write!(request, "POST /run HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let name = format!("job-{}-0", first.child.id());
    let log = home.state().join(format!("logs/default/{name}.log"));
    support::until("it counts", || counted(&log) > 3);
    let record = home.state().join(format!("run/default/{name}/processes"));
    let processes = std::fs::read_to_string(&record).unwrap();
    first.child.kill().unwrap();
    first.child.wait().unwrap();

    let mut second = Service::start(&home);
    assert_eq!(std::fs::read_to_string(&record).unwrap(), processes, "the same processes");
    let before = counted(&log);
    support::until("it counts on", || counted(&log) > before + 3);
    send(second.child.id(), Signal::SIGTERM);
    assert!(second.child.wait().unwrap().success());
    support::until("nothing runs", || home.processes().is_empty());
    assert!(counted(&log) > before + 3);
    assert_eq!(home.inspect(&name)["state"], "STOPPED", "who adopts it ends it");
}
