//! No sandbox starts with something that another live one's guest could put something else in the place of: looked
//! at before a start is on record, and again before each restart.
//!
//! ```text
//!   places of the new one, and of live ones that are not known yet ─▶ kept, and compared: in one turn, so that of two
//!   (another thread)                                                  starts at the same time the second one is refused
//!   hosted ─▶ those that are kept compared again: with a restart that is refused, or whose monitor was lost, as well
//! ```

use std::sync::Arc;

use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{SandboxKey, SandboxSpec};
use sandpen_types::state::SandboxState;
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::driver::DriverError;

use super::SupervisorError;
use super::actor::Supervisor;
use super::child::Child;
use crate::host::mounts;
use crate::host::places::{Nested, Places};
use crate::monitor::StartMode;

/// Where things lie now.
pub(super) struct LookedUp {
    own: Places,
    /// Of sandboxes that were live when it was looked.
    others: Vec<(SandboxKey, Places)>,
}

/// What is to be looked up.
pub(super) struct LookUp {
    sandboxes: Vec<(SandboxKey, Arc<SandboxSpec>)>,
    dir: StateDir,
}

impl LookUp {
    /// Looks, for one that is to be started and has real paths.
    pub(super) async fn done(self, spec: Arc<SandboxSpec>) -> Result<LookedUp, SupervisorError> {
        let looked = move || {
            let mounts = mounts::now();
            let of = |spec: &SandboxSpec| Places::of(spec, &self.dir, &mounts);
            let others = self.sandboxes.iter().map(|(key, spec)| (key.clone(), of(spec)));
            LookedUp { own: of(&spec), others: others.collect() }
        };
        blocking(looked).await.map_err(|_| SupervisorError::Gone)
    }
}

impl Supervisor {
    /// Whose places are not known: sandboxes that an earlier orchestrator started.
    pub(super) fn look_up(&self) -> LookUp {
        let unknown = self.children.iter().filter(|(_, child)| child.places.is_none());
        let of_rows = unknown.filter_map(|(key, child)| Some((key.clone(), child.row()?.spec.clone())));
        LookUp { sandboxes: of_rows.collect(), dir: self.config.state_dir.clone() }
    }

    /// Keeps the places of one that is about to start, and of those that were not known.
    pub(super) fn note_places(&mut self, key: &SandboxKey, LookedUp { own, others }: LookedUp) {
        for (other, places) in others {
            if let Some(child) = self.children.get_mut(&other).filter(|child| child.places.is_none()) {
                child.places = Some(places);
            }
        }
        if let Some(child) = self.children.get_mut(key) {
            child.places = Some(own);
        }
    }

    /// One that is refused is in nobody's way.
    pub(super) fn forget_places(&mut self, key: &SandboxKey) {
        if let Some(child) = self.children.get_mut(key) {
            child.places = None;
        }
    }

    /// Whether one whose places are kept can be beside all that live.
    pub(super) fn check_places(&self, key: &SandboxKey) -> Result<(), Box<Nested>> {
        let Some(own) = self.children.get(key).and_then(|child| child.places.as_ref()) else { return Ok(()) };
        own.check_own(key)?;
        for (other, child) in self.children.iter().filter(|(other, child)| *other != key && may_run(child)) {
            if let Some(places) = &child.places {
                own.check_apart(key, places, other)?;
            }
        }
        Ok(())
    }

    /// Why no microVM may be made for a row that is about to be hosted. Asked anew for each monitor, since the one before
    /// may be lost with its answer.
    pub(super) fn refuse_nested(&mut self, row: &SandboxRow, mode: StartMode) -> Option<DriverError> {
        let is_made = mode != StartMode::Adopt && row.state == SandboxState::Starting;
        let nested = if is_made { self.check_places(&row.spec.key).err() } else { None };
        if let Some(child) = self.children.get_mut(&row.spec.key) {
            child.is_refused = nested.is_some();
        }
        // Told as any start that fails: its policy decides what follows.
        let step = || "looking at what other sandboxes can write to".to_owned();
        nested.map(|source| DriverError::Launch { step: step(), source })
    }
}

/// Whether it has a guest, or may get one. Of two that are in each other's way one is refused, not both.
fn may_run(child: &Child) -> bool {
    match child.row().map(|row| &row.state) {
        Some(SandboxState::Starting) => !child.is_refused,
        Some(state) => !state.is_ended(),
        None => true,
    }
}
