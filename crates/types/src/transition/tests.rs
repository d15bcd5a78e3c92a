//! What each step does to the row, and that its record says the same.

use std::sync::Arc;

use super::*;
use crate::health::{HealthState, HealthStatus};
use crate::spec::{Rootfs, SandboxName, SandboxSpec};
use crate::state::{ExitStatus, FailureReason, Status};

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + SECOND * u32::try_from(seconds).unwrap()
}

/// A sandbox in its third generation, of which two were restarts; a run of ten seconds is healthy.
fn row(state: SandboxState) -> SandboxRow {
    let name = SandboxName::new("a").unwrap();
    let spec = SandboxSpec::new(name, Rootfs::Native("/r".into()), vec!["/bin/true".into()]);
    assert_eq!(spec.restart_backoff.healthy_after, SECOND * 10);
    let is_live = state.is_live();
    SandboxRow {
        id: 5,
        spec: Arc::new(spec),
        seq: 9,
        generation: 3,
        restarts: 2,
        restarts_in_a_row: 2,
        keeps_disk: false,
        stopped_by: None,
        health: Some(HealthState { status: HealthStatus::Failing, failures: 1, output: "x".into() }),
        boot_id: Some("boot".into()),
        driver: Some("qemu".into()),
        microvm_pid: is_live.then_some(77),
        supervisor_pid: 7,
        created_at: at(0),
        started_at: Some(at(100)),
        ended_at: (!is_live).then_some(at(105)),
        updated_at: at(105),
        state,
    }
}

/// A step that changes something; its record has to say what the row says.
fn step(row: &SandboxRow, event: &Event, seconds: u64, ran: Option<Duration>) -> SandboxRow {
    let (after, record) = advance(row, event, at(seconds), ran).unwrap().expect("a step");
    assert_eq!((after.seq, after.updated_at), (row.seq + 1, at(seconds)));
    let expected = Transition {
        sandbox: 5,
        seq: after.seq,
        generation: after.generation,
        event: event.name().to_owned(),
        state: after.state.clone(),
        at: at(seconds),
        microvm_pid: after.microvm_pid,
        supervisor_pid: 7,
        driver: Some("qemu".into()),
        restarts: after.restarts,
        restarts_in_a_row: after.restarts_in_a_row,
        stopped_by: after.stopped_by,
        boot_id: Some("boot".into()),
    };
    assert_eq!(record, expected);
    after
}

fn stop() -> Event {
    Event::StopRequested(StopCause::Requested)
}

fn shutdown() -> Event {
    Event::StopRequested(StopCause::OrchestratorEnds)
}

fn stopped(code: i32) -> SandboxState {
    SandboxState::Stopped { exit: ExitStatus::Code(code) }
}

fn backoff() -> SandboxState {
    SandboxState::Backoff { until: at(110) }
}

/// The end of a run: the workload's exit is known, the VMM goes.
fn end(mut row: SandboxRow, seconds: u64, ran: Option<Duration>) -> SandboxRow {
    row.state = SandboxState::Stopping { cause: StopCause::WorkloadEnded, exit: Some(ExitStatus::Code(1)) };
    step(&row, &Event::VmmExited(ExitStatus::Code(0)), seconds, ran)
}

#[test]
fn a_start_by_request_begins_a_new_count_and_forgets_the_last_run() {
    let mut before = row(stopped(1));
    before.stopped_by = Some(StoppedBy::Request);
    before.microvm_pid = Some(77);
    let after = step(&before, &Event::StartRequested, 200, None);
    assert_eq!((after.generation, after.restarts, after.restarts_in_a_row), (4, 0, 0));
    assert_eq!((after.started_at, after.ended_at, after.microvm_pid, after.health), (None, None, None, None));
    assert_eq!((after.state, after.stopped_by), (SandboxState::Starting, None));
}

#[test]
fn a_start_after_a_pause_counts_as_a_restart() {
    let after = step(&row(backoff()), &Event::StartRequested, 200, None);
    assert_eq!((after.generation, after.restarts, after.restarts_in_a_row), (4, 3, 3));
    assert_eq!((after.started_at, after.ended_at), (None, None));
}

#[test]
fn a_run_begins_when_the_workload_does() {
    let mut before = row(SandboxState::Starting);
    before.started_at = None;
    let after = step(&before, &Event::WorkloadStarted, 200, None);
    assert_eq!((after.state, after.started_at), (SandboxState::Running, Some(at(200))));
    assert_eq!((after.generation, after.restarts, after.microvm_pid), (3, 2, Some(77)));
}

