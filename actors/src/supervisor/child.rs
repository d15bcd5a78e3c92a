//! What the supervisor knows of one sandbox: its phase, its row, and who waits for what of it.

use std::sync::Arc;

use actix::Addr;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{DiskName, SandboxSpec, VolumeName};
use sandpen_types::state::{SandboxState, Status};
use tokio::sync::oneshot;

use super::phase::{Phase, PhaseKind};
use super::volumes;
use crate::host::places::Places;
use crate::monitor::{Monitor, Stop};
use crate::runtime::intensity::RecentFailures;

/// Whoever waits for a row.
pub(super) type RowSender = oneshot::Sender<Arc<SandboxRow>>;

/// A sandbox that is being started, live, in BACKOFF or being cleaned up, or a name that is taken.
pub(super) struct Child {
    phase: Phase,
    /// The latest durable row; `None` while the first one is being written, or for a name that is taken.
    row: Option<Arc<SandboxRow>>,
    /// A stop was asked for: no restart follows, and a monitor that comes later is told.
    pub(super) stop: Option<Stop>,
    /// Where its directories and its kernel lie; `None` until somebody has looked.
    pub(super) places: Option<Places>,
    /// Its start is refused for where those lie, which is not on record yet.
    pub(super) is_refused: bool,
    /// Descriptors that it keeps open at rest.
    pub(super) open_files: u64,
    /// Losses of its monitor or its log writer.
    pub(super) losses: RecentFailures,
    /// Waiting for RUNNING or the end.
    until_started: Vec<RowSender>,
    /// Waiting for the end without a restart.
    pub(super) until_ended: Vec<RowSender>,
    /// Waiting for the next monitor, or for the end without a restart; dropped then.
    pub(super) until_hosted: Vec<oneshot::Sender<()>>,
    /// Waiting for the next monitor or for the end, whatever follows it; dropped then.
    until_reachable: Vec<oneshot::Sender<()>>,
    /// Waiting until an end is dealt with, whatever follows it; dropped then.
    until_settled: Vec<oneshot::Sender<()>>,
    /// Waiting until what is left of an ended one is gone; dropped then.
    until_released: Vec<oneshot::Sender<()>>,
}

impl Child {
    pub(super) fn new(phase: Phase) -> Self {
        Self {
            phase,
            row: None,
            stop: None,
            places: None,
            is_refused: false,
            open_files: 0,
            losses: RecentFailures::default(),
            until_started: Vec::new(),
            until_ended: Vec::new(),
            until_hosted: Vec::new(),
            until_reachable: Vec::new(),
            until_settled: Vec::new(),
            until_released: Vec::new(),
        }
    }

    pub(super) fn with_row(phase: Phase, row: Arc<SandboxRow>) -> Self {
        Self { row: Some(row), ..Self::new(phase) }
    }

    pub(super) fn phase(&self) -> &Phase {
        &self.phase
    }

    pub(super) fn kind(&self) -> PhaseKind {
        self.phase.kind(self.row.as_ref().is_some_and(|row| row.state.is_ended()))
    }

    /// Goes on to another phase; answers the one before.
    pub(super) fn enter(&mut self, phase: Phase) -> Phase {
        let (from, to) = (self.kind(), phase.kind(false));
        debug_assert!(from.successors().contains(&to), "{from:?} to {to:?}");
        self.replace_phase(phase)
    }

    /// As [`Child::enter`], for a supervisor that follows one that failed: whatever that one had in hand is gone.
    pub(super) fn inherited(&mut self, phase: Phase) {
        self.replace_phase(phase);
    }

    fn replace_phase(&mut self, phase: Phase) -> Phase {
        if matches!(phase, Phase::Hosted { .. }) {
            self.until_hosted.clear();
            self.until_reachable.clear();
        }
        std::mem::replace(&mut self.phase, phase)
    }

    pub(super) fn row(&self) -> Option<&Arc<SandboxRow>> {
        self.row.as_ref()
    }

