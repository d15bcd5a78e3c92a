//! What a reconciliation found.

use sandpen_types::reconcile::{Leftover, LeftoverKind, ReconcileReport};
use sandpen_types::spec::SandboxKey;
use serde::{Deserialize, Serialize};

/// Answer of `POST /v1/reconcile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileReply {
    /// Sandboxes whose microVM, or pending restart, had been lost from sight and goes on, as CONFIG/NAME.
    pub adopted: Vec<String>,
    /// Sandboxes whose microVM had ended unseen.
    pub resolved: Vec<String>,
    /// What belonged to nobody.
    pub leftovers: Vec<LeftoverEntry>,
}

/// Something that belonged to nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverEntry {
    /// What it is.
    pub kind: LeftoverKind,
    /// Which one.
    pub what: String,
    /// The sandbox whose it was, as CONFIG/NAME.
    pub sandbox: Option<String>,
    /// Why it is still there; null when it is gone.
    pub error: Option<String>,
}

impl From<ReconcileReport> for ReconcileReply {
    fn from(report: ReconcileReport) -> Self {
        let names = |keys: Vec<SandboxKey>| keys.iter().map(ToString::to_string).collect();
        let leftovers = report.leftovers.into_iter().map(|Leftover { kind, what, sandbox, error }| LeftoverEntry {
            kind,
            what,
            sandbox: sandbox.map(|key| key.to_string()),
            error,
        });
        Self { adopted: names(report.adopted), resolved: names(report.resolved), leftovers: leftovers.collect() }
    }
}
