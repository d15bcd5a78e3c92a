//! How links begin and end.

use super::*;

/// Our descriptors of a file.
fn open_files(path: &Path) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    open.filter(|fd| fd.as_ref().is_ok_and(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == path))).count()
}

#[tokio::test]
async fn it_takes_nothing_until_it_is_used_and_after_it_is_dropped() {
    let dir = runtime_dir();
    let out = dir.path().join(port::OUT);
    let guest = guest(dir.path(), Guest::resume);
    assert_eq!(open_files(&out), 1, "the guest's");
    let link = SessionLink::new(dir.path().to_owned());
    assert_eq!(open_files(&out), 1);
    assert_eq!(within(link.list()).await, Ok(Vec::new()));
    assert_eq!(open_files(&out), 2);
    eventually("it is closed when there is nothing", || open_files(&out) == 1).await;
    eventually("there is nothing to look after", || !was_used(dir.path())).await;
    let (mut guest, ()) = within(guest).await.unwrap();
    let resumed = tokio::task::spawn_blocking(move || {
        guest.resume();
        guest.begin();
        guest
    });
    assert_eq!(within(link.list()).await, Ok(Vec::new()));
    within(link.open(id(1), spec())).await.unwrap();
    let guest = within(resumed).await.unwrap();
    assert!(was_used(dir.path()));
    drop(link);
    eventually("its end is closed", || open_files(&out) == 1).await;
    drop(guest);
}

#[tokio::test]
async fn guests_without_the_port_are_known() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(check(dir.path()), Err(SessionError::Older));
    assert_eq!(check(runtime_dir().path()), Ok(()));
    let bare = runtime_dir();
    std::fs::write(bare.path().join("sessions.none"), "").unwrap();
    assert_eq!(check(bare.path()), Err(SessionError::Unsupported));
    let link = SessionLink::new(dir.path().to_owned());
    for _ in 0..2 {
        let error = within(link.list()).await.unwrap_err();
        assert!(error.to_string().contains("opening its session port"), "{error}");
    }
    assert!(!was_used(dir.path()));
    let bad = within(link.open(id(1), SessionSpec::command([""]))).await;
    assert!(matches!(bad, Err(SessionError::Spec(_))));
}

#[tokio::test]
async fn a_lost_guest_ends_its_sessions_after_what_came() {
    let dir = runtime_dir();
    let guest = guest(dir.path(), |guest| {
        guest.resume();
        let (ended, lost) = (guest.begin(), guest.begin());
        guest.write(ended, 0, b"all");
        guest.end(ended, 3);
        guest.write(lost, 0, b"some");
    });
    let link = SessionLink::new(dir.path().to_owned());
    for number in [1, 2] {
        within(link.open(id(number), spec())).await.unwrap();
    }
    let mut lost = within(link.attach(id(2), None)).await.unwrap();
    let (ends, ()) = within(guest).await.unwrap();
    let end = link.end();
    assert!(end.is_used());
    // The VMM's and the waiter's.
    drop(ends);
    within(end.vmm_ended()).await;
    assert_eq!(told(&mut lost).await, stdout(0, "some"));
    assert_eq!(told(&mut lost).await, SessionEvent::Ended(SessionEnd::Gone));
    let mut ended = within(link.attach(id(1), None)).await.unwrap();
    assert_eq!(told(&mut ended).await, stdout(0, "all"));
    assert_eq!(told(&mut ended).await, EXITED);
    let opened = within(link.open(id(3), spec())).await;
    assert!(matches!(opened, Err(SessionError::Unreachable(_))), "{opened:?}");
    // Clients that still fetch may do so when nobody else has the link any more.
    drop(link);
    within(ended.requests.send(SessionRequest::TakenEnd)).await.unwrap();
    assert_eq!(within(ended.events.recv()).await, None);
    drop(lost);
}

#[tokio::test]
async fn a_guest_that_is_gone_is_not_asked() {
    let dir = runtime_dir();
    let link = SessionLink::new(dir.path().to_owned());
    assert!(!link.end().is_used());
    within(link.end().vmm_ended()).await;
    assert!(matches!(within(link.list()).await, Err(SessionError::Unreachable(_))));
    assert!(!was_used(dir.path()));
}

#[tokio::test]
async fn a_hostile_guest_loses_its_sessions() {
    let dir = runtime_dir();
    let guest = guest(dir.path(), |guest| {
        guest.resume();
        let session = guest.begin();
        guest.write(session, 0, b"good");
        guest.write(session, 2, b"doubled");
        guest.end(session, 9);
    });
    let link = SessionLink::new(dir.path().to_owned());
    within(link.open(id(1), spec())).await.unwrap();
    let mut client = within(link.attach(id(1), None)).await.unwrap();
    assert_eq!(told(&mut client).await, stdout(0, "good"));
    assert_eq!(told(&mut client).await, SessionEvent::Ended(SessionEnd::Gone));
    let error = within(link.open(id(2), spec())).await.unwrap_err();
    assert_eq!(error, SessionError::Unreachable("it told bytes up to 2, where 4 is known".to_owned()));
    within(guest).await.unwrap();
}

