//! How sessions begin, go from client to client, and end.

use super::*;

#[test]
fn a_session_is_asked_for_once_however_often_it_is_asked() {
    let mut host = Host::up();
    let spec = asked(false, false);
    let start = spec.start.clone();
    assert_eq!(host.table.open(Token(1), id(9), spec, host.now), None);
    assert_eq!(host.table.open(Token(2), id(9), asked(false, false), host.now), None, "it is under way");
    assert!(host.ids().is_empty(), "it has not begun");
    let sent = host.sent();
    let len = u32::try_from(start.len()).unwrap();
    assert_eq!(sent[0], (9, Content::Message(SessionCommand::Open { len })));
    for (at, stream) in [(1, SessionStream::Stdout), (2, SessionStream::Stderr)] {
        let taken = SessionCommand::Taken { stream, taken: 0, limit: 1 << 20 };
        assert_eq!(sent[at], (9, Content::Message(taken)));
    }
    assert_eq!(sent[3], (9, Content::Bytes { stream: SessionStream::Spec, offset: 0, bytes: start }));
    assert_eq!(sent.len(), 4);
    host.say(9, SessionReport::Started).unwrap();
    let answers = host.table.take_answers();
    assert_eq!(answers.iter().map(|(token, _)| token.0).collect::<Vec<_>>(), [1, 2]);
    let opened = host.table.open(Token(3), id(9), asked(false, false), host.now).unwrap().unwrap();
    assert_eq!((opened.label.as_str(), opened.end), ("sh -c true", None));
    assert!(host.sent().is_empty());
}

/// A guest takes another one's begin for the end of what it was told of the first.
#[test]
fn sessions_are_described_one_after_the_other() {
    let mut host = Host::running(true, false);
    let client = host.attach(1);
    host.say(1, SessionReport::InputWindow { received: 0, limit: 50_000 }).unwrap();
    for number in [2, 3, 4] {
        let spec = SessionSpec::command(["echo", &"x".repeat(20_000)]);
        let spec = Asked::new(&spec, DateTime::UNIX_EPOCH).unwrap();
        assert_eq!(host.table.open(Token(number), id(number), spec, host.now), None);
    }
    host.request(client, SessionRequest::Input { offset: 0, bytes: vec![0; 50_000].into() });
    let first: Vec<_> = (0..4).map(|_| host.table.next_frame().unwrap().unwrap()).collect();
    assert_eq!(first.len(), 4);
    // The one that is under way is refused: what is left of it is not sent.
    host.reader = SessionFrameReader::new();
    host.say(2, SessionReport::Refused(SessionRefusal::TooMany)).unwrap();
    let sent = host.sent();
    assert!(sent.iter().all(|(session, _)| *session != 2));
    let opened = |of| sent.iter().position(|(session, _)| *session == of).unwrap();
    let last = |of| sent.iter().rposition(|(session, _)| *session == of).unwrap();
    assert!(opened(3) < last(3) && last(3) < opened(4));
    assert!(opened(1) < opened(4) && last(1) > opened(3), "others' input does not wait");
}

#[test]
fn what_cannot_begin_is_said() {
    let mut host = Host::up();
    assert_eq!(host.table.open(Token(1), id(1), asked(false, false), host.now), None);
    host.sent();
    let failure = StartFailure::new(StartFailureCode::NotFound, "no\x07 such");
    host.say(1, SessionReport::Ended(GuestEnd::NotStarted(failure))).unwrap();
    let end = SessionEnd::NotStarted { code: 127, message: "no  such".to_owned() };
    let (_, answer) = host.table.take_answers().remove(0);
    assert_eq!(answer.unwrap().end, Some(end.clone()));
    let client = host.attach(1);
    assert_eq!(host.events(client), [SessionEvent::Ended(end)]);
    for (refusal, error) in [
        (SessionRefusal::TooMany, SessionError::TooMany { max: SESSIONS_MAX }),
        (SessionRefusal::NotRunning, SessionError::NotRunning),
        (SessionRefusal::Closing, SessionError::NotRunning),
    ] {
        assert_eq!(host.table.open(Token(2), id(2), asked(false, false), host.now), None);
        host.say(2, SessionReport::Refused(refusal)).unwrap();
        assert_eq!(host.table.take_answers(), [(Token(2), Err(error))]);
    }
    assert_eq!(host.ids(), [1]);
}