#[test]
fn an_end_has_a_time_and_no_process() {
    let after = end(row(SandboxState::Running), 105, None);
    assert_eq!((after.state, after.ended_at, after.microvm_pid), (stopped(1), Some(at(105)), None));
    let after = step(&row(SandboxState::Running), &Event::VmmExited(ExitStatus::Code(0)), 105, None);
    assert_eq!((after.state.status(), after.ended_at, after.microvm_pid), (Status::Failed, Some(at(105)), None));
}

#[test]
fn only_a_run_that_was_long_enough_begins_a_new_count_in_a_row() {
    let running = || row(SandboxState::Running);
    // By the row's times.
    assert_eq!(end(running(), 109, None).restarts_in_a_row, 2);
    assert_eq!(end(running(), 110, None).restarts_in_a_row, 0);
    // What was measured counts more than what the clocks say, which may have been set.
    assert_eq!(end(running(), 500, Some(SECOND * 9)).restarts_in_a_row, 2);
    assert_eq!(end(running(), 101, Some(SECOND * 10)).restarts_in_a_row, 0);
    // A clock that was set back: no run at all.
    assert_eq!(end(running(), 50, None).restarts_in_a_row, 2);
    // It never ran.
    let starting = SandboxRow { started_at: None, ..row(SandboxState::Starting) };
    let failed = step(&starting, &Event::SpawnFailed(FailureReason::Lost), 500, None);
    assert_eq!((failed.restarts_in_a_row, failed.restarts), (2, 2));
    let mut any = (*starting.spec).clone();
    any.restart_backoff.healthy_after = Duration::ZERO;
    let gone = SandboxRow { spec: Arc::new(any), ..starting };
    let ended = step(&gone, &Event::VmmExited(ExitStatus::Code(0)), 500, Some(Duration::ZERO));
    assert_eq!(ended.restarts_in_a_row, 2, "a start that came to nothing is no run");
    assert_eq!(end(running(), 110, None).restarts, 2, "those since the start by request stay");
}

#[test]
fn time_that_passes_in_the_pause_is_no_run() {
    let after = step(&row(backoff()), &stop(), 500, None);
    assert_eq!((after.state.status(), after.restarts_in_a_row), (Status::Stopped, 2));
}

#[test]
fn a_stop_after_the_end_changes_only_who_asked() {
    let before = row(stopped(1));
    let after = step(&before, &stop(), 500, None);
    assert_eq!(after.stopped_by, Some(StoppedBy::Request));
    let expected = SandboxRow { seq: 10, updated_at: at(500), stopped_by: after.stopped_by, ..before };
    assert_eq!(after, expected);
}

#[test]
fn what_changes_nothing_is_no_step() {
    let mut stopping = row(SandboxState::Stopping { cause: StopCause::Requested, exit: None });
    stopping.stopped_by = Some(StoppedBy::Request);
    assert_eq!(advance(&stopping, &stop(), at(200), None), Ok(None));
    assert_eq!(advance(&stopping, &Event::WorkloadStarted, at(200), None), Ok(None));
    let refused = advance(&row(SandboxState::Created), &stop(), at(200), None);
    assert_eq!(refused, Err(NoSuchEdge { status: Status::Created, event: "StopRequested" }));
}

/// The restart policy brings back what only the orchestrator's end stopped.
#[test]
fn a_request_weighs_more_than_the_orchestrators_end_in_any_order() {
    let running = row(SandboxState::Running);
    let shut_down = step(&running, &shutdown(), 200, None);
    assert_eq!(shut_down.stopped_by, Some(StoppedBy::Shutdown));
    let both = step(&shut_down, &stop(), 201, None);
    assert_eq!((both.stopped_by, &both.state), (Some(StoppedBy::Request), &shut_down.state));
    let requested = step(&running, &stop(), 200, None);
    assert_eq!(requested.stopped_by, Some(StoppedBy::Request));
    assert_eq!(advance(&requested, &shutdown(), at(201), None), Ok(None), "nothing is new");
    let killed = step(&running, &Event::StopRequested(StopCause::Killed { signal: 9 }), 200, None);
    assert_eq!(killed.stopped_by, Some(StoppedBy::Request));
}

#[test]
fn who_asked_for_the_end_is_known_until_the_next_start_is_planned() {
    let shut_down = step(&row(SandboxState::Running), &shutdown(), 200, None);
    let ended = step(&shut_down, &Event::VmmExited(ExitStatus::Signal(9)), 201, None);
    assert_eq!(ended.stopped_by, Some(StoppedBy::Shutdown));
    let planned = step(&ended, &Event::BackoffScheduled { until: at(300) }, 202, None);
    assert_eq!(planned.stopped_by, None);
    assert_eq!(planned.ended_at, Some(at(201)), "the pause is after the end");
}
