//! A VMM process that a signal has suspended (SIGSTOP, a debugger): nothing tells so by itself, so it is looked
//! for where the microVM does not do what it was asked.

use crate::counters::Counter;
use crate::database::Happening;
use crate::driver::VmmProcess;
use crate::process_identity::is_suspended;
use crate::reading::off_this_thread;

use super::life::Life;

impl Life {
    /// An event, once for each time that it is found suspended after it was not.
    pub(super) async fn tell_if_suspended(&mut self, process: &dyn VmmProcess) {
        let Some(pid) = process.pid() else { return };
        let now = off_this_thread(move || is_suspended(pid).unwrap_or(false)).await.unwrap_or(false);
        if now && !self.suspended {
            let sandbox = &self.config.row.spec.key;
            tracing::warn!(%sandbox, pid, "the VMM process is suspended");
            self.config.faults.count(Counter::VmmsSuspended);
            self.config.faults.tell_of_sandbox(Some(sandbox), Happening::VmmSuspended { pid });
        }
        self.suspended = now;
    }
}
