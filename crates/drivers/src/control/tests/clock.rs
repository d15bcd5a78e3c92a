//! Who is told the time, and how often.

use futures::FutureExt as _;

use super::*;

fn starts(guest: &mut Guest, understands: u32) {
    guest.say(&GuestMessage::Ready { version: PROTOCOL_VERSION });
    guest.say(&GuestMessage::Understands { messages: understands });
    assert!(matches!(guest.hear(), HostMessage::Start(_)));
    guest.say(&GuestMessage::Started);
}

fn time(guest: &mut Guest) -> Duration {
    match guest.hear() {
        HostMessage::SetClock { wall_clock } => wall_clock,
        other => panic!("{other:?} instead of the time"),
    }
}

/// Gives a guest that is told the time so often, and hears it.
async fn told(times: u32) {
    let mut running = launch(move |guest| {
        let begun = wall_clock();
        starts(guest, HostMessage::VARIANTS);
        let heard: Vec<_> = (0..times).map(|_| time(guest)).collect();
        assert!(heard.is_sorted() && heard[0] >= begun && heard[heard.len() - 1] <= wall_clock(), "{heard:?}");
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    timeout(LIMIT, running.guest).await.expect("it is told the time").unwrap();
}

async fn hears(running: Running, script: impl FnOnce(&mut Guest) + Send + 'static) -> ControlLink {
    let mut guest = timeout(LIMIT, running.guest).await.unwrap().unwrap();
    let script = tokio::task::spawn_blocking(move || script(&mut guest));
    timeout(LIMIT, script).await.expect("it hears all").unwrap();
    running.link
}

#[tokio::test]
async fn a_guest_of_an_older_program_is_never_told_the_time() {
    let knows_six = HostMessage::UNDERSTOOD_BY_ALL;
    let mut running = [
        launch(move |guest| starts(guest, knows_six)),
        begin(LinkMode::Adopt(None), LIMIT, |guest| guest.answer_query(GuestState::Running)),
    ];
    for old in &mut running {
        assert_eq!(old.event().await, VmmEvent::WorkloadStarted);
    }
    // Its turn has come as often.
    told(3).await;
    sandpen_vmm::host_clock::was_set();
    for old in running {
        old.link.signal(15).await.unwrap();
        hears(old, |guest| assert_eq!(guest.hear(), HostMessage::Signal(15))).await;
    }
}

#[tokio::test]
async fn a_guest_that_does_not_read_finds_one_time_at_most() {
    let mut stopped = launch(|guest| starts(guest, HostMessage::VARIANTS));
    assert_eq!(stopped.event().await, VmmEvent::WorkloadStarted);
    told(5).await;
    stopped.link.signal(15).await.unwrap();
    hears(stopped, |guest| {
        time(guest);
        assert_eq!(guest.hear(), HostMessage::Signal(15));
        // Now it reads again.
        time(guest);
    })
    .await;
}

/// Nobody waits for its turn then.
#[tokio::test]
async fn a_clock_that_was_set_is_told_at_once() {
    let mut set = turn::Turn::take();
    sandpen_vmm::host_clock::was_set();
    assert_eq!(set.comes().now_or_never(), Some(()));
}

#[tokio::test]
async fn a_guest_is_told_no_time_before_its_workload_runs_and_after_its_end() {
    let booting = launch(|guest| {
        guest.say(&GuestMessage::Ready { version: PROTOCOL_VERSION });
        guest.say(&GuestMessage::Understands { messages: HostMessage::VARIANTS });
        assert!(matches!(guest.hear(), HostMessage::Start(_)));
    });
    let mut ended = launch(|guest| {
        starts(guest, HostMessage::VARIANTS);
        guest.say(&GuestMessage::Exit(REPORT));
    });
    assert_eq!(ended.event().await, VmmEvent::WorkloadStarted);
    assert_eq!(ended.event().await, exited());
    told(3).await;
    for quiet in [booting, ended] {
        quiet.link.signal(15).await.unwrap();
        hears(quiet, move |guest| match guest.hear() {
            // One may have been sent between start and end.
            HostMessage::SetClock { .. } => assert_eq!(guest.hear(), HostMessage::Signal(15)),
            other => assert_eq!(other, HostMessage::Signal(15)),
        })
        .await;
    }
}
