//! Faults of the host around us, each told once when it begins and once when it ends.
//!
//! ```text
//!   database ─┐ a write fails, or works again
//!   log ──────┤                                begins: first place that raises it
//!   admission ┼─▶ Faults: places per fault ──▶ ends: last place that clears it ───▶ event, counter
//!   clock ────┘
//! ```
//!
//! A place [raises](Faults::raise) a fault each time it meets it, and [clears](Faults::clear) whatever it had when it
//! works again; only the first and the last time make an event, however often something is tried in between.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sandpen_types::event::EventKind;
use sandpen_types::fault::Fault;
use sandpen_types::spec::SandboxKey;

use crate::host::clock::JumpWatch;
use crate::telemetry::counters::{Counter, Counters};
use crate::telemetry::outbox::{NewEvent, Outbox, WaitingEvents};

/// What counts how often a fault began.
pub const fn counter_of(fault: Fault) -> Counter {
    match fault {
        Fault::DiskFull => Counter::FaultDiskFull,
        Fault::ReadOnly => Counter::FaultReadOnly,
        Fault::StorageFailed => Counter::FaultStorageFailed,
        Fault::DatabaseLocked => Counter::FaultDatabaseLocked,
        Fault::OpenFiles => Counter::FaultOpenFiles,
        Fault::Processes => Counter::FaultProcesses,
        Fault::ClockJumped => Counter::FaultClockJumped,
    }
}

/// Where a fault is met.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The database's file.
    Database,
    /// A log, by its path.
    Log(PathBuf),
    /// The state directory, looked at before a start.
    StateDir,
    /// This process.
    Process,
    /// The start of a microVM.
    Start,
    /// A microVM that is looked for, by its runtime directory.
    Adoption(PathBuf),
}

#[derive(Debug, Default)]
struct State {
    places: BTreeMap<Place, Fault>,
    since: BTreeMap<Fault, Instant>,
}

#[derive(Debug, Default)]
struct Shared {
    counters: Counters,
    state: Mutex<State>,
    outbox: Outbox,
    clock: JumpWatch,
}

/// The faults of the moment and the counters: shared by all actors of an orchestrator.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Shared>);

