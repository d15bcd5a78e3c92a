//! The starts of sandboxes.

use super::*;

impl Chaos {
    pub(super) fn may_start(&self, kind: Kind) -> bool {
        let live = |sandbox: &&Sandbox| sandbox.kind == kind && !matches!(sandbox.life, Life::Ended | Life::Removing);
        let is_there = self.kvm || matches!(kind, Kind::Writer | Kind::Linux);
        is_there && self.sandboxes.iter().filter(live).count() < most(kind)
    }

    pub(super) fn start(&mut self, kind: Kind) {
        if !self.may_start(kind) {
            return;
        }
        self.next_name += 1;
        self.report.sandboxes += 1;
        self.sandboxes.push(Sandbox {
            name: format!("{}-{}", format!("{kind:?}").to_lowercase(), self.next_name),
            kind,
            life: Life::Ended,
            starts: Vec::new(),
            generation: 0,
            vmm: None,
            since: Instant::now(),
            paused: false,
            waiter_killed: WaiterKilled::Never,
            complete: false,
            final_length: None,
            verified: 0,
        });
        self.run(self.sandboxes.len() - 1);
    }
}