/// The next daemon finds the sessions; what the first one had not read of its own is passed over.
#[tokio::test]
async fn the_next_host_goes_on() {
    let dir = runtime_dir();
    let first = guest(dir.path(), |guest| {
        guest.resume();
        let session = guest.begin();
        guest.write(session, 0, b"0123456789");
        session
    });
    let link = SessionLink::new(dir.path().to_owned());
    within(link.open(id(1), spec())).await.unwrap();
    let mut client = within(link.attach(id(1), None)).await.unwrap();
    assert_eq!(told(&mut client).await, stdout(0, "0123456789"));
    let (mut guest, session) = within(first).await.unwrap();
    within(client.requests.send(SessionRequest::Taken(SessionOffsets { stdout: 4, stderr: 0 }))).await.unwrap();
    within(link.list()).await.unwrap();
    drop(link);
    assert_eq!(within(client.events.recv()).await, None, "without an end");
    eventually("the first one's end is closed", || open_files(&dir.path().join(port::OUT)) == 1).await;
    let second = tokio::task::spawn_blocking(move || {
        // For nobody: the first host's number, and half a frame.
        guest.write(session, 10, &vec![0; 20_000]);
        guest.out.write_all(&[0xF5, b'S', b's', 0xFF, 1, 4]).unwrap();
        let taken = loop {
            match guest.hear() {
                (0, Content::Message(SessionCommand::Resume)) => break 4,
                (1, Content::Message(SessionCommand::Taken { .. })) => {}
                other => panic!("{other:?}"),
            }
        };
        guest.say(0, &SessionReport::Resumed { sessions: 1 });
        let output = |taken, written| sandpen_guest::protocol::session::OutputState { taken, written, ended: false };
        let notes = sandpen_guest::protocol::session::SessionNotes {
            label: "cat".to_owned(),
            asked_at: Duration::from_secs(1),
            detached: false,
        };
        let state = sandpen_guest::protocol::session::SessionState {
            notes,
            terminal: false,
            stdin: true,
            received: 0,
            input_ended: false,
            stdout: output(taken, 10),
            stderr: output(0, 0),
            end: None,
        };
        guest.say(session, &SessionReport::State(state));
        let (_, Content::Message(SessionCommand::Taken { .. })) = guest.hear() else { panic!("no limit") };
        guest.write(session, taken, b"456789");
        guest.end(session, 10);
        assert_eq!(guest.next(), (session, Content::Message(SessionCommand::Forget)));
    });
    let link = SessionLink::new(dir.path().to_owned());
    assert!(was_used(dir.path()));
    link.resume();
    let opened = within(link.open(id(1), spec())).await.unwrap();
    assert_eq!(opened.kept_from.stdout, 4, "and not begun once more");
    let mut client = within(link.attach(id(1), Some(SessionOffsets { stdout: 7, stderr: 0 }))).await.unwrap();
    assert_eq!(told(&mut client).await, stdout(7, "789"));
    assert_eq!(told(&mut client).await, EXITED);
    within(client.requests.send(SessionRequest::TakenEnd)).await.unwrap();
    within(second).await.unwrap();
}

/// Whoever waits for the room of a stopped guest is not in the way of others, and nothing is cut.
#[tokio::test]
async fn a_guest_that_stops_reading_gets_all_when_it_goes_on() {
    let dir = runtime_dir();
    let (go_on, stopped) = std::sync::mpsc::channel();
    let guest = guest(dir.path(), move |guest| {
        guest.resume();
        stopped.recv().unwrap();
        (0..3).map(|_| guest.begin()).collect::<Vec<_>>()
    });
    let link = SessionLink::new(dir.path().to_owned());
    assert_eq!(within(link.list()).await, Ok(Vec::new()));
    // More than the pipe holds.
    let long = SessionSpec::command(["echo", &"x".repeat(600_000)]);
    let opened: Vec<_> = (1..=3).map(|number| tokio::spawn(link.open(id(number), long.clone()))).collect();
    let pipe = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(dir.path().join("sessions.in"));
    let mut pipe = pipe.unwrap();
    let full = |pipe: &mut File| matches!(pipe.write(&[]), Ok(0)) && is_full(pipe);
    eventually("the pipe is full", || full(&mut pipe)).await;
    go_on.send(()).unwrap();
    for opened in opened {
        within(opened).await.unwrap().unwrap();
    }
    let mut begun = within(guest).await.unwrap().1;
    begun.sort_unstable();
    assert_eq!(begun, [1, 2, 3]);
}

/// Whether a pipe has no room for a page.
fn is_full(pipe: &File) -> bool {
    use std::os::fd::AsFd as _;
    let mut wanted = [nix::poll::PollFd::new(pipe.as_fd(), nix::poll::PollFlags::POLLOUT)];
    matches!(nix::poll::poll(&mut wanted, nix::poll::PollTimeout::ZERO), Ok(0))
}

/// Whoever has the end says so and goes at once.
#[tokio::test]
async fn the_last_request_of_a_client_that_goes_counts() {
    let dir = runtime_dir();
    let guest = guest(dir.path(), |guest| {
        guest.resume();
        for _ in 0..20 {
            let session = guest.begin();
            guest.end(session, 0);
            assert_eq!(guest.next(), (session, Content::Message(SessionCommand::Forget)));
        }
    });
    let link = SessionLink::new(dir.path().to_owned());
    for number in 1..=20 {
        within(link.open(id(number), spec())).await.unwrap();
        let mut client = within(link.attach(id(number), None)).await.unwrap();
        while event(&mut client).await != EXITED {}
        within(client.requests.send(SessionRequest::TakenEnd)).await.unwrap();
        if number % 2 == 0 {
            // The requests go before the events.
            drop(client.requests);
        } else {
            drop(client);
        }
        let deadline = Instant::now() + LIMIT;
        while !within(link.list()).await.unwrap().is_empty() {
            assert!(Instant::now() < deadline, "its end was taken");
            tokio::task::yield_now().await;
        }
    }
    within(guest).await.unwrap();
}
