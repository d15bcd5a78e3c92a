//! The row as the code computes it is the row as the file gives it back, after any history.

use proptest::prelude::*;
use sandpen_types::state::{StopCause, next};

use super::*;

fn exits() -> impl Strategy<Value = ExitStatus> {
    prop_oneof![(0..256).prop_map(ExitStatus::Code), (1..65).prop_map(ExitStatus::Signal), Just(ExitStatus::Unknown),]
}

fn reasons() -> impl Strategy<Value = FailureReason> {
    let words = "[ -~é\n\"']{0,20}";
    prop_oneof![
        words.prop_map(|message| FailureReason::SpawnFailed { message }),
        words.prop_map(|message| FailureReason::ProtocolBroken { message }),
        (words, any::<u32>()).prop_map(|(output, failures)| FailureReason::Unhealthy { failures, output }),
        exits().prop_map(|status| FailureReason::VmmLost { status }),
        (0u64..1 << 40).prop_map(|ms| FailureReason::TimedOut { limit: Duration::from_millis(ms) }),
        Just(FailureReason::OutOfMemory),
        Just(FailureReason::Lost),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::StartRequested),
        1 => reasons().prop_map(Event::SpawnFailed),
        3 => Just(Event::WorkloadStarted),
        1 => (126..128, "[a-z ]{0,9}").prop_map(|(code, message)| Event::WorkloadNotStarted { code, message }),
        2 => prop_oneof![
            Just(StopCause::Requested),
            Just(StopCause::OrchestratorEnds),
            (1..65).prop_map(|signal| StopCause::Killed { signal }),
        ]
        .prop_map(Event::StopRequested),
        1 => reasons().prop_map(Event::Faulted),
        2 => exits().prop_map(Event::WorkloadExited),
        3 => exits().prop_map(Event::VmmExited),
        1 => (0i64..4_000_000_000).prop_map(|secs| Event::BackoffScheduled {
            until: chrono::DateTime::from_timestamp(secs, 123_456_789).unwrap(),
        }),
    ]
}

/// How long a workload ran, where somebody has measured it, the time that passes until the event, and the processes.
type Around = (Option<u64>, u32, Option<u32>, u32);

/// What the file keeps of a time.
fn micros(at: chrono::DateTime<Utc>) -> chrono::DateTime<Utc> {
    chrono::DateTime::from_timestamp_micros(at.timestamp_micros()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_history_gives_the_same_row_through_the_code_and_through_the_file(
        steps in prop::collection::vec((events(), any::<Around>()), 0..40),
    ) {
        run(|| async {
            let fixture = Fixture::new();
            let database = fixture.open().await;
            let mut row = add(&database, "a").await;
            let mut at = row.updated_at;
            for (event, (ran, passed, pid, supervisor)) in steps {
                at += chrono::Duration::milliseconds(i64::from(passed % 100_000));
                row.microvm_pid = pid;
                row.supervisor_pid = supervisor;
                let ran = ran.map(Duration::from_millis);
                let Ok(advanced) = advance(&row, &event, at, ran) else {
                    assert!(next(&row.state, &event).is_err());
                    continue;
                };
                let Some((after, record)) = advanced else { continue };
                database.send(RecordTransition(record)).await.unwrap().unwrap();
                row = after;
                let stored = database.send(GetSandbox(row.spec.key.clone())).await.unwrap().unwrap().unwrap();
                assert_eq!(stored, row, "after {event:?}");
            }
            let history = history(&database, row.id, HistoryPage::OLDEST).await;
            assert!(history.iter().map(|step| step.seq).eq(1..=row.seq));
            if let Some(last) = history.last() {
                assert_eq!((&last.state, last.generation, last.stopped_by), (&row.state, row.generation, row.stopped_by));
                assert_eq!(last.at, micros(last.at));
            }
        });
    }
}