#[test]
fn the_latest_client_has_it() {
    let mut host = Host::running(true, false);
    let first = host.attach(1);
    assert_eq!(host.events(first), [window(0, 0)]);
    host.write(1, SessionStream::Stdout, 0, b"hello").unwrap();
    host.say(1, SessionReport::InputWindow { received: 0, limit: 100 }).unwrap();
    assert_eq!(host.events(first), [window(0, 100), stdout(0, "hello")]);
    let taken = SessionOffsets { stdout: 2, stderr: 0 };
    host.request(first, SessionRequest::Taken(taken));
    let second = host.attach(1);
    assert_eq!(host.table.take_farewells(), [(first, Some(SessionEvent::Replaced))]);
    assert_eq!(host.events(second), [window(0, 100), stdout(2, "llo")]);
    assert!(host.events(first).is_empty());
    host.request(first, SessionRequest::HangUp);
    assert!(host.commands().is_empty(), "it has nothing to say any more");
    let from = SessionOffsets { stdout: 1, stderr: 0 };
    let error = host.table.attach(id(1), Some(from)).unwrap_err();
    assert_eq!(error, SessionError::NotKept { stream: OutputStream::Stdout, asked: 1, kept: 2 });
    let ahead = host.table.attach(id(1), Some(SessionOffsets { stdout: 6, stderr: 0 })).unwrap_err();
    assert!(matches!(ahead, SessionError::Ahead { stream: "stdout", asked: 6, there: 5 }));
    assert_eq!(host.table.attach(id(5), None).unwrap_err(), SessionError::NotFound(id(5)));
    host.request(second, SessionRequest::Taken(SessionOffsets { stdout: 6, stderr: 0 }));
    let refused = SessionEvent::Refused(SessionError::Ahead { stream: "stdout", asked: 6, there: 5 });
    assert_eq!(host.table.take_farewells(), [(second, Some(refused))]);
    assert!(!host.table.list().unwrap()[0].attached);
}

#[test]
fn an_end_is_told_after_all_output_and_then_forgotten() {
    let mut host = Host::running(false, false);
    let client = host.attach(1);
    assert!(host.events(client).is_empty(), "it takes no input");
    host.ended(1, [3, 2], CODE_0);
    host.write(1, SessionStream::Stderr, 0, b"er").unwrap();
    assert_eq!(host.events(client), [output(OutputStream::Stderr, 0, "er")]);
    host.request(client, SessionRequest::TakenEnd);
    assert_eq!(host.ids(), [1], "it was not told");
    host.write(1, SessionStream::Stdout, 0, b"out").unwrap();
    assert_eq!(host.events(client), [stdout(0, "out"), EXITED]);
    assert!(host.commands().is_empty());
    host.request(client, SessionRequest::TakenEnd);
    assert_eq!(host.commands(), [(1, SessionCommand::Forget)]);
    assert_eq!(host.table.take_farewells(), [(client, None)]);
    assert!(host.ids().is_empty());
    assert_eq!(
        host.table.open(Token(7), id(1), asked(false, false), host.now),
        Some(Err(SessionError::NotFound(id(1)))),
        "it ran once"
    );
}

#[test]
fn a_session_whose_client_stays_away_is_hung_up_and_then_forgotten() {
    let mut host = Host::running(false, false);
    let client = host.attach(1);
    host.pass(CLIENT_LIMIT * 3);
    assert!(host.commands().is_empty(), "its client is there");
    host.table.client_gone(client, host.now);
    host.pass(CLIENT_LIMIT.saturating_sub(Duration::from_millis(1)));
    assert!(host.commands().is_empty());
    assert_eq!(host.table.deadline(), Some(host.now + Duration::from_millis(1)));
    host.pass(Duration::from_millis(1));
    assert_eq!(host.commands(), [(1, SessionCommand::HangUp)]);
    assert_eq!(host.table.deadline(), Some(host.now + CLIENT_LIMIT));
    host.pass(CLIENT_LIMIT / 2);
    assert!(host.commands().is_empty(), "once");
    // Its last words, of which the guest was not told that anybody has them.
    host.ended(1, [5, 0], GuestEnd::Exited(WorkloadEnd::Signal(1)));
    host.pass(Duration::ZERO);
    assert_eq!(host.commands(), [(1, SessionCommand::Forget)]);
    assert!(host.ids().is_empty());
    host.write(1, SessionStream::Stdout, 0, b"bytes").unwrap();
}

/// A guest tells an end behind the last byte, and of a full stream nobody here takes one.
#[test]
fn what_does_not_end_of_being_hung_up_is_forgotten() {
    let mut host = Host::running(false, false);
    host.write(1, SessionStream::Stdout, 0, &[7; 4096]).unwrap();
    host.pass(CLIENT_LIMIT);
    assert_eq!(host.commands(), [(1, SessionCommand::HangUp)]);
    host.pass(CLIENT_LIMIT);
    assert_eq!(host.commands(), [(1, SessionCommand::Forget)]);
    assert!(host.ids().is_empty() && host.table.deadline().is_none());
    host.ended(1, [4096, 0], GuestEnd::Exited(WorkloadEnd::Signal(9)));
    // One that somebody comes back for is not.
    let mut host = Host::running(false, false);
    host.pass(CLIENT_LIMIT);
    let client = host.attach(1);
    host.pass(CLIENT_LIMIT * 3);
    assert_eq!(host.commands(), [(1, SessionCommand::HangUp)]);
    host.table.client_gone(client, host.now);
    host.pass(CLIENT_LIMIT * 2);
    assert_eq!(host.commands(), [(1, SessionCommand::Forget)]);
}

