//! Bringing rows and processes together: at the start, before anything else, and whenever somebody
//! asks for it.
//!
//! ```text
//!   rows and host surveyed ─▶ every unattended name is taken ─▶ its row read again ─▶ verdict
//!      ├ Adopt   ─▶ hosted, or its timer set ─▶ goes on, or ended meanwhile
//!      ├ Remove  ─▶ what is left on the host goes ─▶ row, log, disk go
//!      ├ Restart ─▶ what is left on the host goes ─▶ BACKOFF
//!      └ Keep    ─▶ what is left on the host goes; without a row, readable or not, its disk too
//! ```
//!
//! A name is taken as for a removal, so that nothing of a sandbox that is started or ended at the same
//! time is touched: a start has taken its name before it writes a row or makes a file, and an ended
//! sandbox gives it back when its last file is gone.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt as _, Addr, Context, Handler, WrapFuture as _};
use chrono::Utc;
use futures::future::join_all;
use sandpen_types::error_chain::error_chain;
use sandpen_types::reconcile::{Leftover, LeftoverKind, ReconcileReport};
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::SandboxKey;
use sandpen_types::state::SandboxState;
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::waiter::is_abandoned;
use tokio::sync::oneshot;

use super::actor::{Answer, Supervisor};
use super::child::Child;
use super::first_look::Turn;
use super::leftovers::{self, Found};
use super::phase::{Phase, PhaseKind};
use super::removal_hold::lingers;
use super::restart_policy::{Occasion, row_wants_restart};
use super::{Reconcile, SupervisorError, volumes};
use crate::database::{ListKeys, ListSandboxes};
use crate::host::clock::pause_left;
use crate::monitor::{AwaitProcess, Monitor, StartMode};

/// How long the end of a microVM that ended unseen may take until it is recorded. With a full disk it
/// takes longer than anybody should wait for an answer.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// What becomes of a row that no child belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Its microVM, or its pending restart, goes on with us.
    Adopt,
    /// It ended under an earlier orchestrator, and the restart policy wants it back.
    Restart,
    /// An orchestrator died in the middle of making this row (nothing of its request was ever answered) or of
    /// removing it.
    Remove,
    /// It has ended, and stays so.
    Keep,
}

/// `first`: whether this orchestrator has just begun, and decides for the one before.
fn verdict(row: &SandboxRow, first: bool, boot_id: Option<&str>) -> Verdict {
    let occasion = match (row.boot_id.as_deref(), boot_id) {
        (Some(then), Some(now)) if then != now => Occasion::HostRestarted,
        _ => Occasion::OrchestratorStarted,
    };
    let removes_itself = row.spec.remove_on_end && row.state.is_ended() && !lingers(row);
    match row.state {
        SandboxState::Backoff { .. } => Verdict::Adopt,
        _ if row.state.is_live() => Verdict::Adopt,
        SandboxState::Created => Verdict::Remove,
        _ if removes_itself => Verdict::Remove,
        _ if first && row_wants_restart(row, occasion) => Verdict::Restart,
        _ => Verdict::Keep,
    }
}

impl Handler<Reconcile> for Supervisor {
    type Result = Answer<ReconcileReport>;

    fn handle(&mut self, _: Reconcile, _: &mut Self::Context) -> Self::Result {
        if self.shutting_down.is_some() {
            return self.refuse(SupervisorError::ShuttingDown);
        }
        let turn = self.first_look.begin(self.children.is_empty());
        let first = turn.is_first;
        let surveyed = self.finish_left_renames().then(move |(), this, _| this.survey(turn).into_actor(this));
        let cleared = surveyed.then(move |survey, this, _| {
            let survey = match survey {
                Ok(survey) => survey,
                Err(error) => return this.refuse(error),
            };
            let unattended = this.unattended(&survey, first);
            if turn.is_alone || unattended.is_empty() {
                return this.take_and_clear(survey, unattended, turn);
            }
            // What had just ended when it was looked at is gone the second time: no name of a sound
            // sandbox is taken, for which others may ask at the same time.
            Box::pin(this.survey(turn).into_actor(this).then(move |survey, this, _| match survey {
                Ok(survey) => {
                    let still = this.unattended(&survey, first).intersection(&unattended).cloned().collect();
                    this.take_and_clear(survey, still, turn)
                }
                Err(error) => this.refuse(error),
            }))
        });
        Box::pin(cleared.map(move |report, this, _| {
            if first {
                this.first_look.end(report.is_ok());
            }
            report
        }))
    }
}

