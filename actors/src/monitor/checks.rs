//! A monitor's health checks: when one is due it is asked, and what it says may end the workload. What the answers
//! mean is [`super::health`]'s.

use std::time::Instant;

use sandpen_types::state::Event;
use sandpen_vmm::driver::{ProbeOutcome, ProbeStatus};

use super::edges::Ending;
use super::ending::TIME_LIMIT_GRACE;
use super::life::Life;
use crate::database::RecordHealth;

impl Life {
    /// Asks the workload how it is, when that is due.
    pub(super) fn check_health(&mut self) {
        let Some(vmm) = self.vmm() else { return };
        if let Some(check) = self.health.as_mut().and_then(|health| health.begin(Instant::now())) {
            let asked = vmm.guest.probe(check.command, check.timeout);
            self.checking = Some(Box::pin(async move { asked.await.map_err(|error| error.chain()) }));
        }
    }

    pub(super) fn on_checked(&mut self, answer: &Result<ProbeOutcome, String>) {
        if !matches!(answer, Ok(outcome) if matches!(outcome.end, ProbeStatus::Ended(_))) {
            self.look_if_suspended();
        }
        let Some(health) = &mut self.health else { return };
        let crash = health.take(answer, Instant::now());
        let now = health.state().clone();
        let before = self.config.row.health.as_ref();
        if before != Some(&now) {
            let is_news = before.is_none_or(|before| before.status != now.status);
            let (sandbox, generation) = (self.config.row.id, self.config.row.generation);
            self.config.row.health = Some(now.clone());
            self.config.database.tell(RecordHealth { sandbox, generation, health: now, is_news });
        }
        if let Some(reason) = crash {
            self.end_with(Event::Faulted(reason), Ending::Ask(TIME_LIMIT_GRACE), None);
        }
    }
}