#[test]
fn a_detached_session_waits_for_anybody() {
    let mut host = Host::running(false, true);
    host.begin(2, false, false);
    let client = host.attach(2);
    host.request(client, SessionRequest::Detach);
    assert_eq!(host.table.take_farewells(), [(client, Some(SessionEvent::Left))]);
    assert_eq!(host.commands(), [(2, SessionCommand::Detach)]);
    for number in [1, 2] {
        host.ended(number, [0, 0], CODE_0);
    }
    host.pass(CLIENT_LIMIT * 100);
    assert_eq!(host.ids(), [1, 2]);
    assert!(host.commands().is_empty());
    let client = host.attach(2);
    assert_eq!(host.events(client), [EXITED]);
}

/// A guest tells an end behind the last byte; of a stream that is full nobody takes one.
#[test]
fn a_detached_session_that_is_to_end_does() {
    for (request, command) in
        [(SessionRequest::HangUp, SessionCommand::HangUp), (SessionRequest::Signal(9), SessionCommand::Signal(9))]
    {
        let mut host = Host::running(false, true);
        host.write(1, SessionStream::Stdout, 0, &[7; 4096]).unwrap();
        host.pass(CLIENT_LIMIT * 100);
        host.table.tell(id(1), &request, host.now).unwrap();
        host.pass(CLIENT_LIMIT);
        host.table.tell(id(1), &request, host.now).unwrap();
        assert_eq!(host.commands(), [(1, command.clone()), (1, command)], "somebody may come for what it wrote");
        host.pass(CLIENT_LIMIT);
        assert_eq!(host.commands(), [(1, SessionCommand::Forget)]);
        assert!(host.ids().is_empty());
    }
    // One that does end is there for whoever comes.
    let mut host = Host::running(false, true);
    host.table.tell(id(1), &SessionRequest::Signal(9), host.now).unwrap();
    host.ended(1, [0, 0], GuestEnd::Exited(WorkloadEnd::Signal(9)));
    host.pass(CLIENT_LIMIT * 100);
    assert_eq!(host.ids(), [1]);
}

/// Who asked for it may not wait any more, and look for it.
#[test]
fn what_has_not_begun_yet_is_not_unknown() {
    let mut host = Host::up();
    assert_eq!(host.table.open(Token(1), id(1), asked(false, true), host.now), None);
    for _ in 0..2 {
        assert!(matches!(host.table.attach(id(1), None), Err(SessionError::Unreachable(_))));
        host.sent();
    }
    assert_eq!(host.table.unsent_starts(), 0);
    let kept = host.table.sessions.values().map(|session| match &session.stage {
        Stage::Asked { start, .. } => start.capacity(),
        other => panic!("{other:?}"),
    });
    assert_eq!(kept.sum::<usize>(), 0, "it is in the guest, or lost");
    host.say(1, SessionReport::Started).unwrap();
    host.attach(1);
}

#[test]
fn the_oldest_that_nobody_waits_for_makes_room() {
    let mut host = Host::up();
    for number in 1..=256 {
        host.begin(number, false, number > 250);
    }
    let more = |host: &mut Host| host.table.open(Token(0), id(1000), asked(false, false), host.now);
    assert_eq!(more(&mut host), Some(Err(SessionError::TooMany { max: 256 })));
    for number in [255, 254, 253] {
        host.ended(number, [0, 0], CODE_0);
    }
    let client = host.attach(253);
    assert_eq!(more(&mut host), None);
    let commands = host.commands();
    assert_eq!(commands[0], (254, SessionCommand::Forget));
    assert!(matches!(commands[1], (1000, SessionCommand::Open { .. })));
    assert_eq!(host.events(client), [EXITED]);
}