/// Rows and host, as they were a moment ago.
struct Survey {
    rows: Vec<SandboxRow>,
    found: Found,
    drafts: Vec<Leftover>,
}

/// What is to be done, by sandbox.
#[derive(Default)]
struct Plan {
    report: ReconcileReport,
    /// Adopted: until it is known whether they go on.
    settling: Vec<(SandboxKey, Addr<Monitor>, oneshot::Receiver<()>)>,
    /// Rows that go.
    removals: Vec<SandboxRow>,
    /// Rows that are started again, once nothing is left of them.
    restarts: Vec<SandboxRow>,
    /// Names that stay taken while what is left of them goes, and whether they have a row.
    taken: HashMap<SandboxKey, bool>,
    /// Before any start: all that may use something of the cache.
    users: Option<HashSet<SandboxKey>>,
}

impl Supervisor {
    fn survey(&self, Turn { is_alone, .. }: Turn) -> impl Future<Output = Result<Survey, SupervisorError>> + use<> {
        let (database, dir) = (self.config.database.clone(), self.config.state_dir.clone());
        let (state_id, tree_removals) = (self.config.state_id.clone(), self.tree_removals.clone());
        async move {
            let rows = database.send(ListSandboxes).await??;
            let on_host = move || {
                let drafts = if is_alone { leftovers::remove_drafts(&dir) } else { Vec::new() };
                if is_alone {
                    // Nothing waits until they are gone.
                    tree_removals.delete(volumes::leaving(&dir));
                }
                (Found::on_host(&dir, &state_id), drafts)
            };
            let (found, drafts) = blocking(on_host).await.map_err(|_| SupervisorError::Gone)?;
            Ok(Survey { rows, found, drafts })
        }
    }

    /// The names of all that have no child, and should have one or nothing.
    fn unattended(&self, Survey { rows, found, .. }: &Survey, first: bool) -> HashSet<SandboxKey> {
        let boot_id = self.boot_id.as_deref();
        let to_do = rows.iter().filter(|row| verdict(row, first, boot_id) != Verdict::Keep).map(|row| &row.spec.key);
        let known: HashSet<_> = rows.iter().map(|row| &row.spec.key).collect();
        // An ended sandbox keeps its disk.
        let of_disks = found.disks.iter().filter(|key| !known.contains(key));
        let all = to_do.chain(of_disks).chain(found.live_keys());
        all.filter(|key| !self.children.contains_key(*key)).cloned().collect()
    }

    /// Takes these names, and does with each what its row says now.
    fn take_and_clear(&mut self, survey: Survey, taken: HashSet<SandboxKey>, turn: Turn) -> Answer<ReconcileReport> {
        for key in &taken {
            self.children.insert(key.clone(), Child::new(Phase::Removing));
        }
        let Survey { found, drafts, .. } = survey;
        let database = self.config.database.clone();
        let read_again = async move {
            let keys = database.send(ListKeys).await??;
            Ok::<_, SupervisorError>((database.send(ListSandboxes).await??, keys))
        };
        Box::pin(read_again.into_actor(self).then(move |read, this, ctx| match read {
            Ok((rows, keys)) => {
                let mut plan = this.decide(taken, rows, &keys, turn.is_first, ctx);
                let again = plan.restarts.iter().map(|row| row.spec.key.clone());
                let live = keys.into_iter().filter_map(|(key, is_live)| is_live.then_some(key));
                plan.users = turn.is_alone.then(|| live.chain(again).collect());
                this.settle_and_clear(plan, found, drafts)
            }
            Err(error) => {
                this.give_back(&taken);
                this.refuse(error)
            }
        }))
    }

