//! What the database's writes say about the host: whether it can be written, and what hinders it.

use std::path::PathBuf;

use sandpen_types::error_chain::error_chain;
use sandpen_types::fault::Fault;
use sandpen_vmm::blocking::blocking;

use super::DatabaseError;
use super::batch::Refusal;
use crate::host::fault_of::fault_of_io;
use crate::telemetry::counters::Counter;
use crate::telemetry::faults::{Faults, Place};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct WriteFaults {
    faults: Faults,
    /// The file's directory.
    dir: PathBuf,
}

impl WriteFaults {
    /// Of a file in `dir`.
    pub(super) fn new(faults: Faults, dir: PathBuf) -> Self {
        Self { faults, dir }
    }

    /// Times are about to be written down: a jump of the clock is told first.
    pub(super) fn look_at_clock(&self) {
        self.faults.look_at_clock();
    }

    /// Tells how a write went. SQLite says "I/O error" to many things: the directory is asked then.
    pub(super) async fn note(&self, written: Result<(), &Refusal>) {
        let Err(refusal) = written else { return self.faults.clear(&Place::Database) };
        let error = DatabaseError::from(refusal);
        let Some(mut fault) = error.fault() else { return };
        if fault == Fault::StorageFailed {
            let dir = self.dir.clone();
            let probed = blocking(move || crate::host::room::try_to_write(&dir)).await;
            if let Ok(Err(error)) = probed {
                fault = fault_of_io(&error);
            }
        }
        self.faults.count(match fault {
            Fault::DatabaseLocked => Counter::DatabaseBusy,
            Fault::DiskFull => Counter::DatabaseFull,
            Fault::ReadOnly => Counter::DatabaseReadOnly,
            _ => Counter::DatabaseOther,
        });
        self.faults.raise(Place::Database, fault, &error_chain(&error));
    }
}
