//! Whatever a guest says in whatever order.

use proptest::prelude::*;
use sandpen_guest::protocol::Usage;

use super::*;

fn any_message() -> impl Strategy<Value = GuestMessage> {
    let state = || {
        prop_oneof![
            Just(GuestState::AwaitingStart),
            Just(GuestState::Running),
            Just(GuestState::Ended(REPORT)),
            Just(GuestState::NotStarted(StartFailure::new(StartFailureCode::NotFound, "x"))),
        ]
    };
    prop_oneof![
        Just(GuestMessage::Ready { version: PROTOCOL_VERSION }),
        Just(GuestMessage::Started),
        Just(GuestMessage::NotStarted(StartFailure::new(StartFailureCode::NotFound, "x"))),
        Just(GuestMessage::Exit(REPORT)),
        (0..2_u64, state()).prop_map(|(nonce, state)| GuestMessage::Status { nonce, state }),
        any::<u64>().prop_map(|id| {
            let output = sandpen_guest::protocol::Bytes::new();
            GuestMessage::ProbeEnded { id, end: sandpen_guest::protocol::ProbeEnd::TimedOut, output }
        }),
        Just(GuestMessage::FilesLimitMet),
        Just(GuestMessage::OutOfMemory { process: "tail".to_owned() }),
        any::<u32>().prop_map(|messages| GuestMessage::Understands { messages }),
        any::<u64>().prop_map(|nonce| GuestMessage::Usage { nonce, usage: Usage::default() }),
    ]
}

proptest! {
    /// Whatever a guest sends, the monitor hears at most: started once, once of its files, then one end.
    #[test]
    fn no_order_of_messages_tells_more_than_one_life(
        adopted in any::<bool>(),
        can_start in any::<bool>(),
        messages in proptest::collection::vec(any_message(), 0..100),
    ) {
        let mut progress = if adopted { Progress::adopting(1, can_start) } else { Progress::launched() };
        let mut told = Vec::new();
        for message in messages {
            progress.query();
            match progress.take(message) {
                Ok(steps) => told.extend(steps.into_iter().filter_map(|step| match step {
                    Step::Tell(event) => Some(event),
                    Step::SendStart | Step::ProbeEnded { .. } | Step::Understands(_) | Step::Usage { .. } => None,
                })),
                Err(_) => break,
            }
        }
        let started = VmmEvent::WorkloadStarted;
        // Each at most once, and only while the workload runs.
        let out_of_memory = VmmEvent::OutOfMemory { process: "tail".to_owned() };
        for while_it_runs in [VmmEvent::FilesLimitMet, out_of_memory] {
            if let Some(at) = told.iter().position(|event| *event == while_it_runs) {
                let after = told.get(at + 1).is_none_or(|next| *next != started);
                prop_assert!(at > 0 && told[0] == started && after, "{told:?}");
                told.remove(at);
            }
        }
        let allowed = match told.as_slice() {
            [] => true,
            [one] => *one == started || matches!(one, VmmEvent::WorkloadNotStarted { .. }),
            [one, two] => *one == started && *two == exited(),
            _ => false,
        };
        prop_assert!(allowed, "{told:?}");
    }
}