    fn give_back<'a>(&mut self, taken: impl IntoIterator<Item = &'a SandboxKey>) {
        for key in taken {
            if self.children.get(key).is_some_and(|child| child.kind() == PhaseKind::Removing) {
                self.children.remove(key);
            }
        }
    }

    /// Adopts what is live; says what is to be done with the rest. A key whose row is not here was written by a later
    /// version: what is live of those is left alone, and what has ended keeps its disk.
    fn decide(
        &mut self,
        taken: HashSet<SandboxKey>,
        rows: Vec<SandboxRow>,
        keys: &HashMap<SandboxKey, bool>,
        first: bool,
        ctx: &mut Context<Self>,
    ) -> Plan {
        let mut plan = Plan::default();
        self.linger_on(rows.iter(), ctx);
        let mut rows: HashMap<_, _> = rows.into_iter().map(|row| (row.spec.key.clone(), row)).collect();
        for key in taken {
            let Some(row) = rows.remove(&key) else {
                match keys.get(&key) {
                    Some(true) => drop(self.children.remove(&key)),
                    ended => drop(plan.taken.insert(key, ended.is_some())),
                }
                continue;
            };
            match verdict(&row, first, self.boot_id.as_deref()) {
                Verdict::Adopt => self.adopt_row(key, row, &mut plan, ctx),
                Verdict::Remove => {
                    plan.taken.insert(key, false);
                    plan.removals.push(row);
                }
                Verdict::Restart => {
                    plan.taken.insert(key, true);
                    plan.restarts.push(row);
                }
                Verdict::Keep => drop(plan.taken.insert(key, true)),
            }
        }
        plan
    }

    fn adopt_row(&mut self, key: SandboxKey, mut row: SandboxRow, plan: &mut Plan, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get_mut(&key) else { return };
        if let SandboxState::Backoff { until } = row.state {
            let pause = pause_left(until, Utc::now(), row.spec.restart_backoff.max);
            row.supervisor_pid = self.config.supervisor_pid;
            row.boot_id.clone_from(&self.boot_id);
            self.note_row(&Arc::new(row));
            self.schedule(&key, pause, ctx);
            plan.report.adopted.push(key);
            return;
        }
        child.enter(Phase::Lost { log: None, jobs: None });
        child.note_row(Arc::new(row.clone()));
        let settled = child.settled();
        self.adopt(row, StartMode::Adopt, ctx);
        match self.children.get(&key).and_then(|child| child.monitor()) {
            Some(monitor) => plan.settling.push((key, monitor.clone(), settled)),
            None => plan.report.resolved.push(key),
        }
    }

    /// BACKOFF for a row that ended under an earlier orchestrator.
    fn restart_row(&mut self, mut row: SandboxRow, ctx: &mut Context<Self>) {
        row.supervisor_pid = self.config.supervisor_pid;
        if row.stopped_by.is_some() {
            row.restarts_in_a_row = 0;
        }
        let child = Child::with_row(Phase::Removing, Arc::new(row.clone()));
        self.children.insert(row.spec.key.clone(), child);
        self.back_off(row, ctx);
    }

    /// Waits until it is known of those that were adopted whether they go on, and removes what is left of
    /// the others.
    fn settle_and_clear(&mut self, plan: Plan, found: Found, drafts: Vec<Leftover>) -> Answer<ReconcileReport> {
        let Plan { mut report, settling, removals, restarts, taken, users } = plan;
        let runtime = |key: &SandboxKey| self.config.state_dir.runtime(key);
        let settled = settling.into_iter().map(|(key, monitor, settled)| settle(runtime(&key), key, monitor, settled));
        let settled = join_all(settled.collect::<Vec<_>>());
        let removals: Vec<_> = removals.iter().map(|row| (row.spec.key.clone(), self.remove_everything(row))).collect();
        let (dir, state_id) = (self.config.state_dir.clone(), self.config.state_id.clone());
        let of_drivers = self.config.drivers.remove_leftovers(&state_id);
        Box::pin(settled.into_actor(self).then(move |settled, this, _| {
            for key in settled {
                let lives = |child: &Child| child.row().is_some_and(|row| row.state.is_live());
                let goes_on = this.children.get(&key).is_some_and(lives);
                if goes_on { &mut report.adopted } else { &mut report.resolved }.push(key);
            }
            report.resolved.sort();
            let (of_taken, resolved) = (taken.clone(), report.resolved.clone());
            let cleared = async move {
                let mut leftovers = drafts;
                if let Some(users) = users {
                    let dir = dir.clone();
                    // A panic there is told by its thread; what stays keeps something in the cache.
                    let _ = blocking(move || leftovers::remove_cache_uses(&dir, |key| users.contains(key))).await;
                }
                leftovers.extend(clear(dir, state_id, found, of_taken, resolved).await);
                // Now everything that no live sandbox owns has ended.
                leftovers.extend(of_drivers.await);
                for (key, removal) in removals {
                    let error = removal.await.err().map(|error| error_chain(&error));
                    leftovers.push(Leftover {
                        kind: LeftoverKind::Row,
                        what: key.to_string(),
                        sandbox: Some(key),
                        error,
                    });
                }
                leftovers
            };
            cleared.into_actor(this).map(move |leftovers, this, ctx| {
                this.give_back(taken.keys());
                for row in restarts {
                    report.adopted.push(row.spec.key.clone());
                    this.restart_row(row, ctx);
                }
                report.adopted.sort();
                Ok(ReconcileReport { leftovers, ..report })
            })
        }))
    }
}

