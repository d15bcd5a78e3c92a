//! Many sessions, and much of each.

use sandpen_guest::protocol::session::SESSIONS_MAX;

use super::*;

fn window(sessions: usize) -> u64 {
    Budget::of_memory(sysinfo().unwrap().ram_total()).window(sessions) as u64
}

#[test]
fn what_nobody_takes_stays_within_the_window() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    link.tenths = None;
    link.open(1, script("yes 0123456 & yes abcdefg >&2"));
    link.started(1);
    let deadline = Instant::now() + Duration::from_secs(30);
    for epoch in 2.. {
        let mut link = host.link(epoch);
        let state = link.seen[&1].state.clone().unwrap();
        assert!(state.stdout.written <= window(1) && state.stderr.written <= window(1), "{state:?}");
        if state.stdout.written == window(1) && state.stderr.written == window(1) {
            // Some of it is taken, and only that comes again.
            let taken = window(1) / 2;
            link.tell(1, SessionCommand::Taken { stream: SessionStream::Stdout, taken, limit: taken });
            break;
        }
        assert!(Instant::now() < deadline);
    }
    for epoch in 1_000_000.. {
        let mut link = host.link(epoch);
        let state = link.seen[&1].state.clone().unwrap();
        assert!(state.stdout.written - state.stdout.taken <= window(1), "{state:?}");
        if state.stdout.written == window(1) * 3 / 2 {
            link.tell(1, SessionCommand::Forget);
            break;
        }
        assert!(Instant::now() < deadline);
    }
    host.done();
}

#[test]
fn what_many_have_written_stays_within_the_budget() {
    const MANY: u64 = 40;
    let host = Host::with_workload();
    let mut link = host.link(1);
    link.tenths = None;
    let budget = Budget::of_memory(sysinfo().unwrap().ram_total());
    let held = |link: &Link| {
        let kept = |output: OutputState| output.written - output.taken;
        let all = link.seen.values().filter_map(|seen| seen.state.as_ref());
        all.map(|state| kept(state.stdout) + kept(state.stderr)).sum::<u64>()
    };
    // Each writes as much as it can while it is the last one.
    for id in 1..=MANY {
        link.open(id, script("yes & exec yes >&2"));
        link.started(id);
        link = Link::join(link.port, id + 1, BTreeMap::new());
        link.tenths = None;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    let least = budget.smallest_window() as u64;
    let mut epoch = MANY + 2;
    loop {
        link = Link::join(link.port, epoch, BTreeMap::new());
        epoch += 1;
        assert!(held(&link) <= budget.bytes() as u64 + 2 * MANY * least + (256 << 10), "{}", held(&link));
        let states = || link.seen.values().map(|seen| seen.state.clone().unwrap());
        if states().all(|state| state.stdout.written >= least && state.stderr.written >= least) {
            break;
        }
        assert!(Instant::now() < deadline, "one gets nothing");
    }
    for id in 1..=MANY {
        link.tell(id, SessionCommand::Forget);
    }
    host.done();
}

#[test]
fn sessions_take_turns() {
    const MANY: u64 = 8;
    const EACH: u64 = 40 << 10;
    let host = Host::with_workload();
    let mut link = host.link(1);
    link.tenths = None;
    for id in 1..=MANY {
        link.open(id, script(&format!("head -c {EACH} /dev/zero; head -c {EACH} /dev/zero >&2")));
    }
    link.until(|link| link.seen.values().all(|seen| seen.end.is_some()));
    let room = |id, stream| {
        encode_message::<HostFrame>(1, id, &SessionCommand::Taken { stream, taken: 0, limit: EACH }).unwrap()
    };
    let rooms = (1..=MANY).flat_map(|id| [room(id, SessionStream::Stdout), room(id, SessionStream::Stderr)]);
    link.port.write_all(&rooms.collect::<Vec<_>>().concat()).unwrap();
    let mut bytes = |frames: u64| {
        let next = || match link.frame() {
            SessionFrame { session, content: Content::Bytes { stream, .. }, .. } => {
                (session, stream == SessionStream::Stdout)
            }
            other => panic!("{other:?}"),
        };
        std::iter::repeat_with(next).take(usize::try_from(frames).unwrap()).collect::<Vec<_>>()
    };
    for is_stdout in [true, false] {
        assert_eq!(bytes(MANY), (1..=MANY).map(|id| (id, is_stdout)).collect::<Vec<_>>());
    }
    bytes(2 * MANY);
    for id in 1..=MANY {
        link.tell(id, SessionCommand::Forget);
    }
    host.done();
}

#[test]
fn there_are_as_many_as_there_can_be_and_no_more() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let last = SESSIONS_MAX as u64 + 1;
    for id in 1..last {
        link.open(id, command(&["true"]));
    }
    link.until(|link| link.seen.values().all(|seen| seen.end.is_some()));
    link.describe(last, command(&["true"]));
    link.until(|link| link.refused == [(last, SessionRefusal::TooMany)]);
    // One that is there already is what it was.
    link.describe(1, command(&["false"]));
    link.until(|link| link.seen[&1].state.is_some());
    assert_eq!(link.seen[&1].state.as_ref().unwrap().end, Some(code(0)));
    let mut link = host.link(2);
    assert_eq!(link.seen.len(), SESSIONS_MAX);
    link.take(1);
    link.end(1);
    assert_eq!(link.run(last, command(&["false"])).0, code(1));
    for id in 2..last {
        link.tell(id, SessionCommand::Forget);
    }
    host.done();
}

#[test]
fn many_that_write_for_ever_hold_up_neither_the_control_port_nor_each_other() {
    const MANY: u64 = 64;
    let mut host = Host::with_workload();
    let mut link = host.link(1);
    for id in 1..=MANY {
        link.open(id, command(&["yes"]));
    }
    link.until(|link| link.seen.values().all(|seen| seen.stdout.len() > 0));
    // While the host reads nothing of them.
    for nonce in 0..20 {
        host.send(&HostMessage::Query { nonce });
        assert_eq!(host.receive(), UNDERSTANDS);
        assert_eq!(host.receive(), GuestMessage::Status { nonce, state: GuestState::Running });
    }
    // While it reads as fast as it can.
    let all = |link: &Link| link.seen.values().map(|seen| seen.stdout.len()).sum::<u64>();
    for nonce in 100..120 {
        let before = all(&link);
        host.send(&HostMessage::Query { nonce });
        host.control.set_nonblocking(true).unwrap();
        let mut chunk = [0; 4096];
        let answer = loop {
            match host.control.read(&mut chunk) {
                Ok(len) => break len,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
            link.hear();
        };
        host.control.set_nonblocking(false).unwrap();
        assert_eq!(host.reader.push(&chunk[..answer]), answer);
        assert_eq!(host.receive(), UNDERSTANDS);
        assert_eq!(host.receive(), GuestMessage::Status { nonce, state: GuestState::Running });
        assert!(all(&link) - before <= 4 << 20, "{} bytes before an answer", all(&link) - before);
    }
    // Each has its turn, and all that it has room for.
    let begun: BTreeMap<_, _> = link.seen.iter().map(|(id, seen)| (*id, seen.stdout.len())).collect();
    link.until(|link| link.seen.iter().all(|(id, seen)| seen.stdout.len() >= begun[id] + ROOM));
    for id in 1..=MANY {
        link.tell(id, SessionCommand::Signal(9));
    }
    for id in 1..=MANY {
        let (end, stdout, _) = link.end(id);
        assert_eq!(end, killed_by(9));
        assert!(stdout.chunks(2).all(|line| b"y\n".starts_with(line)));
    }
    host.done();
}
