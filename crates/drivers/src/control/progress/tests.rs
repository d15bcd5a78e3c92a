//! What a guest's messages mean in each phase, and which are too many.

use sandpen_guest::protocol::{Bytes, StartFailureCode};

use super::*;

const NONCE: u64 = 7;
const REPORT: ExitReport = ExitReport { end: WorkloadEnd::Code(42), stdout_bytes: 7, stderr_bytes: 8 };
const READY: GuestMessage = GuestMessage::Ready { version: PROTOCOL_VERSION };

fn status(nonce: u64, state: GuestState) -> GuestMessage {
    GuestMessage::Status { nonce, state }
}

fn started() -> Vec<Step> {
    vec![Step::Tell(VmmEvent::WorkloadStarted)]
}

fn exited() -> Step {
    let exit = ExitStatus::Code(42);
    Step::Tell(VmmEvent::WorkloadExited { exit, stdout_bytes: Some(7), stderr_bytes: Some(8) })
}

/// A launched guest after these messages.
fn after(messages: impl IntoIterator<Item = GuestMessage>) -> Progress {
    let mut progress = Progress::launched();
    for message in messages {
        progress.take(message).unwrap();
    }
    progress
}

fn running() -> Progress {
    after([READY, GuestMessage::Started])
}

/// An adopted guest that was asked once.
fn adopting(can_start: bool) -> Progress {
    let mut progress = Progress::adopting(NONCE, can_start);
    assert_eq!(progress.query(), Some(HostMessage::Query { nonce: NONCE }));
    progress
}

fn broken_by(progress: &mut Progress, message: GuestMessage) -> String {
    match progress.take(message) {
        Err(FailureReason::ProtocolBroken { message }) => message,
        other => panic!("{other:?} instead of ProtocolBroken"),
    }
}

#[test]
fn a_launched_guest_gets_its_start_message_once_it_is_ready() {
    let mut progress = Progress::launched();
    assert!(!progress.starts_at_once());
    assert_eq!(progress.take(READY), Ok(vec![Step::SendStart]));
    assert_eq!(progress.take(GuestMessage::Started), Ok(started()));
    assert_eq!(progress.take(GuestMessage::Exit(REPORT)), Ok(vec![exited()]));
}

#[test]
fn a_restored_guest_waits_for_its_start_message() {
    let mut progress = Progress::restored();
    assert!(progress.starts_at_once());
    assert_eq!(progress.take(GuestMessage::Started), Ok(started()));
    assert!(broken_by(&mut Progress::restored(), READY).contains("Ready where it is Starting"));
}

#[test]
fn an_adopted_guest_is_sent_nothing_but_a_query_before_it_answered() {
    assert!(!Progress::adopting(NONCE, true).starts_at_once());
    let mut progress = adopting(true);
    assert_eq!(progress.take(status(NONCE, GuestState::AwaitingStart)), Ok(vec![Step::SendStart]));
    assert_eq!(progress.query(), None, "it has answered");
    assert_eq!(Progress::launched().query(), None);
}

#[test]
fn an_adopted_guest_whose_start_message_was_not_kept_cannot_go_on() {
    match adopting(false).take(status(NONCE, GuestState::AwaitingStart)) {
        Err(FailureReason::Internal { message }) => assert!(message.contains("never got its start message")),
        other => panic!("{other:?} instead of Internal"),
    }
}

#[test]
fn a_guest_owes_an_answer_until_its_workload_runs_or_cannot() {
    let not_started = GuestMessage::NotStarted(StartFailure::new(StartFailureCode::NotFound, "x"));
    for (progress, owes) in [
        (Progress::launched(), true),
        (Progress::restored(), true),
        (adopting(false), true),
        (running(), false),
        (after([READY, not_started]), false),
        (after([READY, GuestMessage::Started, GuestMessage::Exit(REPORT)]), false),
    ] {
        assert_eq!(progress.awaits_guest(), owes, "{progress:?}");
    }
}

#[test]
fn a_guest_that_is_given_up_is_told_apart_by_what_it_owed() {
    let limit = Duration::from_mins(1);
    assert_eq!(Progress::launched().timed_out(limit), FailureReason::BootTimedOut { limit });
    let text = adopting(false).timed_out(limit).to_string();
    assert!(text.contains("did not answer a query within 60 s"), "{text}");
}

#[test]
fn each_query_is_answered_at_most_once() {
    let mut progress = adopting(false);
    progress.query();
    assert_eq!(progress.take(status(NONCE, GuestState::Running)), Ok(started()));
    assert_eq!(progress.take(status(NONCE, GuestState::Running)), Ok(vec![]), "to the second query");
    let text = broken_by(&mut progress, status(NONCE, GuestState::Running));
    assert!(text.contains("Status where it is Running"), "{text}");
    let text = broken_by(&mut running(), status(NONCE, GuestState::Running));
    assert!(text.contains("Status where it is Running"), "nobody asked: {text}");
}

