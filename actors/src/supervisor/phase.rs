//! Where a child stands, and what belongs to that: the state of the supervisor's side of one sandbox. The diagram
//! is in [`super`].

use actix::{Addr, SpawnHandle};
use sandpen_types::spec::CheckedSpec;
use tokio_util::sync::CancellationToken;

use crate::jobs::JobKeeper;
use crate::log_writer::LogWriter;
use crate::monitor::Monitor;

/// See the module. In every phase one verb owns the child: the one that will lead it to the next.
pub(super) enum Phase {
    /// Its start is not on record yet: it is checked, and then written. Until then it can be given up.
    Reserved {
        /// Gives it up.
        give_up: CancellationToken,
        /// What it is to be: its named disk nobody else may take meanwhile, its volumes nobody remove.
        spec: CheckedSpec,
    },
    /// A monitor looks after its microVM, and releases it after its end.
    Hosted {
        /// The monitor; it has ended where its [`Down`](crate::monitor::Down) is on its way.
        monitor: Addr<Monitor>,
        /// The log writer; `None` once it has closed the log. It has ended where its loss is still to be heard of.
        log: Option<Addr<LogWriter>>,
        /// The keeper of its jobs; `None` once each job's end is on record. As the log writer it may have ended.
        jobs: Option<Addr<JobKeeper>>,
    },
    /// Its monitor was lost: its row is read, then its microVM is found again.
    Lost {
        /// The log writer, which the next monitor goes on with.
        log: Option<Addr<LogWriter>>,
        /// The keeper of its jobs, likewise.
        jobs: Option<Addr<JobKeeper>>,
    },
    /// Its monitors failed too often: its microVM is killed, and that is recorded.
    GivingUp,
    /// Its end is on record and its monitor lost: what is left of its microVM is found and released.
    Releasing,
    /// Nothing of it runs, and what follows its end is being recorded: BACKOFF, a start or a stop.
    Recording,
    /// It is started again when the timer fires.
    Backoff {
        /// The timer, of the supervisor of the moment.
        timer: SpawnHandle,
    },
    /// It has ended and removes itself: row, log and disk go.
    Leaving,
    /// No live sandbox: its name is taken while its files go, or while a reconciliation looks at it.
    Removing,
}

/// A [`Phase`] without its data, as rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(PartialOrd, Ord))]
pub(super) enum PhaseKind {
    /// There is no child.
    Absent,
    /// [`Phase::Reserved`].
    Reserved,
    /// [`Phase::Hosted`], live.
    Hosted,
    /// [`Phase::Hosted`], its end on record: its monitor releases what is left.
    Ending,
    /// [`Phase::Lost`].
    Lost,
    /// [`Phase::GivingUp`].
    GivingUp,
    /// [`Phase::Releasing`].
    Releasing,
    /// [`Phase::Recording`].
    Recording,
    /// [`Phase::Backoff`].
    Backoff,
    /// [`Phase::Leaving`].
    Leaving,
    /// [`Phase::Removing`].
    Removing,
}

impl Phase {
    /// Without its data; `has_ended`: as the row says.
    pub(super) fn kind(&self, has_ended: bool) -> PhaseKind {
        match self {
            Self::Reserved { .. } => PhaseKind::Reserved,
            Self::Hosted { .. } if has_ended => PhaseKind::Ending,
            Self::Hosted { .. } => PhaseKind::Hosted,
            Self::Lost { .. } => PhaseKind::Lost,
            Self::GivingUp => PhaseKind::GivingUp,
            Self::Releasing => PhaseKind::Releasing,
            Self::Recording => PhaseKind::Recording,
            Self::Backoff { .. } => PhaseKind::Backoff,
            Self::Leaving => PhaseKind::Leaving,
            Self::Removing => PhaseKind::Removing,
        }
    }
}

impl PhaseKind {
    /// The phases that may follow this one under one supervisor.
    pub(super) fn successors(self) -> &'static [Self] {
        use PhaseKind::{
            Absent, Backoff, Ending, GivingUp, Hosted, Leaving, Lost, Recording, Releasing, Removing, Reserved,
        };
        match self {
            Absent => &[Reserved, Removing],
            Reserved => &[Hosted, Absent],
            Hosted => &[Ending, Lost, Absent],
            Ending => &[Releasing, Recording, Leaving, Absent],
            Lost => &[Hosted, GivingUp, Releasing, Absent],
            GivingUp | Releasing => &[Recording, Leaving, Absent],
            Recording => &[Recording, Hosted, Backoff, Leaving, Absent],
            Backoff => &[Recording],
            Leaving => &[Absent],
            // The rows of a reconciliation: adopted, started again, waiting for that already.
            Removing => &[Absent, Lost, Recording, Backoff],
        }
    }
}
