//! Brings what a round began to its end: clients answered or repeated, sandboxes started, ended or gone.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sandpen_vmm::process_identity::ProcessIdentity;
use serde_json::Value;

use crate::actions::Chaos;
use crate::plan::Kind;
use crate::support::{explain, finish, send_if_there};
use crate::world::{Ending, Life};

/// Longest time that a round may take to come to rest.
pub const SETTLE_LIMIT: Duration = Duration::from_mins(1);

impl Chaos {
    pub fn settle(&mut self) {
        for sandbox in self.sandboxes.iter_mut().filter(|sandbox| sandbox.paused) {
            sandbox.paused = false;
            if let Some((pid, _)) = sandbox.vmm {
                send_if_there(pid, Signal::SIGCONT);
            }
        }
        for outage in std::mem::take(&mut self.outages) {
            self.report.outages.push(outage.time());
        }
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let failed = self.finish_clients();
            let rows = self.rows();
            let mut settled = true;
            for at in 0..self.sandboxes.len() {
                let name = &self.sandboxes[at].name;
                let row = rows.iter().find(|row| row["name"] == name.as_str());
                let error = failed.iter().find(|(client, _)| *client == at).map(|(_, error)| error.as_str());
                settled &= self.settle_one(at, row, error);
            }
            if settled && self.clients.is_empty() {
                self.sandboxes.retain(|sandbox| sandbox.life != Life::Removing);
                return;
            }
            let open: Vec<_> = self.sandboxes.iter().map(|sandbox| (&sandbox.name, sandbox.life)).collect();
            assert!(Instant::now() < deadline, "not settled: {open:?}\n{rows:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the clients; those that failed, with what they said.
    fn finish_clients(&mut self) -> Vec<(usize, String)> {
        let ended = std::mem::take(&mut self.clients).into_iter().map(|(at, client)| (at, finish(client)));
        ended.filter(|(_, output)| !output.status.success()).map(|(at, output)| (at, explain(&output))).collect()
    }

    pub fn rows(&self) -> Vec<Value> {
        self.home.rows()
    }

    /// Whether there is nothing more to wait for.
    fn settle_one(&mut self, at: usize, row: Option<&Value>, error: Option<&str>) -> bool {
        match self.sandboxes[at].life {
            Life::Starting => self.settle_start(at, row, error),
            Life::Ending(ending) => self.settle_end(at, row, ending, error),
            Life::Removing if row.is_some() => {
                assert!(error.is_some(), "{} is still there after `rm`: {row:?}", self.sandboxes[at].name);
                self.remove(at);
                false
            }
            Life::Live if self.sandboxes[at].kind == Kind::Flood => {
                let row = row.unwrap();
                if is_live(row) {
                    return false;
                }
                self.sandboxes[at].life = Life::Ending(Ending::Code(42));
                self.settle_end(at, Some(row), Ending::Code(42), None)
            }
            Life::Live | Life::Ended | Life::Removing => true,
        }
    }

    fn settle_start(&mut self, at: usize, row: Option<&Value>, error: Option<&str>) -> bool {
        let sandbox = &mut self.sandboxes[at];
        let generation = row.map_or(0, |row| row["generation"].as_u64().unwrap());
        let row = row.filter(|_| generation > sandbox.generation);
        match (row, error) {
            (Some(row), _) if row["state"] == "RUNNING" => {
                sandbox.generation = generation;
                let pid = u32::try_from(row["microvm_pid"].as_u64().unwrap()).unwrap();
                // A flood may be over by now.
                let identity = ProcessIdentity::of(pid);
                sandbox.vmm = identity.ok().map(|identity| (pid, identity.start_time));
                sandbox.since = Instant::now();
                sandbox.life = Life::Live;
                sandbox.kind != Kind::Flood
            }
            (Some(row), _) if is_live(row) => false,
            (Some(row), _) if sandbox.kind == Kind::Flood && row["state"] == "STOPPED" => {
                sandbox.generation = generation;
                sandbox.life = Life::Ending(Ending::Code(42));
                self.settle_end(at, Some(row), Ending::Code(42), None)
            }
            // What broke the client or the start was our doing: the disk was full, or the daemon dead.
            (row, error) if error.is_some() || (row.is_some() && self.hindered) => {
                sandbox.generation = generation.max(sandbox.generation);
                self.report.count("starts repeated");
                self.run(at);
                false
            }
            (row, _) => panic!("{} does not run although `run` succeeded: {row:?}", sandbox.name),
        }
    }

    fn settle_end(&mut self, at: usize, row: Option<&Value>, ending: Ending, error: Option<&str>) -> bool {
        let sandbox = &mut self.sandboxes[at];
        let row = row.unwrap_or_else(|| panic!("the row of {} is gone", sandbox.name));
        if is_live(row) {
            if error.is_some() && matches!(ending, Ending::Stop | Ending::Kill) {
                self.ask_to_end(at, ending);
            }
            return false;
        }
        assert!(sandbox.may_have_ended(ending, row, self.unwatched), "{} after {ending:?}: {row:#}", sandbox.name);
        sandbox.complete = row["exit_code"] == 42;
        sandbox.life = Life::Ended;
        sandbox.vmm = None;
        true
    }
}

fn is_live(row: &Value) -> bool {
    !matches!(row["state"].as_str(), Some("STOPPED" | "FAILED"))
}
