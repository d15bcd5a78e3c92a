//! What is counted, from the start of an orchestrator on: failures, retries, refusals, restarts.
//!
//! One number per [`Counter`], which any actor adds to without waiting for another one. They begin at
//! zero with each orchestrator; what must outlive it is an event. Names follow Prometheus: they end
//! with `_total`, and counters of one name differ in one label.

use std::sync::atomic::{AtomicU64, Ordering};

/// What one number counts. To add one: a variant here and in [`Counter::ALL`], a line in
/// [`Counter::name`]; its name goes to `docs/operations.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "help() says what they count")]
pub enum Counter {
    Starts,
    Restarts,
    RefusedSpec,
    RefusedName,
    RefusedOpenFiles,
    RefusedDiskFull,
    RefusedReadOnly,
    RefusedDatabase,
    RefusedDriver,
    RefusedShuttingDown,
    RefusedOther,
    StartFailures,
    Adopted,
    SupervisorRestarts,
    DatabaseRestarts,
    MonitorRestarts,
    LogWriterRestarts,
    JobKeeperRestarts,
    LogBytes,
    LogDroppedStdout,
    LogDroppedStderr,
    LogFailures,
    LogRetries,
    DatabaseBusy,
    DatabaseFull,
    DatabaseReadOnly,
    DatabaseOther,
    DatabaseRetries,
    FaultDiskFull,
    FaultReadOnly,
    FaultStorageFailed,
    FaultDatabaseLocked,
    FaultOpenFiles,
    FaultProcesses,
    FaultClockJumped,
    VmmsSuspended,
    EventsDropped,
    LeftUnrecorded,
}

/// The name of a counter, and the label that tells it from others of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterName {
    /// As Prometheus wants it.
    pub name: &'static str,
    /// Key and value.
    pub label: Option<(&'static str, &'static str)>,
}

impl Counter {
    /// All, those of one name together, in the order of the enum.
    pub const ALL: [Self; 38] = [
        Self::Starts,
        Self::Restarts,
        Self::RefusedSpec,
        Self::RefusedName,
        Self::RefusedOpenFiles,
        Self::RefusedDiskFull,
        Self::RefusedReadOnly,
        Self::RefusedDatabase,
        Self::RefusedDriver,
        Self::RefusedShuttingDown,
        Self::RefusedOther,
        Self::StartFailures,
        Self::Adopted,
        Self::SupervisorRestarts,
        Self::DatabaseRestarts,
        Self::MonitorRestarts,
        Self::LogWriterRestarts,
        Self::JobKeeperRestarts,
        Self::LogBytes,
        Self::LogDroppedStdout,
        Self::LogDroppedStderr,
        Self::LogFailures,
        Self::LogRetries,
        Self::DatabaseBusy,
        Self::DatabaseFull,
        Self::DatabaseReadOnly,
        Self::DatabaseOther,
        Self::DatabaseRetries,
        Self::FaultDiskFull,
        Self::FaultReadOnly,
        Self::FaultStorageFailed,
        Self::FaultDatabaseLocked,
        Self::FaultOpenFiles,
        Self::FaultProcesses,
        Self::FaultClockJumped,
        Self::VmmsSuspended,
        Self::EventsDropped,
        Self::LeftUnrecorded,
    ];

