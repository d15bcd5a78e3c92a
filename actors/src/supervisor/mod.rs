//! The supervisor: makes one monitor and one log writer per live sandbox, hears of their ends, and
//! applies the restart policy.
//!
//! A child is in one [`Phase`](phase::Phase) at a time, and one verb owns it then:
//!
//! ```text
//!             StartSandbox        on record         monitor lost               too often
//!   no child ─────────────▶ Reserved ─────▶ Hosted ◀──────────────▶ Lost ─────────────────▶ GivingUp
//!      ▲ ▲                     │              │       adopted again  │ ended meanwhile          │
//!      │ └── refused, given up ┘              │ end on record        ▼                          │
//!      │                                      ├─ monitor lost ─▶ Releasing                      │
//!      │                             released │                      │                          │
//!      │     no restart                       ▼                      ▼                          ▼
//!      ├◀──────────────────────────────── restart policy ◀──────────────────────────────────────┘
//!      ├◀── Leaving ◀── remove_on_end ────┘   │ restart; a late stop
//!      │                                      ▼
//!      ├◀──────────── stop recorded ───── Recording ◀── the pause is over, a stop ── Backoff
//!      │                                   │    └────────── BACKOFF recorded ───────────▲
//!      │                                   └─ STARTING recorded ─▶ Hosted
//!      │ RemoveSandbox, Reconcile
//!      ├─────────────▶ Removing ─▶ no child; a reconciliation may find: Lost, Recording, Backoff
//! ```
//!
//! A child's key is taken from the first moment of a start to the last one of its clean-up, so that
//! two requests for one name can never meet. Which request is admitted in which phase: [`admits`].

mod actor;
mod admission;
mod admits;
mod adopt;
mod child;
mod disks;
mod error;
mod first_look;
mod helpers;
mod host;
mod jobs;
mod leftovers;
mod messages;
mod nesting;
mod open;
mod orphans;
mod phase;
mod reconcile;
mod record;
mod release;
mod removal_hold;
mod remove;
mod rename;
mod restart;
mod restart_policy;
mod shutdown;
mod start;
mod stop;
mod succession;
#[cfg(test)]
mod tests;
mod tree_removals;
mod volumes;
mod wait;

pub use actor::{Supervisor, SupervisorConfig};
pub use admission::guests_within;
pub use error::SupervisorError;
pub use messages::*;
pub use removal_hold::RemovalHold;
pub use stop::RECORD_LIMIT;
