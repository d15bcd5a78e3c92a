//! Bringing rows and processes together: at the start, before anything else, and whenever somebody
//! asks for it.
//!
//! ```text
//!   rows + host looked at ─▶ every name that should have nothing, or has no child, is taken
//!      ─▶ its row read again ─┬ live ─▶ adopted ─▶ goes on, or ended meanwhile
//!                             ├ half made, half removed ─▶ removed
//!                             └ ended or none ─▶ processes, mounts, runtime directory, disk: gone
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
use tokio::sync::oneshot;

use super::actor::{Answer, Supervisor};
use super::child::Child;
use super::leftovers::{self, Found};
use super::lingering::lingers;
use super::restart::{Occasion, row_wants_restart};
use super::{Leftover, LeftoverKind, Reconcile, ReconcileReport, SupervisorError};
use crate::clock::pause_left;
use crate::database::{ListLiveKeys, ListSandboxes, SandboxRow};
use crate::driver::error_chain;
use crate::monitor::{AwaitProcess, Monitor, StartMode};
use crate::spec::SandboxKey;
use crate::state::SandboxState;
use crate::state_dir::StateDir;
use crate::waiter::is_abandoned;

/// How long the end of a microVM that ended unseen may take until it is recorded. With a full disk it
/// takes longer than anybody should wait for an answer.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Whether an orchestrator died in the middle of making this row (nothing of its request was ever
/// answered) or of removing it.
fn is_to_go(row: &SandboxRow) -> bool {
    row.state == SandboxState::Created || (row.spec.remove_on_end && row.state.is_ended() && !lingers(row))
}

fn goes_on(row: &SandboxRow) -> bool {
    row.state.is_live() || matches!(row.state, SandboxState::Backoff { .. })
}

impl Handler<Reconcile> for Supervisor {
    type Result = Answer<ReconcileReport>;

    fn handle(&mut self, _: Reconcile, _: &mut Self::Context) -> Self::Result {
        if self.shutting_down.is_some() {
            return self.refuse(SupervisorError::ShuttingDown);
        }
        // Only before the first start: later a disk may just be in the making.
        let first = !std::mem::replace(&mut self.reconciled, true) && self.children.is_empty();
        Box::pin(self.look(first).into_actor(self).then(move |looked, this, _| {
            let looked = match looked {
                Ok(looked) => looked,
                Err(error) => return this.refuse(error),
            };
            let idle = this.idle(&looked, first);
            if first || idle.is_empty() {
                return this.take_and_clear(looked, idle, first);
            }
            // What had just ended when it was looked at is gone the second time: no name of a sound
            // sandbox is taken, for which others may ask at the same time.
            Box::pin(this.look(first).into_actor(this).then(move |looked, this, _| match looked {
                Ok(looked) => {
                    let still_idle = this.idle(&looked, first).intersection(&idle).cloned().collect();
                    this.take_and_clear(looked, still_idle, first)
                }
                Err(error) => this.refuse(error),
            }))
        }))
    }
}

/// Rows and host, as they were a moment ago.
struct Looked {
    rows: Vec<SandboxRow>,
    found: Found,
    drafts: Vec<Leftover>,
}

/// What is to be done, by sandbox.
#[derive(Default)]
struct Work {
    report: ReconcileReport,
    /// Adopted: until it is known whether they go on.
    settling: Vec<(SandboxKey, Addr<Monitor>, oneshot::Receiver<()>)>,
    /// Rows that go.
    removals: Vec<SandboxRow>,
    /// Rows that ended under an earlier orchestrator and are started again, once nothing is left of them.
    returning: Vec<SandboxRow>,
    /// Names that are taken while what is left of them goes, and whether they have a row.
    idle: HashMap<SandboxKey, bool>,
}

impl Supervisor {
    fn look(&self, first: bool) -> impl Future<Output = Result<Looked, SupervisorError>> + use<> {
        let (database, dir) = (self.config.database.clone(), self.config.state_dir.clone());
        let state_id = self.config.state_id.clone();
        async move {
            let rows = database.send(ListSandboxes).await??;
            let on_host = move || {
                let drafts = if first { leftovers::remove_drafts(&dir) } else { Vec::new() };
                (Found::on_host(&dir, &state_id), drafts)
            };
            let (found, drafts) = tokio::task::spawn_blocking(on_host).await.map_err(|_| SupervisorError::Gone)?;
            Ok(Looked { rows, found, drafts })
        }
    }

    /// The names of all that have no child, and should have one or nothing.
    fn idle(&self, Looked { rows, found, .. }: &Looked, first: bool) -> HashSet<SandboxKey> {
        let wanted = |row: &&SandboxRow| goes_on(row) || is_to_go(row) || (first && self.returns(row));
        let of_rows = rows.iter().filter(wanted).map(|row| &row.spec.key);
        let known: HashSet<_> = rows.iter().map(|row| &row.spec.key).collect();
        // An ended sandbox keeps its disk.
        let of_disks = found.disks.iter().filter(|key| !known.contains(key));
        let idle = of_rows.chain(of_disks).chain(found.live_keys()).filter(|key| !self.children.contains_key(*key));
        idle.cloned().collect()
    }

    /// Takes these names, and does with each what its row says now.
    fn take_and_clear(&mut self, looked: Looked, taken: HashSet<SandboxKey>, first: bool) -> Answer<ReconcileReport> {
        for key in &taken {
            self.children.insert(key.clone(), Child::in_removal());
        }
        let Looked { found, drafts, .. } = looked;
        let database = self.config.database.clone();
        let read_again = async move {
            let live = database.send(ListLiveKeys).await??;
            Ok::<_, SupervisorError>((database.send(ListSandboxes).await??, live))
        };
        Box::pin(read_again.into_actor(self).then(move |read, this, ctx| match read {
            Ok((rows, live)) => {
                let work = this.resolve(taken, rows, &live, first, ctx);
                this.settle_and_clear(work, found, drafts)
            }
            Err(error) => {
                this.give_back(&taken);
                this.refuse(error)
            }
        }))
    }

