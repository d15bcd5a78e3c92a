//! No sandbox starts with something that another live one's guest could put something else in the place of: looked
//! at before a start is on record, and again before each restart.
//!
//! ```text
//!   places of the new one, and of live ones that are not known yet ─▶ compared, and kept: in one turn, so that of two
//!   (another thread)                                                  starts at the same time the second one is refused
//! ```

use std::sync::Arc;

use sandpen_types::spec::{SandboxKey, SandboxSpec};
use sandpen_vmm::blocking::blocking;

use super::SupervisorError;
use super::actor::Supervisor;
use crate::host::mounts;
use crate::host::places::{Nested, Places};

/// Where things lie now.
pub(super) struct LookedUp {
    own: Places,
    /// Of sandboxes that were live when it was looked.
    others: Vec<(SandboxKey, Places)>,
}

/// What is to be looked up.
pub(super) struct LookUp(Vec<(SandboxKey, Arc<SandboxSpec>)>);

impl LookUp {
    /// Looks, for one that is to be started and has real paths.
    pub(super) async fn done(self, spec: Arc<SandboxSpec>) -> Result<LookedUp, SupervisorError> {
        let looked = move || {
            let mounts = mounts::now();
            let own = Places::of(&spec, &mounts);
            let others = self.0.into_iter().map(|(key, spec)| (key, Places::of(&spec, &mounts)));
            LookedUp { own, others: others.collect() }
        };
        blocking(looked).await.map_err(|_| SupervisorError::Gone)
    }
}

impl Supervisor {
    /// Whose places are not known: sandboxes that an earlier orchestrator started.
    pub(super) fn look_up(&self) -> LookUp {
        let unknown = self.children.iter().filter(|(_, child)| child.places.is_none());
        let of_rows = unknown.filter_map(|(key, child)| Some((key.clone(), child.row()?.spec.clone())));
        LookUp(of_rows.collect())
    }

    /// Keeps the places of one that is about to start, if it can be beside all that live.
    pub(super) fn take_places(
        &mut self,
        key: &SandboxKey,
        LookedUp { own, others }: LookedUp,
    ) -> Result<(), Box<Nested>> {
        for (other, places) in others {
            if let Some(child) = self.children.get_mut(&other).filter(|child| child.places.is_none()) {
                child.places = Some(places);
            }
        }
        own.check_own(key)?;
        for (other, child) in self.children.iter().filter(|(other, _)| *other != key) {
            let has_ended = child.row().is_some_and(|row| row.state.is_ended());
            if let Some(places) = child.places.as_ref().filter(|_| !has_ended) {
                own.check_apart(key, places, other)?;
            }
        }
        if let Some(child) = self.children.get_mut(key) {
            child.places = Some(own);
        }
        Ok(())
    }
}
