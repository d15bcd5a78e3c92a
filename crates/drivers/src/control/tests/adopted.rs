//! Guests that a daemon finds.

use super::*;

/// The earlier daemon had read the first `cut` bytes of the exit report when it died.
#[tokio::test]
async fn an_exit_report_that_a_dead_daemon_half_read_comes_again() {
    let exit = encode(&GuestMessage::Exit(REPORT)).unwrap();
    for cut in 0..=exit.len() {
        let rest = exit[cut..].to_vec();
        let mut running = begin(LinkMode::Adopt(None), LIMIT, move |guest| {
            guest.control_out.write_all(&rest).unwrap();
            guest.answer_query(GuestState::Ended(REPORT));
        });
        assert_eq!(running.event().await, VmmEvent::WorkloadStarted, "cut at {cut}");
        assert_eq!(running.event().await, exited(), "cut at {cut}");
    }
}

#[tokio::test]
async fn an_adopted_guest_goes_on() {
    let mut running = begin(LinkMode::Adopt(None), LIMIT, |guest| {
        guest.say(&GuestMessage::Status { nonce: 1, state: GuestState::AwaitingStart }); // to the earlier daemon
        guest.say(&GuestMessage::Started);
        guest.answer_query(GuestState::Running);
        guest.say(&GuestMessage::Exit(REPORT));
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    assert_eq!(running.event().await, exited());
}

/// The earlier daemon ended while the guest booted.
#[tokio::test]
async fn an_adopted_guest_that_waits_for_its_start_message_gets_it_once() {
    let start = start_with_value(&"x".repeat(300_000));
    let mut running = begin(LinkMode::Adopt(Some(start)), LIMIT, |guest| {
        // It boots for so long that it is asked twice, and answers both before it reads on.
        let asked = guest.hear();
        guest.say(&GuestMessage::Ready { version: PROTOCOL_VERSION });
        guest.answer_query(GuestState::AwaitingStart);
        let HostMessage::Query { nonce } = asked else { panic!("{asked:?}") };
        guest.say(&GuestMessage::Status { nonce, state: GuestState::AwaitingStart });
        let HostMessage::Start(start) = guest.hear() else { panic!("no start message") };
        assert_eq!(start.env[0].1.len(), 300_000);
        guest.say(&GuestMessage::Started);
        guest.say(&GuestMessage::Exit(REPORT));
        assert_eq!(guest.hear(), HostMessage::AcknowledgeExit, "and not another one");
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    assert_eq!(running.event().await, exited());
    running.link.acknowledge_exit().await.unwrap();
    running.guest.await.unwrap();
}

#[tokio::test]
async fn a_query_is_sent_again() {
    let mut running = begin(LinkMode::Adopt(None), LIMIT, |guest| {
        let lost = guest.hear();
        guest.answer_query(GuestState::Running);
        // The first one was only late.
        let HostMessage::Query { nonce } = lost else { panic!("{lost:?}") };
        guest.say(&GuestMessage::Status { nonce, state: GuestState::Running });
        guest.say(&GuestMessage::Exit(REPORT));
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    assert_eq!(running.event().await, exited());
}

#[tokio::test]
async fn an_adopted_guest_that_cannot_go_on() {
    let mut unstarted = begin(LinkMode::Adopt(None), LIMIT, |guest| guest.answer_query(GuestState::AwaitingStart));
    assert!(unstarted.fault().await.to_string().contains("never got its start message"));

    let mut silent = begin(LinkMode::Adopt(None), Duration::from_millis(50), |_| {});
    assert!(silent.broken().await.contains("did not answer"));

    let mut flooding = begin(LinkMode::Adopt(None), LIMIT, |guest| {
        for _ in 0..100 {
            guest.say(&GuestMessage::Started);
        }
    });
    assert!(flooding.broken().await.contains("floods"));

    let mut garbage = begin(LinkMode::Adopt(None), LIMIT, |guest| {
        for _ in 0..20 {
            let _ = guest.control_out.write_all(&[0xF5; 4096]);
        }
    });
    assert!(garbage.broken().await.contains("no frame"));
    drop(garbage.task);
}

#[tokio::test]
async fn an_adopted_workload_that_did_not_start() {
    let mut running = begin(LinkMode::Adopt(None), LIMIT, |guest| {
        guest.answer_query(GuestState::NotStarted(StartFailure::new(StartFailureCode::NotExecutable, "no")));
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadNotStarted { code: 126, message: "no".into() });
}