#[test]
fn another_host_finds_them() {
    let mut host = Host::new();
    assert!(!host.table.takes_asks(), "it knows nothing yet");
    host.table
        .take(SessionFrame { epoch: 5, session: 3, content: Content::Message(SessionReport::Started) }, host.now)
        .unwrap();
    host.say(0, SessionReport::Resumed { sessions: 2 }).unwrap();
    let stdout_there = OutputState { taken: 10, written: 14, ended: true };
    let stderr_there = OutputState { taken: 0, written: 0, ended: true };
    let ended = SessionState { stdout: stdout_there, stderr: stderr_there, end: Some(CODE_0), stdin: false, ..state() };
    host.say(4, SessionReport::State(ended)).unwrap();
    assert!(!host.table.takes_asks());
    host.say(3, SessionReport::State(SessionState { received: 9, ..state() })).unwrap();
    assert!(host.table.takes_asks());
    let taken = |stream, taken, limit| Content::Message(SessionCommand::Taken { stream, taken, limit });
    let window = 1 << 20;
    assert_eq!(
        host.sent(),
        [
            (3, taken(SessionStream::Stdout, 0, window)),
            (3, taken(SessionStream::Stderr, 0, window)),
            (4, taken(SessionStream::Stdout, 10, 10 + window)),
            (4, taken(SessionStream::Stderr, 0, window)),
        ]
    );
    let infos = host.table.list().unwrap();
    assert_eq!((infos[0].stdin, infos[0].label.as_str()), (9, "sh "));
    assert_eq!(infos[1].end, Some(SessionEnd::Exited(ExitStatus::Code(0))));
    let client = host.table.attach(id(4), Some(SessionOffsets { stdout: 12, stderr: 0 })).unwrap().0;
    host.write(4, SessionStream::Stdout, 10, b"abcd").unwrap();
    assert_eq!(host.events(client), [stdout(12, "cd"), EXITED]);
    host.say(3, SessionReport::Started).unwrap();
    host.pass(CLIENT_LIMIT);
    assert_eq!(host.commands(), [(3, SessionCommand::HangUp)], "nobody came back");
}

#[test]
fn a_guest_that_does_not_answer_is_waited_for_and_then_not() {
    let mut host = Host::new();
    host.pass(RESUME_LIMIT.saturating_sub(Duration::from_millis(1)));
    assert!(!host.table.takes_asks());
    host.pass(Duration::from_millis(1));
    assert!(host.table.takes_asks());
    let opened = host.table.open(Token(1), id(1), asked(false, false), host.now);
    assert!(matches!(opened, Some(Err(SessionError::Unreachable(_)))));
    assert!(matches!(host.table.list(), Err(SessionError::Unreachable(_))));
    assert!(matches!(host.table.attach(id(1), None), Err(SessionError::Unreachable(_))));
    assert!(matches!(host.table.tell(id(1), &SessionRequest::HangUp, host.now), Err(SessionError::Unreachable(_))));
    assert_eq!(host.table.deadline(), None);
    host.say(0, SessionReport::Resumed { sessions: 0 }).unwrap();
    host.begin(1, false, false);
}

#[test]
fn signals_and_sizes_are_passed_on() {
    let mut host = Host::up();
    let spec = SessionSpec {
        terminal: sandpen_types::spec::TerminalSize::new(24, 80),
        ..SessionSpec::new(sandpen_types::session::SessionProgram::Shell)
    };
    let spec = Asked::new(&spec, DateTime::UNIX_EPOCH).unwrap();
    assert_eq!(host.table.open(Token(1), id(1), spec, host.now), None);
    assert_eq!(host.table.tell(id(1), &SessionRequest::Signal(1), host.now), Err(SessionError::NotFound(id(1))));
    host.sent();
    host.say(1, SessionReport::Started).unwrap();
    let client = host.attach(1);
    let size = |rows| SessionRequest::Resize(sandpen_types::spec::TerminalSize::new(rows, 80).unwrap());
    for request in [size(1), SessionRequest::Signal(2), SessionRequest::Signal(65), size(2), SessionRequest::HangUp] {
        host.request(client, request);
    }
    host.table.tell(id(1), &SessionRequest::Signal(10), host.now).unwrap();
    host.table.tell(id(1), &SessionRequest::TakenEnd, host.now).unwrap();
    let size = sandpen_guest::protocol::TerminalSize { rows: 2, cols: 80 };
    let expected = [
        (1, SessionCommand::Signal(2)),
        (1, SessionCommand::HangUp),
        (1, SessionCommand::Signal(10)),
        (1, SessionCommand::Resize(size)),
    ];
    assert_eq!(host.commands(), expected);
    assert_eq!(host.table.tell(id(2), &SessionRequest::HangUp, host.now), Err(SessionError::NotFound(id(2))));
}

#[test]
fn a_guest_that_does_not_read_holds_clients_up() {
    let mut host = Host::running(true, false);
    let client = host.attach(1);
    let mut signals = 0;
    while host.table.takes_requests(client) {
        host.request(client, SessionRequest::Signal(10));
        signals += 1;
    }
    assert!((500..1000).contains(&signals) && !host.table.takes_asks());
    host.table.take_touched();
    assert_eq!(host.commands().len(), signals);
    assert!(host.table.take_touched().contains(&client), "there is room again");
    assert!(host.table.takes_requests(client));
}