    /// Its name.
    pub const fn name(self) -> CounterName {
        let (name, label) = match self {
            Self::Starts => ("sandpen_starts_total", Some(("by", "request"))),
            Self::Restarts => ("sandpen_starts_total", Some(("by", "policy"))),
            Self::RefusedSpec => ("sandpen_starts_refused_total", Some(("reason", "invalid_spec"))),
            Self::RefusedName => ("sandpen_starts_refused_total", Some(("reason", "in_use"))),
            Self::RefusedOpenFiles => ("sandpen_starts_refused_total", Some(("reason", "open_files"))),
            Self::RefusedDiskFull => ("sandpen_starts_refused_total", Some(("reason", "disk_full"))),
            Self::RefusedReadOnly => ("sandpen_starts_refused_total", Some(("reason", "read_only"))),
            Self::RefusedDatabase => ("sandpen_starts_refused_total", Some(("reason", "database"))),
            Self::RefusedDriver => ("sandpen_starts_refused_total", Some(("reason", "driver"))),
            Self::RefusedShuttingDown => ("sandpen_starts_refused_total", Some(("reason", "shutting_down"))),
            Self::RefusedOther => ("sandpen_starts_refused_total", Some(("reason", "other"))),
            Self::StartFailures => ("sandpen_start_failures_total", None),
            Self::Adopted => ("sandpen_adopted_total", None),
            Self::SupervisorRestarts => ("sandpen_actor_restarts_total", Some(("actor", "supervisor"))),
            Self::DatabaseRestarts => ("sandpen_actor_restarts_total", Some(("actor", "database"))),
            Self::MonitorRestarts => ("sandpen_actor_restarts_total", Some(("actor", "monitor"))),
            Self::LogWriterRestarts => ("sandpen_actor_restarts_total", Some(("actor", "log_writer"))),
            Self::JobKeeperRestarts => ("sandpen_actor_restarts_total", Some(("actor", "job_keeper"))),
            Self::LogBytes => ("sandpen_log_bytes_total", None),
            Self::LogDroppedStdout => ("sandpen_log_dropped_bytes_total", Some(("stream", "stdout"))),
            Self::LogDroppedStderr => ("sandpen_log_dropped_bytes_total", Some(("stream", "stderr"))),
            Self::LogFailures => ("sandpen_log_failures_total", None),
            Self::LogRetries => ("sandpen_log_retries_total", None),
            Self::DatabaseBusy => ("sandpen_database_failures_total", Some(("cause", "locked"))),
            Self::DatabaseFull => ("sandpen_database_failures_total", Some(("cause", "disk_full"))),
            Self::DatabaseReadOnly => ("sandpen_database_failures_total", Some(("cause", "read_only"))),
            Self::DatabaseOther => ("sandpen_database_failures_total", Some(("cause", "other"))),
            Self::DatabaseRetries => ("sandpen_database_retries_total", None),
            Self::FaultDiskFull => ("sandpen_faults_total", Some(("fault", "disk_full"))),
            Self::FaultReadOnly => ("sandpen_faults_total", Some(("fault", "read_only"))),
            Self::FaultStorageFailed => ("sandpen_faults_total", Some(("fault", "storage_failed"))),
            Self::FaultDatabaseLocked => ("sandpen_faults_total", Some(("fault", "database_locked"))),
            Self::FaultOpenFiles => ("sandpen_faults_total", Some(("fault", "open_files"))),
            Self::FaultProcesses => ("sandpen_faults_total", Some(("fault", "processes"))),
            Self::FaultClockJumped => ("sandpen_faults_total", Some(("fault", "clock_jumped"))),
            Self::VmmsSuspended => ("sandpen_vmms_suspended_total", None),
            Self::EventsDropped => ("sandpen_events_dropped_total", None),
            Self::LeftUnrecorded => ("sandpen_left_unrecorded_total", None),
        };
        CounterName { name, label }
    }

    /// What counters of its name count, one line.
    pub fn help(self) -> &'static str {
        match self.name().name {
            "sandpen_starts_total" => "Sandboxes that were started, by request or by their restart policy.",
            "sandpen_starts_refused_total" => "Starts that were refused before anything was made, by reason.",
            "sandpen_start_failures_total" => "Starts that failed on the way: no process, no memory, no driver.",
            "sandpen_adopted_total" => "MicroVMs and pending restarts of an earlier orchestrator that were taken over.",
            "sandpen_actor_restarts_total" => "Actors that panicked and were followed by another one.",
            "sandpen_log_bytes_total" => "Bytes of output written to logs.",
            "sandpen_log_dropped_bytes_total" => "Bytes of output dropped while logs could not be written, by stream.",
            "sandpen_log_failures_total" => "Times that a log could no longer be written.",
            "sandpen_log_retries_total" => "Failed attempts to write a log; its bytes wait in their pipe.",
            "sandpen_database_failures_total" => "Writes that the database refused, by cause.",
            "sandpen_database_retries_total" => {
                "Failed attempts to record a state change or an event, which were repeated."
            }
            "sandpen_faults_total" => "Faults of the host that began, by kind.",
            "sandpen_vmms_suspended_total" => "VMM processes that did not answer and were found suspended by a signal.",
            "sandpen_events_dropped_total" => "Events that were never recorded: too many waited for a disk with room.",
            "sandpen_left_unrecorded_total" => "Sandboxes whose end is left to the next orchestrator to record.",
            _ => "",
        }
    }
}

/// All numbers.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Counter::ALL.len()])
    }
}

impl Counters {
    /// Adds to one.
    pub fn add(&self, counter: Counter, count: u64) {
        if let Some(number) = self.0.get(counter as usize) {
            // Nothing else is ordered by it.
            number.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Adds one.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Reads one.
    pub fn value(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).map_or(0, |number| number.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_counter_has_a_place_a_name_of_its_own_and_help() {
        let counters = Counters::default();
        let mut names = HashSet::new();
        for (at, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, at, "{counter:?}");
            let CounterName { name, label } = counter.name();
            assert!(names.insert((name, label)), "{counter:?}");
            assert!(name.starts_with("sandpen_") && name.ends_with("_total"), "{counter:?}");
            assert!(counter.help().ends_with('.'), "{counter:?}");
            counters.add(counter, at as u64);
        }
        for (at, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counters.value(counter), at as u64);
        }
    }

    #[test]
    fn counters_of_one_name_are_together_and_have_one_label() {
        let names = Counter::ALL.map(|counter| counter.name().name);
        let mut seen = Vec::new();
        for name in names {
            if seen.last() != Some(&name) {
                assert!(!seen.contains(&name), "{name} is in two places");
                seen.push(name);
            }
        }
        for name in seen {
            let of_name = Counter::ALL.into_iter().map(Counter::name).filter(|counter| counter.name == name);
            let keys: HashSet<_> = of_name.map(|counter| counter.label.map(|(key, _)| key)).collect();
            assert_eq!(keys.len(), 1, "{name}");
        }
    }
}
