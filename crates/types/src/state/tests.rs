//! Every edge of the state machine, against the table in `docs/state-machine.md`.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use proptest::prelude::*;

use super::*;

fn fault() -> FailureReason {
    FailureReason::Lost
}

fn until() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}

fn states() -> Vec<SandboxState> {
    let causes = [
        StopCause::WorkloadEnded,
        StopCause::Requested,
        StopCause::OrchestratorEnds,
        StopCause::Killed { signal: 9 },
        StopCause::Faulted { reason: fault() },
    ];
    let exits = [None, Some(ExitStatus::Code(3))];
    let mut states = vec![
        SandboxState::Created,
        SandboxState::Starting,
        SandboxState::Running,
        SandboxState::Stopped { exit: ExitStatus::Code(0) },
        SandboxState::Failed { reason: fault(), exit: None },
        SandboxState::Backoff { until: until() },
    ];
    for cause in causes {
        states.extend(exits.map(|exit| SandboxState::Stopping { cause: cause.clone(), exit }));
    }
    states
}

fn events() -> Vec<Event> {
    vec![
        Event::StartRequested,
        Event::SpawnFailed(fault()),
        Event::WorkloadStarted,
        Event::WorkloadNotStarted { code: 127, message: "not found".into() },
        Event::StopRequested(StopCause::Requested),
        Event::StopRequested(StopCause::Killed { signal: 9 }),
        Event::Faulted(fault()),
        Event::WorkloadExited(ExitStatus::Code(42)),
        Event::VmmExited(ExitStatus::Code(0)),
        Event::BackoffScheduled { until: until() },
    ]
}

/// Rows `| FROM | Event | TO |` of the document, by the states' words.
fn documented_edges() -> BTreeSet<(String, String, String)> {
    let text = include_str!("../../../../docs/state-machine.md");
    let cell = |text: &str| text.trim().trim_matches('`').to_owned();
    text.lines()
        .filter_map(|line| {
            let cells: Vec<_> = line.trim().strip_prefix('|')?.strip_suffix('|')?.split('|').map(cell).collect();
            let [from, event, to, ..] = cells.as_slice() else { return None };
            from.chars().all(|c| c.is_ascii_uppercase()).then(|| (from.clone(), event.clone(), to.clone()))
        })
        .collect()
}

#[test]
fn the_document_and_the_code_have_the_same_edges() {
    let mut edges = BTreeSet::new();
    for state in states() {
        for event in events() {
            if let Ok(to) = next(&state, &event) {
                edges.insert((state.status().to_string(), event.name().to_owned(), to.status().to_string()));
            }
        }
    }
    assert_eq!(edges, documented_edges(), "left: the code, right: docs/state-machine.md");
}

#[test]
fn the_usual_life() {
    let mut state = SandboxState::Created;
    for (event, expected) in [
        (Event::StartRequested, SandboxState::Starting),
        (Event::WorkloadStarted, SandboxState::Running),
        (
            Event::WorkloadExited(ExitStatus::Code(42)),
            SandboxState::Stopping { cause: StopCause::WorkloadEnded, exit: Some(ExitStatus::Code(42)) },
        ),
        (Event::VmmExited(ExitStatus::Code(0)), SandboxState::Stopped { exit: ExitStatus::Code(42) }),
        (Event::StartRequested, SandboxState::Starting),
    ] {
        state = next(&state, &event).unwrap();
        assert_eq!(state, expected);
    }
}

#[test]
fn a_vmm_that_ends_without_a_report_is_failed_whatever_its_code() {
    for state in [SandboxState::Starting, SandboxState::Running] {
        let after = next(&state, &Event::VmmExited(ExitStatus::Code(0))).unwrap();
        let reason = FailureReason::VmmLost { status: ExitStatus::Code(0) };
        assert_eq!(after, SandboxState::Failed { reason, exit: None });
    }
}

#[test]
fn a_stop_that_needed_force_is_a_signal_not_a_success() {
    let stopping = |cause| SandboxState::Stopping { cause, exit: None };
    let end = |state: &SandboxState, status| next(state, &Event::VmmExited(status)).unwrap().exit();
    let requested = stopping(StopCause::Requested);
    assert_eq!(end(&requested, ExitStatus::Code(0)), Some(ExitStatus::Signal(9)));
    assert_eq!(end(&requested, ExitStatus::Signal(15)), Some(ExitStatus::Signal(15)));
    assert_eq!(end(&stopping(StopCause::Killed { signal: 9 }), ExitStatus::Unknown), Some(ExitStatus::Signal(9)));
    assert_eq!(end(&requested, ExitStatus::Unknown), Some(ExitStatus::Unknown), "nobody saw whether it was heeded");
}

