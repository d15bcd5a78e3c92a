//! A VMM process that a signal has suspended (SIGSTOP, a debugger): nothing tells so by itself, so it is looked
//! for where the microVM does not do what it was asked. Nothing waits for that look.

use sandpen_types::event::EventKind;
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::process_identity::is_suspended;

use crate::telemetry::counters::Counter;

use super::life::Life;

impl Life {
    /// Begins a look, if none is under way.
    pub(super) fn look_if_suspended(&mut self) {
        let Some(pid) = self.vmm().and_then(|vmm| vmm.process.pid()) else { return };
        self.looking.get_or_insert_with(|| {
            let looked = blocking(move || is_suspended(pid).unwrap_or(false));
            Box::pin(async move { looked.await.unwrap_or(false) })
        });
    }

    /// An event, once for each time that it is found suspended after it was not.
    pub(super) fn on_looked(&mut self, now: bool) {
        if now && !self.suspended {
            let sandbox = &self.config.row.spec.key;
            let pid = self.vmm().and_then(|vmm| vmm.process.pid()).unwrap_or(0);
            tracing::warn!(pid, "the VMM process is suspended");
            self.config.faults.count(Counter::VmmsSuspended);
            self.config.faults.tell_of_sandbox(Some(sandbox), EventKind::VmmSuspended { pid });
        }
        self.suspended = now;
    }
}
