//! Bytes, there and back.

use super::*;

const BYTES: u32 = 8 << 20;

fn pattern() -> Vec<u8> {
    (0..BYTES).map(|i| (i % 251) as u8).collect()
}

/// Sends back what comes, within the limits, and ends when the input does.
fn echo(guest: &mut Guest) {
    const WINDOW: u64 = 256 << 10;
    let session = guest.begin();
    let (mut received, mut sent) = (0_u64, 0_u64);
    let mut kept = Vec::new();
    guest.say(session, &SessionReport::InputWindow { received, limit: WINDOW });
    loop {
        match guest.hear().1 {
            Content::Message(SessionCommand::Taken { .. }) => {}
            Content::Bytes { stream: SessionStream::Stdin, offset, bytes } => {
                assert_eq!(offset, received);
                received += bytes.len() as u64;
                kept.extend_from_slice(&bytes);
                if received % WINDOW < 5000 {
                    guest.say(session, &SessionReport::InputWindow { received, limit: received + WINDOW });
                }
            }
            Content::Message(SessionCommand::EndInput { total }) => {
                assert_eq!(total, received);
                guest.say(session, &SessionReport::InputClosed);
                guest.say(session, &SessionReport::StreamEnded { stream: SessionStream::Stdout, total: received });
                guest.say(session, &SessionReport::StreamEnded { stream: SessionStream::Stderr, total: 0 });
                guest.say(session, &SessionReport::Ended(CODE_0));
            }
            Content::Message(SessionCommand::Forget) => return,
            other => panic!("{other:?}"),
        }
        while sent < received.min(guest.limit) {
            let len = (received.min(guest.limit) - sent).min(32_000) as usize;
            let bytes: Vec<u8> = kept.drain(..len).collect();
            guest.write(session, sent, &bytes);
            sent += len as u64;
        }
    }
}

#[tokio::test]
async fn eight_mebibytes_go_both_ways() {
    let dir = runtime_dir();
    let guest = guest(dir.path(), |guest| {
        guest.resume();
        echo(guest);
    });
    let link = SessionLink::new(dir.path().to_owned());
    assert!(!was_used(dir.path()));
    let info = within(link.open(id(7), spec())).await.unwrap();
    assert_eq!((info.label.as_str(), info.attached), ("cat", false));
    assert!(was_used(dir.path()));
    let mut attachment = within(link.attach(id(7), None)).await.unwrap();
    let requests = attachment.requests.clone();
    let feeding = tokio::spawn(async move {
        let mut offset = 0;
        for bytes in pattern().chunks(30_000) {
            let input = SessionRequest::Input { offset, bytes: bytes.to_vec().into() };
            within(requests.send(input)).await.unwrap();
            offset += bytes.len() as u64;
        }
        within(requests.send(SessionRequest::EndInput { total: offset })).await.unwrap();
    });
    let mut got = Vec::new();
    loop {
        match told(&mut attachment).await {
            SessionEvent::Output { offset, bytes, .. } => {
                assert_eq!(offset, got.len() as u64);
                got.extend_from_slice(&bytes);
                let taken = SessionOffsets { stdout: got.len() as u64, stderr: 0 };
                within(attachment.requests.send(SessionRequest::Taken(taken))).await.unwrap();
            }
            SessionEvent::InputClosed | SessionEvent::StreamEnded { .. } => {}
            SessionEvent::Ended(end) => {
                assert_eq!(end, SessionEnd::Exited(ExitStatus::Code(0)));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(got == pattern());
    feeding.await.unwrap();
    within(attachment.requests.send(SessionRequest::TakenEnd)).await.unwrap();
    assert_eq!(within(attachment.events.recv()).await, None);
    assert!(within(link.list()).await.unwrap().is_empty());
    within(guest).await.unwrap();
}

/// One that does not take its events holds up itself, and loses nothing.
#[tokio::test]
async fn a_slow_client_holds_up_nobody_else() {
    let dir = runtime_dir();
    let guest = guest(dir.path(), |guest| {
        guest.resume();
        let (slow, quick) = (guest.begin(), guest.begin());
        for number in 0..30 {
            guest.write(slow, number * 20_000, &vec![7; 20_000]);
        }
        guest.write(quick, 0, b"quick");
        guest.end(quick, 5);
        guest.end(slow, 600_000);
    });
    let link = SessionLink::new(dir.path().to_owned());
    for number in [1, 2] {
        within(link.open(id(number), spec())).await.unwrap();
    }
    let mut slow = within(link.attach(id(1), None)).await.unwrap();
    let mut quick = within(link.attach(id(2), None)).await.unwrap();
    assert_eq!(told(&mut quick).await, stdout(0, "quick"));
    assert_eq!(told(&mut quick).await, EXITED);
    let second = within(link.attach(id(2), Some(SessionOffsets { stdout: 5, stderr: 0 }))).await.unwrap();
    assert_eq!(event(&mut quick).await, SessionEvent::Replaced);
    assert_eq!(within(quick.events.recv()).await, None);
    drop(second);
    within(guest).await.unwrap();
    let mut count = 0;
    loop {
        match told(&mut slow).await {
            SessionEvent::Output { offset, bytes, .. } => {
                assert_eq!(offset, count);
                count += bytes.len() as u64;
            }
            last => {
                assert_eq!(last, EXITED);
                break;
            }
        }
    }
    assert_eq!(count, 600_000);
    // The one that went is noticed some time.
    let deadline = Instant::now() + LIMIT;
    while within(link.list()).await.unwrap().iter().map(|info| info.attached).ne([true, false]) {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

/// More events than have room, and then the client asks for what cannot be.
#[tokio::test]
async fn the_last_word_finds_room() {
    let dir = runtime_dir();
    let guest = guest(dir.path(), |guest| {
        guest.resume();
        let session = guest.begin();
        for offset in 0..20 {
            assert_eq!(guest.next(), (session, Content::Message(SessionCommand::Signal(10))));
            guest.write(session, offset, b"x");
        }
    });
    let link = SessionLink::new(dir.path().to_owned());
    within(link.open(id(1), spec())).await.unwrap();
    let mut client = within(link.attach(id(1), None)).await.unwrap();
    for number in 0..20 {
        within(client.requests.send(SessionRequest::Signal(10))).await.unwrap();
        // The window is one, too.
        eventually("it is told", || client.events.len() >= (number + 2).min(16)).await;
    }
    within(guest).await.unwrap();
    let ahead = SessionRequest::Taken(SessionOffsets { stdout: 1000, stderr: 0 });
    within(client.requests.send(ahead)).await.unwrap();
    eventually("its last word is there", || client.events.len() == 17).await;
    let mut events = Vec::new();
    while let Some(event) = within(client.events.recv()).await {
        events.push(event);
    }
    assert_eq!(events.len(), 17);
    let last = events.last();
    assert!(matches!(last, Some(SessionEvent::Refused(SessionError::Ahead { asked: 1000, .. }))), "{last:?}");
}
