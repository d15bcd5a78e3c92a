//! Faults of the host around us, each told once when it begins and once when it ends.
//!
//! ```text
//!   database ─┐ a write fails, or works again
//!   log ──────┤                                begins: first place that sees it
//!   admission ┼─▶ Faults: places per fault ──▶ ends: last place that saw it ───▶ event, counter
//!   clock ────┘
//! ```
//!
//! Who meets a fault says so each time; only the first and the last time make an event, however often
//! something is tried in between. Events wait, bounded, until they can be recorded ([`record_all`]): what
//! is told of a full disk is written when there is room again, with the time at which it began.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::sync::{mpsc, oneshot};

use crate::actor_ref::ActorRef;
use crate::clock::JumpWatch;
use crate::counters::{Counter, Counters};
use crate::database::{Database, DatabaseError, RecordEvent};
use crate::event::Happening;
use crate::fault::Fault;
use crate::spec::SandboxKey;

/// So many events wait for being recorded; more are counted and dropped.
const WAITING_EVENTS: usize = 256;
/// Pauses between tries to record an event: the first one, doubled up to the last.
const RECORD_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What an error of the system means while a file is written.
pub fn of_io(error: &io::Error) -> Fault {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => Fault::DiskFull,
        Some(Errno::EROFS) => Fault::ReadOnly,
        Some(Errno::EMFILE | Errno::ENFILE) => Fault::OpenFiles,
        _ => Fault::StorageFailed,
    }
}

