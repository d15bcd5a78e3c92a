//! Bytes of sessions.

use super::*;

const SIZE: TerminalSize = TerminalSize { rows: 33, cols: 77 };

#[test]
fn both_streams_come_byte_for_byte() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let all: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let dir = tempdir();
    fs::write(dir.0.join("all"), &all).unwrap();
    let (end, stdout, stderr) = link.run(1, script(&format!("cd {}; cat all; cat all >&2; exit 42", dir.0.display())));
    assert_eq!(end, code(42));
    assert!(stdout == all && stderr == all);
    host.done();
}

#[test]
fn room_may_be_made_before_the_description_is_whole() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let spec = postcard::to_stdvec(&SessionStart::Run(script("echo said; exit 1"))).unwrap();
    link.tell(1, SessionCommand::Open { len: u32::try_from(spec.len()).unwrap() });
    link.seen.insert(1, Seen::default());
    link.take(1);
    link.bytes(1, SessionStream::Spec, 0, &spec);
    assert_eq!(link.end(1), (code(1), b"said\n".to_vec(), vec![]));
    host.done();
}

#[test]
fn input_arrives_whole_and_ends() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    link.open(1, fed("cat; echo done >&2"));
    let text = "0123456789abcde\n".repeat(200_000);
    // What is written beyond the pipes' room has to be read meanwhile.
    let mut sent = 0;
    while sent < text.len() {
        let window = link.seen[&1].window;
        let end = text.len().min(window.map_or(0, |(_, limit)| usize::try_from(limit).unwrap()));
        if end > sent {
            link.bytes(1, SessionStream::Stdin, sent as u64, &text.as_bytes()[sent..end]);
            sent = end;
        }
        if sent < text.len() {
            link.hear();
        }
    }
    link.tell(1, SessionCommand::EndInput { total: text.len() as u64 });
    let (end, stdout, stderr) = link.end(1);
    assert_eq!((end, stderr), (code(0), b"done\n".to_vec()));
    assert!(stdout == text.into_bytes());
    // None at all.
    assert_eq!(link.run(2, script("cat; exit 3")).0, code(3));
    link.open(3, fed("cat; exit 4"));
    link.tell(3, SessionCommand::EndInput { total: 0 });
    assert_eq!(link.end(3).0, code(4));
    host.done();
}

#[test]
fn a_session_that_never_reads_its_input_holds_up_nothing_and_a_reader_that_went_is_told() {
    let mut host = Host::with_workload();
    let mut link = host.link(1);
    link.open(1, fed("exec sleep 1000"));
    link.until(|link| link.seen[&1].window.is_some());
    // More than the pipe takes, up to the very limit, and beyond.
    let mut sent = 0;
    loop {
        let limit = usize::try_from(link.seen[&1].window.unwrap().1).unwrap();
        if limit == sent {
            break;
        }
        link.bytes(1, SessionStream::Stdin, sent as u64, &vec![b'x'; limit - sent]);
        sent = limit;
        // What the pipe takes makes room once more: a question is answered with all there is.
        link.tell(1, SessionCommand::Open { len: 1 });
        link.until(|link| link.seen[&1].state.is_some());
        let seen = link.seen.get_mut(&1).unwrap();
        (seen.state, seen.window) = (None, None);
        link.until(|link| link.seen[&1].window.is_some());
    }
    let window = Budget::of_memory(sysinfo().unwrap().ram_total()).window(1);
    assert!(sent > window && sent <= window + (64 << 10), "{sent}");
    link.bytes(1, SessionStream::Stdin, sent as u64, b"too much");
    host.send(&HostMessage::Query { nonce: 5 });
    assert_eq!(host.receive(), UNDERSTANDS);
    assert_eq!(host.receive(), GuestMessage::Status { nonce: 5, state: GuestState::Running });
    let (end, stdout, _) = link.run(2, script("echo beside"));
    assert_eq!((end, stdout), (code(0), b"beside\n".to_vec()));
    let mut link = host.link(2);
    assert_eq!(link.seen[&1].state.as_ref().unwrap().received, sent as u64, "what was too much is not there");
    link.tell(1, SessionCommand::Signal(15));
    link.take(1);
    assert_eq!(link.end(1).0, killed_by(15));
    link.open(3, fed("exec <&-; echo closed; read x <&1 2>/dev/null; exec sleep 1000"));
    link.sees(3, "closed");
    link.until(|link| link.seen[&3].input_closed);
    link.tell(3, SessionCommand::HangUp);
    assert_eq!(link.end(3).0, killed_by(1));
    host.done();
}

#[test]
fn a_terminal_has_its_size_its_keys_and_its_end_of_input() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let text = "stty size; trap 'stty size; echo resized' WINCH; stty -echo; echo $TERM ready; \
                while ! read line; do :; done; trap - WINCH; echo got $line; cat; echo eof; exit 6";
    link.open(1, RunSession { terminal: Some(SIZE), ..fed(text) });
    link.sees(1, "33 77\r\nxterm ready\r\n");
    link.tell(1, SessionCommand::Resize(TerminalSize { rows: 5, cols: 65535 }));
    // A trap runs after the read that it interrupts, in some shells.
    link.feed(1, b"line\n");
    link.sees(1, "5 65535\r\nresized\r\n");
    link.sees(1, "got line\r\n");
    link.bytes(1, SessionStream::Stdin, 5, b"unfinished");
    link.tell(1, SessionCommand::EndInput { total: 15 });
    let (end, stdout, stderr) = link.end(1);
    assert_eq!((end, stderr), (code(6), vec![]));
    assert!(stdout.ends_with(b"unfinishedeof\r\n"), "{}", String::from_utf8_lossy(&stdout));
    // A key that is a signal.
    link.open(
        2,
        RunSession {
            terminal: Some(SIZE),
            ..fed("trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done")
        },
    );
    link.sees(2, "ready");
    link.feed(2, b"\x03");
    let (end, stdout, _) = link.end(2);
    assert!(end == code(5) && stdout.ends_with(b"caught\r\n"));
    host.done();
}

