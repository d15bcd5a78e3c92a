//! What a guest may not say.

use super::*;

/// A table, whom it is told of, and what; only the last is not to be.
type Case = (fn() -> Host, u64, Vec<Content<SessionReport>>);

#[test]
fn each_message_has_its_place() {
    let bytes = |stream| Content::Bytes { stream, offset: 0, bytes: vec![1] };
    let out_end = |total| SessionReport::StreamEnded { stream: SessionStream::Stdout, total };
    let message = Content::Message;
    let asked_one: fn() -> Host = || {
        let mut host = Host::up();
        assert_eq!(host.table.open(Token(1), id(1), asked(true, false), host.now), None);
        host
    };
    let found: fn() -> Host = || {
        let mut host = Host::new();
        host.say(0, SessionReport::Resumed { sessions: 2 }).unwrap();
        host
    };
    let ended: fn() -> Host = || {
        let mut host = Host::running(true, false);
        host.ended(1, [0, 0], CODE_0);
        host
    };
    let running: fn() -> Host = || Host::running(true, false);
    let window = |received, limit| SessionReport::InputWindow { received, limit };
    let untaken = OutputState { taken: 2, written: 1, ended: false };
    let cases: Vec<Case> = vec![
        (Host::new, 0, vec![message(SessionReport::Closing)]),
        (Host::new, 1, vec![message(SessionReport::State(state()))]),
        (Host::new, 1, vec![bytes(SessionStream::Stdout)]),
        (Host::new, 1, vec![message(SessionReport::Resumed { sessions: 0 })]),
        (Host::new, 0, vec![message(SessionReport::Resumed { sessions: 257 })]),
        (found, 0, vec![message(SessionReport::State(state()))]),
        (found, 1, vec![message(SessionReport::State(state())); 2]),
        (found, 1, vec![message(SessionReport::State(SessionState { end: Some(CODE_0), ..state() }))]),
        (found, 1, vec![message(SessionReport::State(SessionState { stdout: untaken, ..state() }))]),
        (found, 0, vec![message(SessionReport::Resumed { sessions: 2 })]),
        (found, 1, vec![bytes(SessionStream::Stdout)]),
        (Host::up, 1, vec![message(SessionReport::Started)]),
        (Host::up, 0, vec![bytes(SessionStream::Stdout)]),
        (Host::up, 0, vec![message(SessionReport::Resumed { sessions: 0 })]),
        (Host::up, 0, vec![message(SessionReport::Closing); 2]),
        (Host::up, 1, vec![message(SessionReport::Closing)]),
        (asked_one, 1, vec![message(SessionReport::Started)]),
        (asked_one, 1, vec![bytes(SessionStream::Stdout)]),
        (asked_one, 1, vec![message(SessionReport::InputClosed)]),
        (running, 1, vec![message(SessionReport::Started)]),
        (running, 1, vec![message(SessionReport::State(state()))]),
        (running, 1, vec![message(SessionReport::Refused(SessionRefusal::TooMany))]),
        (running, 1, vec![message(SessionReport::Ended(CODE_0))]),
        (running, 1, vec![message(out_end(0)), bytes(SessionStream::Stdout)]),
        (running, 1, vec![message(out_end(0)), message(out_end(0))]),
        (running, 1, vec![bytes(SessionStream::Stdout), message(out_end(0))]),
        (running, 1, vec![bytes(SessionStream::Stdout), bytes(SessionStream::Stdout)]),
        (running, 1, vec![bytes(SessionStream::Stdin)]),
        (running, 1, vec![message(window(1, 1))]),
        (running, 1, vec![message(window(0, 9)), message(window(0, 8))]),
        (running, 1, vec![message(window(0, u64::MAX))]),
        (running, 1, vec![message(SessionReport::InputClosed); 2]),
        (running, 1, vec![message(SessionReport::InputClosed), message(window(0, 1))]),
        (ended, 1, vec![message(SessionReport::Ended(CODE_0))]),
        (ended, 1, vec![message(window(0, 9))]),
        (ended, 1, vec![bytes(SessionStream::Stderr)]),
    ];
    for (make, session, contents) in cases {
        let mut host = make();
        let text = format!("{session}: {contents:?}");
        let last = contents.len() - 1;
        for (at, content) in contents.into_iter().enumerate() {
            assert_eq!(host.frame(session, content).is_err(), at == last, "{text}");
        }
    }
    let mut host = Host::running(false, false);
    host.say(1, SessionReport::StreamEnded { stream: SessionStream::Stdin, total: 0 }).unwrap_err();
    host.say(1, window(0, 1)).unwrap_err();
    let mut host = Host::running(false, false);
    let [stdout, stderr] = [SessionStream::Stdout, SessionStream::Stderr];
    host.say(1, SessionReport::StreamEnded { stream: stdout, total: 0 }).unwrap();
    host.say(1, SessionReport::StreamEnded { stream: stderr, total: 0 }).unwrap();
    let end = GuestEnd::Exited(WorkloadEnd::Signal(65));
    assert_eq!(host.say(1, SessionReport::Ended(end)), Err(Broken::Signal(65)));
}

#[test]
fn more_than_was_allowed_is_refused() {
    let mut host = Host::running(false, false);
    for offset in (0..1 << 20).step_by(32 << 10) {
        host.write(1, SessionStream::Stdout, offset, &vec![0; 32 << 10]).unwrap();
    }
    assert!(matches!(host.write(1, SessionStream::Stdout, 1 << 20, b"x"), Err(Broken::Offset { .. })));
}

#[test]
fn words_of_an_end_are_fit_to_be_shown() {
    let mut host = Host::up();
    assert_eq!(host.table.open(Token(1), id(1), asked(false, false), host.now), None);
    host.sent();
    let failure = StartFailure { code: StartFailureCode::NotExecutable, message: "\x1b".repeat(20_000) };
    host.say(1, SessionReport::Ended(GuestEnd::NotStarted(failure))).unwrap();
    let info = host.table.take_answers().remove(0).1.unwrap();
    let Some(SessionEnd::NotStarted { code: 126, message }) = info.end else { panic!("{info:?}") };
    assert_eq!(message, " ".repeat(4096));
    let mut host = Host::new();
    host.say(0, SessionReport::Resumed { sessions: 1 }).unwrap();
    let notes = SessionNotes { label: "ü\n".repeat(10_000), asked_at: Duration::MAX, detached: true };
    host.say(1, SessionReport::State(SessionState { notes, ..state() })).unwrap();
    let info = host.table.list().unwrap().remove(0);
    assert!(info.label.len() <= 256 && !info.label.contains('\n'));
}