#[test]
fn a_workload_that_cannot_be_executed_is_failed_with_the_shells_code() {
    let event = Event::WorkloadNotStarted { code: 127, message: "no such file".into() };
    let stopping = next(&SandboxState::Starting, &event).unwrap();
    let failed = next(&stopping, &Event::VmmExited(ExitStatus::Code(0))).unwrap();
    assert_eq!(failed.status(), Status::Failed);
    assert_eq!(failed.exit().and_then(ExitStatus::shell_code), Some(127));
}

#[test]
fn a_kill_replaces_a_stop_and_nothing_replaces_a_known_exit() {
    let requested = SandboxState::Stopping { cause: StopCause::Requested, exit: None };
    let kill = Event::StopRequested(StopCause::Killed { signal: 9 });
    let killed = next(&requested, &kill).unwrap();
    assert_eq!(killed, SandboxState::Stopping { cause: StopCause::Killed { signal: 9 }, exit: None });
    let known = SandboxState::Stopping { cause: StopCause::WorkloadEnded, exit: Some(ExitStatus::Code(1)) };
    assert_eq!(next(&known, &kill).unwrap(), known);
    assert!(next(&known, &Event::WorkloadExited(ExitStatus::Code(2))).is_err());
}

#[test]
fn states_survive_json() {
    for state in states() {
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<SandboxState>(&json).unwrap(), state, "{json}");
    }
}

#[test]
fn ends_are_told_as_shells_do() {
    let all = [ExitStatus::Code(0), ExitStatus::Code(3), ExitStatus::Signal(9), ExitStatus::Unknown];
    assert_eq!(all.map(ExitStatus::shell_code), [Some(0), Some(3), Some(137), None]);
    assert_eq!(all.map(ExitStatus::is_success), [true, false, false, false]);
    assert_eq!(all.map(|exit| exit.to_string()), ["exit code 0", "exit code 3", "signal 9", "unknown exit status"]);
}

#[test]
fn a_state_is_live_or_ended_or_neither() {
    for state in states() {
        let expected = match state.status() {
            Status::Starting | Status::Running | Status::Stopping => (true, false),
            Status::Stopped | Status::Failed => (false, true),
            Status::Created | Status::Backoff => (false, false),
        };
        assert_eq!((state.is_live(), state.is_ended()), expected, "{state:?}");
    }
}

#[test]
fn a_failure_is_known_from_the_fault_on() {
    let stopping = next(&SandboxState::Running, &Event::Faulted(FailureReason::OutOfMemory)).unwrap();
    let failed = next(&stopping, &Event::VmmExited(ExitStatus::Signal(9))).unwrap();
    assert_eq!(failed, SandboxState::Failed { reason: FailureReason::OutOfMemory, exit: None });
    for state in [stopping, failed] {
        assert_eq!(state.failure(), Some(&FailureReason::OutOfMemory), "{state:?}");
    }
    let requested = SandboxState::Stopping { cause: StopCause::Requested, exit: None };
    assert_eq!((SandboxState::Running.failure(), requested.failure()), (None, None));
}

#[test]
fn a_workload_that_failed_before_the_fault_keeps_its_exit() {
    let exit = Some(ExitStatus::Code(3));
    let faulted = SandboxState::Stopping { cause: StopCause::Faulted { reason: fault() }, exit };
    let failed = next(&faulted, &Event::VmmExited(ExitStatus::Code(0))).unwrap();
    assert_eq!((failed.failure(), failed.exit()), (Some(&fault()), exit));
}

#[test]
fn only_a_forbidden_system_call_is_explained() {
    let text = |status| FailureReason::VmmLost { status }.to_string();
    let (forbidden, killed) = (text(ExitStatus::Signal(31)), text(ExitStatus::Signal(9)));
    assert!(forbidden.contains("(signal 31, SIGSYS: a system call that it is not allowed"), "{forbidden}");
    assert!(killed.contains("(signal 9) without"), "{killed}");
}

/// The database's column has the words of the JSON.
#[test]
fn who_stopped_it_is_one_word_everywhere() {
    for (by, cause) in [(StoppedBy::Request, StopCause::Requested), (StoppedBy::Shutdown, StopCause::OrchestratorEnds)]
    {
        assert_eq!(serde_json::to_value(by).unwrap(), by.as_str());
        assert_eq!(by.cause(), cause);
    }
}

proptest! {
    /// Whatever happens in whatever order: no panic, an end is left by a start or a back-off only,
    /// and a known exit is never changed but by a new start.
    #[test]
    fn any_order_of_events_is_survived(choices in proptest::collection::vec(0usize..10, 0..40)) {
        let all = events();
        let mut state = SandboxState::Created;
        for choice in choices {
            let event = &all[choice];
            let Ok(after) = next(&state, event) else { continue };
            if state.is_ended() {
                let started = matches!(event, Event::StartRequested | Event::BackoffScheduled { .. });
                prop_assert!(started || after == state);
            }
            if let (Some(before), Some(now)) = (state.exit(), after.exit()) {
                prop_assert_eq!(before, now);
            }
            state = after;
        }
    }
}