#[test]
fn all_that_is_written_on_a_terminal_comes() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let text = "stty -opost; yes 0123456789abcdef | head -c 300000; exit 4";
    let (end, stdout, _) = link.run(1, RunSession { terminal: Some(SIZE), ..script(text) });
    assert_eq!((end, stdout.len()), (code(4), 300_000));
    assert!(stdout.chunks(17).all(|line| b"0123456789abcdef\n".starts_with(line)));
    host.done();
}

#[test]
fn a_host_that_is_wrong_is_ignored() {
    let host = Host::with_workload();
    let mut link = host.link(7);
    let mut wrong = host.link(7);
    link.open(1, fed("cat"));
    link.until(|link| link.seen[&1].window.is_some());
    wrong.epoch = 6;
    wrong.tell(1, SessionCommand::Forget);
    wrong.bytes(1, SessionStream::Stdin, 0, b"of another epoch");
    // Of no session, of another kind, beyond what there is.
    for id in [0, 2, u64::MAX] {
        for command in [SessionCommand::HangUp, SessionCommand::Forget, SessionCommand::EndInput { total: 3 }] {
            link.tell(id, command);
        }
        link.bytes(id, SessionStream::Stdin, 0, b"nobody's");
        link.bytes(id, SessionStream::Spec, 0, b"nobody's");
    }
    link.bytes(1, SessionStream::Spec, 0, b"it runs already");
    link.bytes(1, SessionStream::Stdin, 1, b"a gap");
    link.bytes(1, SessionStream::Stdin, u64::MAX - 1, b"the end of all numbers");
    let taken = |stream, taken, limit| SessionCommand::Taken { stream, taken, limit };
    for command in [
        taken(SessionStream::Stdin, 0, 100),
        taken(SessionStream::Stdout, 1, 100),
        taken(SessionStream::Stderr, 0, u64::MAX),
        taken(SessionStream::Stderr, u64::MAX, u64::MAX),
        SessionCommand::Resize(SIZE),
        SessionCommand::Signal(0),
        SessionCommand::Signal(-9),
        SessionCommand::Signal(65),
        SessionCommand::Detach,
    ] {
        link.tell(1, command);
    }
    link.port.write_all(&[0xF5; 5000]).unwrap();
    let frame = encode_message::<HostFrame>(7, 1, &SessionCommand::Forget).unwrap();
    link.port.write_all(&frame[..frame.len() - 1]).unwrap();
    link.tell(1, SessionCommand::Resume);
    assert_eq!(link.report(), (0, SessionReport::Resumed { sessions: 1 }));
    let (1, SessionReport::State(state)) = link.report() else { panic!() };
    assert!(state.notes.detached && state.received == 0 && state.stdin && state.end.is_none());
    link.take(1);
    link.bytes(1, SessionStream::Stdin, 0, b"hel");
    link.bytes(1, SessionStream::Stdin, 1, b"ello");
    link.tell(1, SessionCommand::EndInput { total: 4 });
    link.tell(1, SessionCommand::EndInput { total: 5 });
    link.bytes(1, SessionStream::Stdin, 5, b"after the end");
    let (end, stdout, _) = link.end(1);
    assert_eq!((end, stdout), (code(0), b"hello".to_vec()));
    host.done();
}

#[test]
fn what_is_no_session_is_refused() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let spec = postcard::to_stdvec(&SessionStart::Run(script("echo never"))).unwrap();
    let len = u32::try_from(spec.len()).unwrap();
    link.tell(1, SessionCommand::Open { len: 0 });
    link.tell(2, SessionCommand::Open { len: u32::MAX });
    link.tell(3, SessionCommand::Open { len: len + 1 });
    link.bytes(3, SessionStream::Spec, 0, &[&spec[..], b"x"].concat());
    link.tell(4, SessionCommand::Open { len });
    link.bytes(4, SessionStream::Spec, 0, &vec![0xFF; spec.len()]);
    // Half of one, and then another one.
    link.tell(5, SessionCommand::Open { len });
    link.bytes(5, SessionStream::Spec, 0, &spec[..10]);
    link.tell(0, SessionCommand::Open { len });
    let mut long = script("echo never");
    long.notes.label = "x".repeat(257);
    link.describe(6, long);
    link.until(|link| link.refused.len() == 7);
    let ids: Vec<_> = link.refused.iter().map(|(id, refusal)| (*id, *refusal)).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 0, 6].map(|id| (id, SessionRefusal::Malformed)));
    // Half of one at the end of a host.
    link.tell(7, SessionCommand::Open { len });
    link.bytes(7, SessionStream::Spec, 0, &spec[..10]);
    let mut link = host.link(2);
    assert!(link.seen.is_empty());
    link.bytes(7, SessionStream::Spec, 10, &spec[10..]);
    assert_eq!(link.run(7, script("exit 8")).0, code(8));
    host.done();
}