#[test]
fn answers_that_nobody_waits_for_are_leftovers() {
    let mut unasked = Progress::adopting(NONCE, false);
    assert_eq!(unasked.take(status(NONCE, GuestState::Running)), Ok(vec![]), "before the query");
    let mut progress = adopting(false);
    assert_eq!(progress.take(status(NONCE + 1, GuestState::Ended(REPORT))), Ok(vec![]), "an earlier daemon's");
    assert_eq!(progress.take(status(NONCE, GuestState::Running)), Ok(started()));
}

#[test]
fn an_adopted_guest_may_have_as_many_leftovers_as_it_can_have_and_no_more() {
    let mut progress = adopting(false);
    for _ in 0..LEFTOVERS {
        assert_eq!(progress.take(GuestMessage::Started), Ok(vec![]));
    }
    let mut answering = progress.clone();
    assert_eq!(answering.take(status(NONCE, GuestState::Ended(REPORT))), Ok([started(), vec![exited()]].concat()));
    assert!(broken_by(&mut progress, GuestMessage::Started).contains("floods"));
}

#[test]
fn a_message_out_of_order_is_named() {
    let failure = || StartFailure::new(StartFailureCode::NotFound, "x");
    let output = Bytes::new();
    for (message, name) in [
        (GuestMessage::Started, "Started"),
        (GuestMessage::NotStarted(failure()), "NotStarted"),
        (GuestMessage::Exit(REPORT), "Exit"),
        (status(NONCE, GuestState::Running), "Status"),
        (GuestMessage::ProbeEnded { id: 1, end: ProbeEnd::TimedOut, output }, "ProbeEnded"),
        (GuestMessage::FilesLimitMet, "FilesLimitMet"),
    ] {
        let text = broken_by(&mut Progress::launched(), message);
        assert!(text.contains(&format!("{name} where it is Booting")), "{text}");
    }
}

#[test]
fn a_guest_meets_its_limit_of_files_once() {
    let mut progress = running();
    assert_eq!(progress.take(GuestMessage::FilesLimitMet), Ok(vec![Step::Tell(VmmEvent::FilesLimitMet)]));
    let text = broken_by(&mut progress, GuestMessage::FilesLimitMet);
    assert!(text.contains("FilesLimitMet where it is Running"), "{text}");
}

#[test]
fn a_guest_says_how_much_it_understands_whenever_it_has_a_reason_to_and_not_more_often() {
    let understands = |messages| GuestMessage::Understands { messages };
    let not_started = GuestMessage::NotStarted(StartFailure::new(StartFailureCode::NotFound, "x"));
    for mut progress in [
        Progress::launched(),
        Progress::restored(),
        after([READY]),
        running(),
        after([READY, not_started]),
        after([READY, GuestMessage::Started, GuestMessage::Exit(REPORT)]),
    ] {
        let before = progress.clone();
        assert_eq!(progress.take(understands(7)), Ok(vec![Step::Understands(7)]), "{before:?}");
        assert_eq!(progress.awaits_guest(), before.awaits_guest(), "nothing else follows");
        assert!(broken_by(&mut progress, understands(7)).contains("Understands where it is"));
    }
    let mut adopted = adopting(false);
    adopted.query();
    for _ in 0..=LEFTOVERS {
        assert_eq!(adopted.take(understands(u32::MAX)), Ok(vec![Step::Understands(u32::MAX)]));
    }
    assert_eq!(adopted.take(status(NONCE, GuestState::Running)), Ok(started()), "they are no leftovers");
    assert_eq!(adopted.take(understands(8)), Ok(vec![Step::Understands(8)]), "before the second answer");
    assert_eq!(adopted.take(status(NONCE, GuestState::Running)), Ok(vec![]));
    assert!(broken_by(&mut adopted, understands(8)).contains("Understands where it is Running"));
}

#[test]
fn a_commands_output_may_be_as_long_as_agreed_and_no_longer() {
    let ended = |len| {
        let output = Bytes::from(vec![b'x'; len]);
        GuestMessage::ProbeEnded { id: 1, end: ProbeEnd::TimedOut, output }
    };
    for len in [0, 1, PROBE_OUTPUT_MAX] {
        let outcome = ProbeOutcome { end: ProbeStatus::TimedOut, output: "x".repeat(len) };
        assert_eq!(running().take(ended(len)), Ok(vec![Step::ProbeEnded { id: 1, outcome }]));
    }
    let text = broken_by(&mut running(), ended(PROBE_OUTPUT_MAX + 1));
    assert!(text.contains(&format!("{} bytes of a command's output", PROBE_OUTPUT_MAX + 1)), "{text}");
}

#[test]
fn a_command_that_ends_by_no_signal_breaks_the_protocol() {
    let ended = |signal| GuestMessage::ProbeEnded {
        id: 1,
        end: ProbeEnd::Ended(WorkloadEnd::Signal(signal)),
        output: Bytes::new(),
    };
    assert!(running().take(ended(64)).is_ok());
    for signal in [0, 65] {
        assert!(broken_by(&mut running(), ended(signal)).contains("which is none"));
    }
}