impl Faults {
    /// Nothing wrong and nothing counted. Without a recorder on the other end (or by `default()`)
    /// there are counters, but no events.
    pub fn new() -> (Self, WaitingEvents) {
        let (outbox, waiting) = Outbox::new();
        (Self(Arc::new(Shared { outbox, ..Shared::default() })), waiting)
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Counts one.
    pub fn count(&self, counter: Counter) {
        self.0.counters.count(counter);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place has a fault, still or from now on.
    pub fn raise(&self, place: Place, fault: Fault, message: &str) {
        let began = {
            let mut state = self.state();
            let before = state.places.insert(place, fault);
            if before == Some(fault) {
                return;
            }
            let ended = before.and_then(|before| state.end(before));
            let began = !state.since.contains_key(&fault);
            if began {
                state.since.insert(fault, Instant::now());
            }
            drop(state);
            self.tell_ended(ended);
            began
        };
        if began {
            tracing::warn!(%fault, message, "a fault of the host began");
            self.count(counter_of(fault));
            self.tell(NewEvent::now(None, EventKind::FaultBegan { fault, message: message.to_owned() }));
        }
    }

    /// A place works, or is no longer there.
    pub fn clear(&self, place: &Place) {
        let ended = {
            let mut state = self.state();
            match state.places.remove(place) {
                Some(fault) => state.end(fault),
                None => return,
            }
        };
        self.tell_ended(ended);
    }

    /// Tells that somebody has set the clock since the last time, if somebody has.
    pub fn look_at_clock(&self) {
        if let Some(by_ms) = self.0.clock.look() {
            tracing::warn!(by_ms, "the host's clock was set");
            // Over as soon as it is seen.
            self.count(counter_of(Fault::ClockJumped));
            self.tell(NewEvent::now(None, EventKind::ClockJumped { by_ms }));
        }
    }

    fn tell_ended(&self, ended: Option<(Fault, Duration)>) {
        if let Some((fault, lasted)) = ended {
            tracing::info!(%fault, ?lasted, "a fault of the host ended");
            let lasted_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
            self.tell(NewEvent::now(None, EventKind::FaultEnded { fault, lasted_ms }));
        }
    }

    /// An event of one sandbox.
    pub fn tell_of_sandbox(&self, sandbox: Option<&SandboxKey>, kind: EventKind) {
        self.tell(NewEvent::now(sandbox.cloned(), kind));
    }

    fn tell(&self, event: NewEvent) {
        if self.0.outbox.tell(event).is_err() {
            self.count(Counter::EventsDropped);
        }
    }

    /// Resolves when what was told so far is recorded, or nobody records any more.
    pub async fn flushed(&self) {
        self.0.outbox.flushed().await;
    }

    /// The faults of the moment.
    pub fn active(&self) -> Vec<Fault> {
        self.state().since.keys().copied().collect()
    }

    /// Whether there is one that can keep states and logs from being written.
    pub fn hinder_writing(&self) -> bool {
        self.state().since.keys().any(|fault| fault.hinders_writing())
    }
}

impl State {
    /// Ends a fault unless another place has it too; how long it lasted.
    fn end(&mut self, fault: Fault) -> Option<(Fault, Duration)> {
        if self.places.values().any(|other| *other == fault) {
            return None;
        }
        self.since.remove(&fault).map(|since| (fault, since.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::outbox::{Outgoing, WAITING_EVENTS};

    fn told(waiting: &mut WaitingEvents) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(Outgoing::Event(event)) = waiting.try_next() {
            all.push(match event.kind {
                EventKind::FaultBegan { fault, .. } => format!("+{fault}"),
                EventKind::FaultEnded { fault, .. } => format!("-{fault}"),
                other => format!("{other:?}"),
            });
        }
        all
    }

    #[test]
    fn a_fault_is_told_when_the_first_place_raises_it_and_when_the_last_one_clears_it() {
        let (faults, mut waiting) = Faults::new();
        let log = |n: u32| Place::Log(format!("/{n}").into());
        for _ in 0..3 {
            faults.raise(Place::Database, Fault::DiskFull, "full");
            faults.raise(log(1), Fault::DiskFull, "full");
        }
        assert_eq!(told(&mut waiting), ["+disk_full"]);
        assert!(faults.hinder_writing());
        faults.clear(&Place::Database);
        faults.clear(&log(2));
        assert_eq!(told(&mut waiting), [""; 0]);
        faults.clear(&log(1));
        assert_eq!(told(&mut waiting), ["-disk_full"]);
        assert!(faults.active().is_empty());
        assert_eq!(faults.counters().value(Counter::FaultDiskFull), 1);
    }

    #[test]
    fn a_place_has_one_fault_at_a_time() {
        let (faults, mut waiting) = Faults::new();
        faults.raise(Place::Database, Fault::DatabaseLocked, "");
        faults.raise(Place::Database, Fault::ReadOnly, "");
        assert_eq!(told(&mut waiting), ["+database_locked", "-database_locked", "+read_only"]);
        assert_eq!(faults.active(), [Fault::ReadOnly]);
    }

    #[test]
    fn too_many_events_are_dropped_and_counted() {
        let (faults, _waiting) = Faults::new();
        for _ in 0..WAITING_EVENTS {
            faults.raise(Place::Database, Fault::DiskFull, "");
            faults.clear(&Place::Database);
        }
        assert_eq!(faults.counters().value(Counter::EventsDropped), WAITING_EVENTS as u64);
    }

    #[test]
    fn the_words_of_events_and_labels_are_the_same() {
        for fault in Fault::ALL {
            assert_eq!(counter_of(fault).name().label, Some(("fault", fault.as_str())));
        }
    }
}