    /// Keeps a durable row; answers those who waited for what it says.
    pub(super) fn note_row(&mut self, row: Arc<SandboxRow>) {
        let state = &row.state;
        let (runs, has_ended) = (*state == SandboxState::Running, state.is_ended());
        self.row = Some(row);
        if runs {
            self.answer_started();
        }
        if has_ended {
            self.until_reachable.clear();
        }
    }

    /// Its monitor, living or just lost.
    pub(super) fn monitor(&self) -> Option<&Addr<Monitor>> {
        match &self.phase {
            Phase::Hosted { monitor, .. } => Some(monitor),
            _ => None,
        }
    }

    /// Its log is closed: there is nobody to ask for it any more.
    pub(super) fn log_closed(&mut self) {
        if let Phase::Hosted { log, .. } = &mut self.phase {
            *log = None;
            self.until_reachable.clear();
        }
    }

    /// Each of its jobs has ended, and there is nobody to ask for them any more.
    pub(super) fn jobs_closed(&mut self) {
        if let Phase::Hosted { jobs, .. } = &mut self.phase {
            *jobs = None;
            self.until_reachable.clear();
        }
    }

    /// Whether this named disk is this child's.
    pub(super) fn uses_disk(&self, name: &DiskName) -> bool {
        self.specs().any(|spec| spec.disk.name.as_ref() == Some(name))
    }

    /// Whether this named volume is this child's too.
    pub(super) fn uses_volume(&self, name: &VolumeName) -> bool {
        self.specs().any(|spec| volumes::names(spec).any(|of_spec| of_spec == name))
    }

    /// What it is, and what it is about to be.
    fn specs(&self) -> impl Iterator<Item = &SandboxSpec> {
        let reserved = match &self.phase {
            Phase::Reserved { spec, .. } => Some(&**spec),
            _ => None,
        };
        reserved.into_iter().chain(self.row.as_ref().map(|row| &*row.spec))
    }

    /// The state's word, for messages.
    pub(super) fn status(&self) -> &'static str {
        self.row.as_ref().map_or(Status::Starting, |row| row.state.status()).as_str()
    }

    /// Resolves with its last row; those who have stopped waiting are forgotten.
    pub(super) fn ended(&mut self) -> oneshot::Receiver<Arc<SandboxRow>> {
        waits_for(&mut self.until_ended)
    }

    /// Resolves with its row once it runs or has ended.
    pub(super) fn started(&mut self) -> oneshot::Receiver<Arc<SandboxRow>> {
        waits_for(&mut self.until_started)
    }

    /// Resolves at its next monitor, or at its end without a restart.
    pub(super) fn hosted(&mut self) -> oneshot::Receiver<()> {
        waits_for(&mut self.until_hosted)
    }

    /// Resolves when it may be another one whom to ask for its log or its process.
    pub(super) fn reachable(&mut self) -> oneshot::Receiver<()> {
        waits_for(&mut self.until_reachable)
    }

    /// Resolves when an end is dealt with.
    pub(super) fn settled(&mut self) -> oneshot::Receiver<()> {
        waits_for(&mut self.until_settled)
    }

    /// Resolves when nothing is left of a microVM that has ended.
    pub(super) fn released(&mut self) -> oneshot::Receiver<()> {
        waits_for(&mut self.until_released)
    }

    /// Its end is on record and nothing is left of its microVM.
    pub(super) fn end_is_settled(&mut self) {
        self.until_reachable.clear();
        self.until_settled.clear();
        self.until_released.clear();
    }

    /// Answers those who wait for RUNNING or the end.
    pub(super) fn answer_started(&mut self) {
        if let Some(row) = &self.row {
            for sender in self.until_started.drain(..) {
                let _ = sender.send(row.clone());
            }
        }
    }

    /// Answers everybody.
    pub(super) fn answer_ended(&mut self) {
        self.answer_started();
        if let Some(row) = &self.row {
            for sender in self.until_ended.drain(..) {
                let _ = sender.send(row.clone());
            }
        }
    }
}

/// One more who waits, in the place of all who do no longer.
fn waits_for<T>(waiting: &mut Vec<oneshot::Sender<T>>) -> oneshot::Receiver<T> {
    waiting.retain(|sender| !sender.is_closed());
    let (sender, told) = oneshot::channel();
    waiting.push(sender);
    told
}