/// The same by the first cause that the system named; an error without one is none of the host's.
pub fn of_causes(error: &(dyn std::error::Error + 'static)) -> Option<Fault> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|cause| cause.downcast_ref::<io::Error>()).map(of_io)
}

/// What the host lacks for a microVM to be made or found, where that is the cause; it may pass.
pub fn of_lack(error: &(dyn std::error::Error + 'static)) -> Option<Fault> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let cause = causes.find_map(|cause| cause.downcast_ref::<io::Error>())?;
    match cause.raw_os_error().map(Errno::from_raw)? {
        Errno::EMFILE | Errno::ENFILE => Some(Fault::OpenFiles),
        Errno::EAGAIN | Errno::ENOMEM => Some(Fault::Processes),
        _ => None,
    }
}

/// What SQLite's refusal means; `None` when it is no fault of the host.
pub fn of_database(error: &DatabaseError) -> Option<Fault> {
    let DatabaseError::Sql { source, .. } = error else { return None };
    let cause = match &**source {
        sqlx::Error::Database(cause) => cause,
        // The connection that writes waits for a lock.
        sqlx::Error::PoolTimedOut => return Some(Fault::DatabaseLocked),
        _ => return None,
    };
    // SQLITE_BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN; the low byte of extended ones.
    match cause.code()?.parse::<i32>().ok()? & 0xff {
        5 | 6 => Some(Fault::DatabaseLocked),
        8 => Some(Fault::ReadOnly),
        13 => Some(Fault::DiskFull),
        10 | 14 => Some(Fault::StorageFailed),
        _ => None,
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

/// What the recorder is given.
#[derive(Debug)]
enum News {
    Event(Box<RecordEvent>),
    Flush(oneshot::Sender<()>),
}

/// Events on their way to [`record_all`].
#[derive(Debug)]
pub struct WaitingEvents(mpsc::Receiver<News>);

#[derive(Debug, Default)]
struct State {
    places: BTreeMap<Place, Fault>,
    since: BTreeMap<Fault, Instant>,
}

#[derive(Debug, Default)]
struct Shared {
    counters: Counters,
    state: Mutex<State>,
    news: Option<mpsc::Sender<News>>,
    clock: JumpWatch,
}

/// The faults of the moment and the counters: shared by all actors of an orchestrator.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Shared>);

impl Faults {
    /// Nothing wrong and nothing counted. Without [`record_all`] on the other end (or by `default()`)
    /// there are counters, but no events.
    pub fn new() -> (Self, WaitingEvents) {
        let (news, waiting) = mpsc::channel(WAITING_EVENTS);
        (Self(Arc::new(Shared { news: Some(news), ..Shared::default() })), WaitingEvents(waiting))
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

    /// A place meets a fault, again or for the first time.
    pub fn met(&self, place: Place, fault: Fault, message: &str) {
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
            self.count(Counter::of_fault(fault));
            self.tell(RecordEvent::now(None, Happening::FaultBegan { fault, message: message.to_owned() }));
        }
    }

    /// A place works, or is no longer there.
    pub fn well(&self, place: &Place) {
        let ended = {
            let mut state = self.state();
            match state.places.remove(place) {
                Some(fault) => state.end(fault),
                None => return,
            }
        };
        self.tell_ended(ended);
    }

    /// Tells whether somebody has set the clock since the last time.
    pub fn look_at_clock(&self) {
        self.0.clock.look(self);
    }

    /// Something that is over as soon as it is seen.
    pub fn happened(&self, fault: Fault, happening: Happening) {
        self.count(Counter::of_fault(fault));
        self.tell(RecordEvent::now(None, happening));
    }

    fn tell_ended(&self, ended: Option<(Fault, Duration)>) {
        if let Some((fault, lasted)) = ended {
            tracing::info!(%fault, ?lasted, "a fault of the host ended");
            let lasted_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
            self.tell(RecordEvent::now(None, Happening::FaultEnded { fault, lasted_ms }));
        }
    }

    /// An event of one sandbox.
    pub fn tell_of_sandbox(&self, sandbox: Option<&SandboxKey>, happening: Happening) {
        self.tell(RecordEvent::now(sandbox.cloned(), happening));
    }

    fn tell(&self, event: RecordEvent) {
        let Some(news) = &self.0.news else { return };
        if news.try_send(News::Event(Box::new(event))).is_err() {
            self.count(Counter::EventsDropped);
        }
    }

    /// Resolves when what was told so far is recorded, or nobody records any more.
    pub async fn flushed(&self) {
        let (done, recorded) = oneshot::channel();
        if let Some(news) = &self.0.news
            && news.send(News::Flush(done)).await.is_ok()
        {
            // Dropped with the recorder.
            let _ = recorded.await;
        }
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

/// Records events in their order, each until it is durable; ends with the database.
pub async fn record_all(database: ActorRef<Database>, faults: Faults, WaitingEvents(mut waiting): WaitingEvents) {
    while let Some(news) = waiting.recv().await {
        let event = match news {
            News::Event(event) => *event,
            News::Flush(done) => {
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
                continue;
            }
        };
        let (mut pause, longest) = RECORD_PAUSES;
        loop {
            match database.send(event.clone()).await {
                Ok(Ok(())) => break,
                Ok(Err(_)) => faults.count(Counter::DatabaseRetries),
                Err(_) => return,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(waiting: &mut WaitingEvents) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(News::Event(event)) = waiting.0.try_recv() {
            all.push(match event.happening {
                Happening::FaultBegan { fault, .. } => format!("+{fault}"),
                Happening::FaultEnded { fault, .. } => format!("-{fault}"),
                other => format!("{other:?}"),
            });
        }
        all
    }

    #[test]
    fn a_fault_is_told_when_the_first_place_meets_it_and_when_the_last_one_is_well() {
        let (faults, mut waiting) = Faults::new();
        let log = |n: u32| Place::Log(format!("/{n}").into());
        for _ in 0..3 {
            faults.met(Place::Database, Fault::DiskFull, "full");
            faults.met(log(1), Fault::DiskFull, "full");
        }
        assert_eq!(told(&mut waiting), ["+disk_full"]);
        assert!(faults.hinder_writing());
        faults.well(&Place::Database);
        faults.well(&log(2));
        assert_eq!(told(&mut waiting), [""; 0]);
        faults.well(&log(1));
        assert_eq!(told(&mut waiting), ["-disk_full"]);
        assert!(faults.active().is_empty());
        assert_eq!(faults.counters().value(Counter::FaultDiskFull), 1);
    }

    #[test]
    fn a_place_has_one_fault_at_a_time() {
        let (faults, mut waiting) = Faults::new();
        faults.met(Place::Database, Fault::DatabaseLocked, "");
        faults.met(Place::Database, Fault::ReadOnly, "");
        assert_eq!(told(&mut waiting), ["+database_locked", "-database_locked", "+read_only"]);
        assert_eq!(faults.active(), [Fault::ReadOnly]);
    }

    #[test]
    fn too_many_events_are_dropped_and_counted() {
        let (faults, _waiting) = Faults::new();
        for _ in 0..WAITING_EVENTS {
            faults.met(Place::Database, Fault::DiskFull, "");
            faults.well(&Place::Database);
        }
        assert_eq!(faults.counters().value(Counter::EventsDropped), WAITING_EVENTS as u64);
    }

    #[test]
    fn the_words_of_events_and_labels_are_the_same() {
        for fault in Fault::ALL {
            assert_eq!(Counter::of_fault(fault).name().label, Some(("fault", fault.as_str())));
        }
    }
}
