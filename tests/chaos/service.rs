//! The example service, which embeds sandpen, with one Linux microVM that outlives its deaths.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::lines::Lines;
use crate::support::{Home, example, send_if_there, until};

/// The example gives its microVMs a minute; one that is older than this is followed by another.
const AGE: Duration = Duration::from_secs(30);
const EXAMPLE: &str = "embed_actix_web";
const BASE: u64 = 100_000_000_000_000;

pub struct Service {
    home: Home,
    child: Child,
    address: String,
    /// The request whose answer is the workload's output. It breaks with the service.
    _request: TcpStream,
    name: String,
    vmm: u32,
    verified: usize,
    begun: Instant,
}

impl Service {
    pub fn start() -> Self {
        let home = Home::new();
        let (child, address) = example::start(&home, EXAMPLE);
        let script = format!("i={BASE}; while :; do seq $i $((i+99)); i=$((i+100)); sleep 0.5; done");
        let mut request = TcpStream::connect(&address).unwrap();
        write!(request, "POST /run HTTP/1.0\r\nContent-Length: {}\r\n\r\n{script}", script.len()).unwrap();
        let name = format!("job-{}-0", child.id());
        let vmm = |home: &Home| {
            home.processes()
                .iter()
                .find(|(_, line)| line.starts_with("qemu-system") || line.contains("/qemu-system"))
                .map(|(pid, _)| *pid)
        };
        let log = home.state().join(format!("logs/default/{name}.log"));
        until("the service's microVM prints", || fs::metadata(&log).is_ok_and(|meta| meta.len() > 0));
        let vmm = vmm(&home).expect("the service's microVM");
        Self { home, child, address, _request: request, name, vmm, verified: 0, begun: Instant::now() }
    }

    /// Another one takes its place where its microVM is near its end.
    pub fn renew(&mut self) {
        if self.begun.elapsed() > AGE {
            std::mem::replace(self, Self::start()).end();
        }
    }

    pub fn kill_and_start(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.child, self.address) = example::start(&self.home, EXAMPLE);
    }

    /// The same microVM runs, and its log goes on where it was.
    pub fn check(&mut self) {
        assert!(Path::new(&format!("/proc/{}", self.vmm)).exists(), "the service's microVM is gone");
        let bytes = self.home.log(&self.name);
        assert!(bytes.len() >= self.verified, "the log of the service's microVM became shorter");
        let matching = Lines::From(BASE).matching(0, &bytes);
        assert_eq!(matching, bytes.len(), "the log of the service's microVM differs at byte {matching}");
        self.verified = bytes.len();
    }

    /// A graceful end: the sandbox is stopped, and the row says so.
    pub fn end(mut self) {
        // A request that is answered to its end removes its sandbox. This one breaks, so there is a row to see.
        self.kill_and_start();
        let before = self.verified;
        until("it still prints", || {
            self.check();
            self.verified > before
        });
        send_if_there(self.child.id(), Signal::SIGTERM);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the service ended with {status}");
        let row = self.home.inspect(&self.name);
        assert_eq!((&row["state"], &row["exit_signal"]), (&"STOPPED".into(), &15.into()), "{row:#}");
    }
}