/// Resolves when the sandbox of an adopting monitor is known to go on, or its end is recorded.
async fn settle(
    runtime_dir: PathBuf,
    key: SandboxKey,
    monitor: Addr<Monitor>,
    ended: oneshot::Receiver<()>,
) -> SandboxKey {
    let settled = async {
        let is_there = matches!(monitor.send(AwaitProcess).await, Ok(Ok(())));
        let runs = is_there && matches!(blocking(move || is_abandoned(&runtime_dir)).await, Ok(false));
        if !runs {
            let _ = ended.await;
        }
    };
    let _ = tokio::time::timeout(SETTLE_LIMIT, settled).await;
    key
}

/// Removes what is left of the sandboxes that are `taken` (whether they have a row), and ends what runs
/// of an earlier start of those that are `resolved`.
async fn clear(
    dir: StateDir,
    state_id: String,
    found: Found,
    taken: HashMap<SandboxKey, bool>,
    resolved: Vec<SandboxKey>,
) -> Vec<Leftover> {
    let Found { runtime_dirs, disks, processes, mounts } = found;
    let is_taken = |key: &SandboxKey| taken.contains_key(key);
    let mounts: Vec<_> = mounts.into_iter().filter(|(key, _)| is_taken(key)).collect();
    let unmount = move || mounts.iter().map(|(key, path)| leftovers::unmount(key, path)).collect::<Vec<_>>();
    // A panic there is logged by its thread; what is left is found next time.
    let mut all = blocking(unmount).await.unwrap_or_default();
    let dirs = runtime_dirs.iter().filter(|key| is_taken(key)).map(|key| leftovers::clear_runtime_dir(&dir, key));
    all.extend(join_all(dirs).await.into_iter().flatten());
    let orphans: Vec<_> =
        processes.into_iter().filter(|orphan| is_taken(&orphan.key) || resolved.contains(&orphan.key)).collect();
    let ownerless: Vec<_> = disks.into_iter().filter(|key| taken.get(key) == Some(&false)).collect();
    let rest = move || {
        let ended = orphans.iter().filter_map(|orphan| leftovers::end_process(orphan, &state_id));
        let mut rest: Vec<_> = ended.collect();
        rest.extend(ownerless.iter().filter_map(|key| leftovers::remove_disk(&dir, key)));
        rest
    };
    all.extend(blocking(rest).await.unwrap_or_default());
    all
}
