//! Fifty sessions of two microVMs that get numbered lines and give them back, while the daemon of the one, the service that
//! embeds sandpen and has the other, their waiters and the sessions' clients are killed. After each round every session has
//! given every line once, in order, and its true exit code; at the end none is left. Jobs of the daemon's microVM write
//! numbered lines beside them, which are on file afterwards, each once.
//!
//! What a client has of its session is a file: the next client of it goes on where that ends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use self::client::{Job, NAME};
use crate::daemon;
use crate::support::dice::Dice;
use crate::support::{Home, explain, send_if_there, until};

mod client;

/// Sessions of each client through the daemon, and how many such clients there are.
const EACH: u64 = 5;
const CLIENTS: u64 = 5;
/// Sessions of the service.
const EMBEDDED: u64 = 25;

/// Jobs of a round, and lines of each on either stream.
const JOBS: u64 = 3;
const JOB_LINES: u64 = 3000;
/// Lines of its first argument, as many as its second one says; its end is the third one. It outlives some daemons.
const JOB: &str = "i=0; while [ $i -lt $2 ]; do echo $1 $i; echo $1 e$i >&2; i=$((i+1)); [ $((i%500)) = 0 ] && sleep 0.2; done; exit $3";

/// A process that has sessions, which may be killed and follows itself.
struct Client {
    job: Job,
    child: Child,
}

impl Client {
    fn spawn(job: Job) -> Self {
        let child = Self::command(&job).spawn().unwrap();
        Self { job, child }
    }

    fn command(job: &Job) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", client::TEST, "--ignored", "--nocapture"]).stdin(Stdio::null()).stdout(Stdio::null());
        command.env(client::JOB, serde_json::to_string(job).unwrap()).env("RUST_BACKTRACE", "0");
        command
    }

    /// Whether it was there to be killed.
    fn kill(&mut self) -> bool {
        if self.child.try_wait().unwrap().is_some() {
            return false;
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::command(&self.job).spawn().unwrap();
        true
    }
}

pub struct Sessions {
    /// Of the daemon, and of the service.
    homes: [Home; 2],
    dice: Dice,
    counts: BTreeMap<&'static str, u64>,
    bytes: u64,
}

impl Sessions {
    pub fn new(seed: u64) -> Self {
        let homes = [Home::new(), Home::new()];
        homes[0].ok(&["run", "-d", "--idle", "--name", NAME, &homes[0].rootfs()]);
        Self { homes, dice: Dice::new(seed), counts: BTreeMap::new(), bytes: 0 }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn round(&mut self, round: u64) {
        let jobs: Vec<_> = (0..JOBS).map(|code| (self.begin_job(round, code), code)).collect();
        let mut clients: Vec<_> = (0..CLIENTS)
            .map(|client| Client::spawn(Job::new(&self.homes[0], round, client * EACH..(client + 1) * EACH, false)))
            .collect();
        clients.push(Client::spawn(Job::new(&self.homes[1], round, 0..EMBEDDED, true)));
        for _ in 0..=self.dice.below(5) {
            self.dice.pause(400);
            self.disturb(&mut clients);
        }
        for Client { job, mut child } in clients {
            let status = child.wait().unwrap();
            assert!(status.success(), "round {round}: {status} of the client of {job:?}");
            for session in job.sessions() {
                self.bytes += session.check();
            }
        }
        for (id, code) in jobs {
            self.end_job(round, &id, code);
        }
    }

    fn begin_job(&self, round: u64, code: u64) -> String {
        let arguments = [format!("job {round}/{code}"), JOB_LINES.to_string(), code.to_string()];
        let [name, lines, code] = arguments.each_ref().map(String::as_str);
        self.homes[0].ok(&["exec", "-d", NAME, "--", "sh", "-c", JOB, "sh", name, lines, code]).trim().to_owned()
    }

    fn end_job(&mut self, round: u64, id: &str, code: u64) {
        let waited = self.homes[0].run(&["wait", "--job", id, NAME]);
        assert_eq!(waited.stdout, format!("{code}\n").as_bytes(), "{}", explain(&waited));
        for (stream, mark) in [("stdout", ""), ("stderr", "e")] {
            let text = self.homes[0].ok(&["logs", "--job", id, "--stream", stream, NAME]);
            let wanted = (0..JOB_LINES).map(|number| format!("job {round}/{code} {mark}{number}\n"));
            assert!(text == wanted.collect::<String>(), "round {round}, job {code}, {stream}: {} bytes", text.len());
        }
        self.count("jobs with each line once");
    }

    fn disturb(&mut self, clients: &mut [Client]) {
        let waiter = |home: &Home| home.waiter(NAME).inspect(|pid| send_if_there(*pid, Signal::SIGKILL)).is_some();
        match self.dice.below(10) {
            0..=2 => {
                if let Some(outage) = daemon::kill_daemon(&self.homes[0]) {
                    self.count("daemons killed");
                    outage.time();
                }
            }
            3..=5 => {
                let at = usize::try_from(self.dice.below(CLIENTS)).unwrap();
                if clients[at].kill() {
                    self.count("clients killed");
                }
            }
            6..=7 => {
                if clients[usize::try_from(CLIENTS).unwrap()].kill() {
                    self.count("embedding services killed");
                }
            }
            8 => {
                let at = usize::try_from(self.dice.below(2)).unwrap();
                if waiter(&self.homes[at]) {
                    self.count("waiters killed");
                }
            }
            _ => {
                let is_killed = waiter(&self.homes[0]);
                if let Some(outage) = daemon::kill_daemon(&self.homes[0]) {
                    self.count(if is_killed {
                        "times the daemon and the waiter were killed"
                    } else {
                        "daemons killed"
                    });
                    outage.time();
                }
            }
        }
    }

    /// Nothing is left of any session; sums up.
    pub fn end(self) -> String {
        for home in &self.homes {
            until("all sessions are forgotten", || {
                let sessions = home.ok(&["sessions", NAME, "--json"]);
                serde_json::from_str::<Vec<serde_json::Value>>(&sessions).unwrap().is_empty()
            });
            home.ok(&["stop", NAME]);
            let row = home.inspect(NAME);
            assert_eq!((&row["state"], &row["generation"]), (&"STOPPED".into(), &1.into()), "{row:#}");
            home.ok(&["rm", NAME]);
            home.ok(&["shutdown"]);
            until("nothing runs", || home.processes().is_empty());
        }
        let mut report = format!("{} MiB came back, each line once", self.bytes >> 20);
        for (what, count) in &self.counts {
            write!(report, "\n  {count:>6} {what}").unwrap();
        }
        report
    }
}