    fn give_back<'a>(&mut self, taken: impl IntoIterator<Item = &'a SandboxKey>) {
        for key in taken {
            if self.children.get(key).is_some_and(|child| child.removing) {
                self.children.remove(key);
            }
        }
    }

    /// Adopts what is live; says what is to be done with the rest. What is `live` without a row here
    /// belongs to a later version, and is left alone.
    fn resolve(
        &mut self,
        taken: HashSet<SandboxKey>,
        rows: Vec<SandboxRow>,
        live: &[SandboxKey],
        first: bool,
        ctx: &mut Context<Self>,
    ) -> Work {
        let mut work = Work::default();
        self.linger_on(rows.iter(), ctx);
        let mut rows: HashMap<_, _> = rows.into_iter().map(|row| (row.spec.key.clone(), row)).collect();
        for key in taken {
            match rows.remove(&key) {
                Some(row) if goes_on(&row) => {
                    self.children.insert(key.clone(), Child::default());
                    self.go_on(key, row, &mut work, ctx);
                }
                Some(row) if is_to_go(&row) => {
                    work.idle.insert(key, false);
                    work.removals.push(row);
                }
                Some(row) if first && self.returns(&row) => {
                    work.idle.insert(key, true);
                    work.returning.push(row);
                }
                row => {
                    if row.is_none() && live.contains(&key) {
                        self.children.remove(&key);
                    } else {
                        work.idle.insert(key, row.is_some());
                    }
                }
            }
        }
        work
    }

    /// Whether the restart policy starts it again: an orchestrator may have died before it did, or have
    /// ended it itself, or the host was restarted.
    fn returns(&self, row: &SandboxRow) -> bool {
        let occasion = match (&row.boot_id, &self.boot_id) {
            (Some(then), Some(now)) if then != now => Occasion::HostRestarted,
            _ => Occasion::OrchestratorStarted,
        };
        row_wants_restart(row, occasion)
    }

    /// BACKOFF for a row that ended under an earlier orchestrator.
    fn come_back(&mut self, mut row: SandboxRow, ctx: &mut Context<Self>) {
        row.supervisor_pid = self.config.supervisor_pid;
        if row.stopped_by.is_some() {
            row.restarts_in_a_row = 0;
        }
        let child = Child { row: Some(Arc::new(row.clone())), ..Child::default() };
        self.children.insert(row.spec.key.clone(), child);
        self.back_off(row, ctx);
    }

    fn go_on(&mut self, key: SandboxKey, mut row: SandboxRow, work: &mut Work, ctx: &mut Context<Self>) {
        if let SandboxState::Backoff { until } = row.state {
            let pause = pause_left(until, Utc::now(), row.spec.restart_backoff.max);
            row.supervisor_pid = self.config.supervisor_pid;
            row.boot_id.clone_from(&self.boot_id);
            self.note_row(&Arc::new(row));
            self.schedule(&key, pause, ctx);
            work.report.adopted.push(key);
            return;
        }
        self.adopt(row, StartMode::Adopt, ctx);
        let Some(child) = self.children.get_mut(&key) else { return };
        let (sender, settled) = oneshot::channel();
        child.until_settled.push(sender);
        match &child.monitor {
            Some(monitor) => work.settling.push((key, monitor.clone(), settled)),
            None => work.report.resolved.push(key),
        }
    }

    /// Waits until it is known of those that were adopted whether they go on, and removes what is left of
    /// the others.
    fn settle_and_clear(&mut self, work: Work, found: Found, drafts: Vec<Leftover>) -> Answer<ReconcileReport> {
        let Work { mut report, settling, removals, returning, idle } = work;
        let runtime = |key: &SandboxKey| self.config.state_dir.runtime(key);
        let settled = settling.into_iter().map(|(key, monitor, settled)| settle(runtime(&key), key, monitor, settled));
        let settled = join_all(settled.collect::<Vec<_>>());
        let removals: Vec<_> = removals.iter().map(|row| (row.spec.key.clone(), self.remove_everything(row))).collect();
        let (dir, state_id) = (self.config.state_dir.clone(), self.config.state_id.clone());
        let of_drivers = self.config.drivers.remove_leftovers(&state_id);
        Box::pin(settled.into_actor(self).then(move |settled, this, _| {
            for key in settled {
                let lives = |child: &Child| child.row.as_ref().is_some_and(|row| row.state.is_live());
                let goes_on = this.children.get(&key).is_some_and(lives);
                if goes_on { &mut report.adopted } else { &mut report.resolved }.push(key);
            }
            report.resolved.sort();
            let (taken, resolved) = (idle.clone(), report.resolved.clone());
            let cleared = async move {
                let mut leftovers = drafts;
                leftovers.extend(clear(dir, state_id, found, taken, resolved).await);
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
                this.give_back(idle.keys());
                for row in returning {
                    report.adopted.push(row.spec.key.clone());
                    this.come_back(row, ctx);
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
        let runs =
            is_there && matches!(tokio::task::spawn_blocking(move || is_abandoned(&runtime_dir)).await, Ok(false));
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
    let mut all = tokio::task::spawn_blocking(unmount).await.unwrap_or_default();
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
    all.extend(tokio::task::spawn_blocking(rest).await.unwrap_or_default());
    all
}
