//! How a guest is: who is asked, and what becomes of one that does not answer, or without being asked.

use sandpen_guest::protocol::Usage;

use super::*;

fn starts(guest: &mut Guest, understands: u32) {
    guest.say(&GuestMessage::Ready { version: PROTOCOL_VERSION });
    guest.say(&GuestMessage::Understands { messages: understands });
    assert!(matches!(guest.hear(), HostMessage::Start(_)));
    guest.say(&GuestMessage::Started);
}

/// The next question; what else it is told passes by.
fn question(guest: &mut Guest) -> u64 {
    loop {
        match guest.hear() {
            HostMessage::GetUsage { nonce } => return nonce,
            HostMessage::SetClock { .. } => {}
            other => panic!("{other:?} instead of a question"),
        }
    }
}

fn usage(tasks: u32) -> Usage {
    Usage { tasks, memory_total: u64::MAX, ..Usage::default() }
}

#[tokio::test]
async fn a_guest_answers_each_question_and_all_who_wait_for_it() {
    let mut running = launch(|guest| {
        starts(guest, HostMessage::VARIANTS);
        for tasks in [7, 8] {
            let nonce = question(guest);
            guest.say(&GuestMessage::Usage { nonce, usage: usage(tasks) });
        }
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    let (one, other) = tokio::join!(running.link.usage(), running.link.usage());
    assert_eq!((one.unwrap(), other.unwrap()), (usage(7), usage(7)));
    assert_eq!(running.link.usage().await.unwrap(), usage(8));
}

#[tokio::test]
async fn a_guest_of_an_older_program_is_not_asked() {
    let mut running = launch(|guest| {
        starts(guest, HostMessage::GetUsage { nonce: 0 }.position());
        loop {
            match guest.hear() {
                HostMessage::SetClock { .. } => {}
                HostMessage::Signal(15) => return,
                other => panic!("{other:?} is not known to it"),
            }
        }
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    assert!(running.link.usage().await.unwrap_err().to_string().contains("older program"));
    running.link.signal(15).await.unwrap();
    timeout(LIMIT, running.guest).await.expect("it hears the signal").unwrap();
}

#[tokio::test]
async fn one_that_does_not_answer_is_waited_for_once_and_may_answer_late() {
    let (go_on, paused) = std::sync::mpsc::channel();
    let mut running = launch(move |guest| {
        starts(guest, HostMessage::VARIANTS);
        let nonce = question(guest);
        paused.recv().unwrap();
        guest.say(&GuestMessage::Usage { nonce, usage: usage(1) });
        let nonce = question(guest);
        guest.say(&GuestMessage::Usage { nonce, usage: usage(2) });
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    assert!(running.link.usage().await.unwrap_err().to_string().contains("within a second"));
    // Its time is over: whoever asks now is answered at once, and no second question is sent.
    for _ in 0..100 {
        running.link.usage().await.unwrap_err();
    }
    go_on.send(()).unwrap();
    let answered = async {
        loop {
            match running.link.usage().await {
                Ok(usage) => return usage,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    assert_eq!(timeout(LIMIT, answered).await.expect("it is asked again"), usage(2));
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_breaks_the_link() {
    let mut running = launch(|guest| {
        starts(guest, HostMessage::VARIANTS);
        guest.say(&GuestMessage::Usage { nonce: 5, usage: usage(1) });
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    let VmmEvent::Faulted(FailureReason::ProtocolBroken { message }) = running.event().await else { panic!() };
    assert!(message.contains("nobody asked for"), "{message}");
}
