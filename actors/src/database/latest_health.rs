//! What health checks said last and no batch has written yet: one value for each sandbox, however often its
//! check runs.

use std::collections::HashMap;

use super::{RecordHealth, SandboxId, SandboxRow};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LatestHealth(HashMap<SandboxId, RecordHealth>);

impl LatestHealth {
    /// Takes the place of what the check said before. News stay news until they are written; answers whether it is.
    pub(super) fn put(&mut self, mut record: RecordHealth) -> bool {
        if let Some(before) = self.0.get(&record.sandbox) {
            if before.generation > record.generation {
                return false;
            }
            record.is_news |= before.is_news && before.generation == record.generation;
        }
        let is_news = record.is_news;
        self.0.insert(record.sandbox, record);
        is_news
    }

    /// Whether one of them is worth a commit of its own.
    pub(super) fn has_news(&self) -> bool {
        self.0.values().any(|record| record.is_news)
    }

    /// For the next batch. They stay here until they are written.
    pub(super) fn all(&self) -> Vec<RecordHealth> {
        self.0.values().cloned().collect()
    }

    /// Forgets what was written, unless something newer has come meanwhile.
    pub(super) fn written(&mut self, written: &[RecordHealth]) {
        for record in written {
            if self.0.get(&record.sandbox) == Some(record) {
                self.0.remove(&record.sandbox);
            }
        }
    }

    /// A sandbox that is being removed.
    pub(super) fn forget(&mut self, sandbox: SandboxId) {
        self.0.remove(&sandbox);
    }

    /// Brings a row that was read up to date.
    pub(super) fn apply(&self, row: &mut SandboxRow) {
        if let Some(record) = self.0.get(&row.id)
            && record.generation == row.generation
        {
            row.health = Some(record.health.clone());
        }
    }
}
