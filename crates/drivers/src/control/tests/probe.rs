//! Commands beside the workload, with honest and hostile guests.

use sandpen_guest::protocol::{PROBE_OUTPUT_MAX, Probe, ProbeEnd};
use sandpen_vmm::driver::ProbeStatus;

use super::*;

fn command() -> Vec<sandpen_types::spec::ByteString> {
    vec!["check".into(), "it".into()]
}

/// The number of the command that the guest hears.
fn asked(guest: &mut Guest) -> u64 {
    match guest.hear() {
        // Sent again meanwhile.
        HostMessage::Query { .. } => asked(guest),
        HostMessage::Probe(Probe { id, command, limit }) => {
            assert_eq!((command, limit), (vec![Bytes::from("check".as_bytes()), Bytes::from("it".as_bytes())], LIMIT));
            id
        }
        other => panic!("{other:?} instead of Probe"),
    }
}

fn ended(id: u64, output: &[u8]) -> GuestMessage {
    GuestMessage::ProbeEnded { id, end: ProbeEnd::Ended(WorkloadEnd::Code(3)), output: Bytes::from(output) }
}

#[tokio::test]
async fn an_answer_comes_clean_and_the_next_question_has_another_number() {
    let mut running = launch(|guest| {
        guest.boot();
        guest.say(&GuestMessage::Started);
        let first = asked(guest);
        guest.say(&ended(first, b"a\x1b[2J\xffb"));
        let second = asked(guest);
        assert_ne!(first, second);
        let failure = StartFailure::new(StartFailureCode::NotFound, "not\nfound");
        guest.say(&GuestMessage::ProbeEnded { id: second, end: ProbeEnd::NotStarted(failure), output: Bytes::new() });
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    let outcome = running.link.probe(&command(), LIMIT).await.unwrap();
    assert_eq!(outcome.end, ProbeStatus::Ended(ExitStatus::Code(3)));
    assert_eq!(outcome.output, "a [2J\u{fffd}b");
    let outcome = running.link.probe(&command(), LIMIT).await.unwrap();
    assert_eq!((outcome.end, outcome.output.as_str()), (ProbeStatus::NotStarted, "not found"));
}

#[tokio::test]
async fn a_workload_that_ends_leaves_nobody_waiting() {
    let mut running = launch(|guest| {
        guest.boot();
        guest.say(&GuestMessage::Started);
        asked(guest);
        guest.say(&GuestMessage::Exit(REPORT));
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    let error = timeout(LIMIT, running.link.probe(&command(), LIMIT)).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("the workload has ended"), "{error}");
}

#[tokio::test]
async fn a_guest_that_never_answers_is_given_up() {
    let mut running = launch(|guest| {
        guest.boot();
        guest.say(&GuestMessage::Started);
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    let error = running.link.probe(&command(), Duration::from_millis(1)).await.unwrap_err();
    assert!(error.to_string().contains("did not answer"), "{error}");
}

#[tokio::test]
async fn answers_that_nobody_asked_for_or_that_are_too_long_end_the_link() {
    type Lie = fn(&mut Guest);
    let lies: [(Lie, &str); 4] = [
        (|guest| guest.say(&ended(1, b"")), "nobody asked"),
        (
            |guest| {
                let id = asked(guest);
                guest.say(&ended(id, b""));
                guest.say(&ended(id, b""));
            },
            "nobody asked",
        ),
        (
            |guest| {
                let id = asked(guest);
                guest.say(&ended(id, &[b'x'; PROBE_OUTPUT_MAX + 1]));
            },
            "bytes of a command's output",
        ),
        (
            |guest| {
                let id = asked(guest);
                let end = ProbeEnd::Ended(WorkloadEnd::Signal(65));
                guest.say(&GuestMessage::ProbeEnded { id, end, output: Bytes::new() });
            },
            "which is none",
        ),
    ];
    for (lie, words) in lies {
        let mut running = launch(move |guest| {
            guest.boot();
            guest.say(&GuestMessage::Started);
            lie(guest);
        });
        assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
        let link = running.link.clone();
        let question = tokio::spawn(async move { link.probe(&command(), LIMIT).await.is_ok() });
        let message = running.broken().await;
        assert!(message.contains(words), "{message}");
        // Answered or refused, but not left waiting.
        timeout(LIMIT, question).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_answer_to_an_earlier_daemon_is_passed_over_once() {
    let mut running = begin(LinkMode::Adopt(None), LIMIT, |guest| {
        guest.say(&ended(77, b"half a minute ago"));
        guest.answer_query(GuestState::Running);
        guest.say(&ended(78, b"while it was asked for its state"));
        let id = asked(guest);
        guest.say(&ended(id, b"now"));
        guest.say(&ended(79, b""));
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    assert_eq!(running.link.probe(&command(), LIMIT).await.unwrap().output, "now");
    assert!(running.broken().await.contains("nobody asked"));
}
