//! Bytes both ways, their limits, and what is served after the guest's end.

use super::*;

fn limits(host: &mut Host) -> BTreeMap<(u64, u8), (u64, u64)> {
    let told = host.sent().into_iter().filter_map(|(session, content)| match content {
        Content::Message(SessionCommand::Taken { stream, taken, limit }) => {
            Some(((session, stream as u8), (taken, limit)))
        }
        _ => None,
    });
    told.collect()
}

const OUT: u8 = SessionStream::Stdout as u8;

#[test]
fn input_goes_in_turns_and_ends_behind_its_last_byte() {
    let mut host = Host::running(true, false);
    host.begin(2, true, false);
    let clients = [host.attach(1), host.attach(2)];
    for client in clients {
        host.request(client, SessionRequest::Input { offset: 0, bytes: vec![b'x'; 10_000].into() });
        host.request(client, SessionRequest::EndInput { total: 10_000 });
    }
    assert!(host.sent().is_empty(), "there is no room");
    for number in [1, 2] {
        host.say(number, SessionReport::InputWindow { received: 0, limit: 9_000 }).unwrap();
    }
    let turns: Vec<_> = host.sent().into_iter().map(|(session, _)| session).collect();
    assert_eq!(turns, [1, 2, 1, 2, 1, 2]);
    host.say(2, SessionReport::InputWindow { received: 9_000, limit: 20_000 }).unwrap();
    let sent = host.sent();
    assert!(matches!(&sent[0].1, Content::Bytes { offset: 9_000, bytes, .. } if bytes.len() == 1000));
    assert_eq!(sent[1], (2, Content::Message(SessionCommand::EndInput { total: 10_000 })));
    host.say(1, SessionReport::InputClosed).unwrap();
    assert!(host.sent().is_empty(), "nobody reads it");
    assert_eq!(host.events(clients[0]), [SessionEvent::InputClosed]);
}

#[test]
fn input_that_finds_no_room_is_not_taken_without_end() {
    let mut host = Host::running(true, false);
    let client = host.attach(1);
    let mut offset = 0;
    while host.table.takes_requests(client) {
        host.request(client, SessionRequest::Input { offset, bytes: vec![0; 60_000].into() });
        offset += 60_000;
    }
    assert!((1 << 20..(1 << 20) + 60_000).contains(&offset), "{offset}");
    host.table.take_touched();
    host.say(1, SessionReport::InputWindow { received: 0, limit: 100_000 }).unwrap();
    host.sent();
    assert!(host.table.take_touched().contains(&client));
    assert!(host.table.takes_requests(client));
    host.request(client, SessionRequest::Input { offset: offset + 1, bytes: "gap".into() });
    let error = SessionError::Ahead { stream: "stdin", asked: offset + 1, there: offset };
    assert_eq!(host.table.take_farewells(), [(client, Some(SessionEvent::Refused(error)))]);
}

/// A connection's other side may have said all that it has and still listen.
#[test]
fn the_end_of_an_output_is_told_behind_its_last_byte_once_to_each_client() {
    use OutputStream::{Stderr, Stdout};
    let mut host = Host::running(false, false);
    let client = host.attach(1);
    host.write(1, SessionStream::Stdout, 0, b"all").unwrap();
    let end = |stream, total| SessionReport::StreamEnded { stream, total };
    host.say(1, end(SessionStream::Stdout, 7)).unwrap();
    assert_eq!(host.all_events(client), [stdout(0, "all")], "not all has come");
    host.write(1, SessionStream::Stdout, 3, b" of").unwrap();
    host.write(1, SessionStream::Stdout, 6, b"it").unwrap_err();
    host.write(1, SessionStream::Stdout, 6, b"x").unwrap();
    assert_eq!(host.all_events(client), [stdout(3, " ofx"), stream_ended(Stdout, 7)]);
    host.write(1, SessionStream::Stderr, 0, b"e").unwrap();
    assert_eq!(host.all_events(client), [output(Stderr, 0, "e")]);
    host.request(client, SessionRequest::Taken(SessionOffsets { stdout: 7, stderr: 0 }));
    // The next one is told, too, also where it has all of it.
    let (client, _) = host.table.attach(id(1), Some(SessionOffsets { stdout: 7, stderr: 1 })).unwrap();
    assert_eq!(host.all_events(client), [stream_ended(Stdout, 7)]);
    host.say(1, end(SessionStream::Stderr, 1)).unwrap();
    host.say(1, SessionReport::Ended(CODE_0)).unwrap();
    assert_eq!(host.all_events(client), [stream_ended(Stderr, 1), EXITED]);
    let client = host.attach(1);
    let ends = [stream_ended(Stdout, 7), output(Stderr, 0, "e"), stream_ended(Stderr, 1), EXITED];
    assert_eq!(host.all_events(client), ends);
}

/// What was cut is not for all of it.
#[test]
fn a_stream_that_was_lost_has_no_end() {
    let mut host = Host::running(false, false);
    let client = host.attach(1);
    host.write(1, SessionStream::Stdout, 0, b"half").unwrap();
    host.say(1, SessionReport::StreamEnded { stream: SessionStream::Stderr, total: 0 }).unwrap();
    host.table.end(&SessionError::Unreachable("gone".to_owned()), host.now);
    let stderr_ended = stream_ended(OutputStream::Stderr, 0);
    assert_eq!(host.all_events(client), [stdout(0, "half"), stderr_ended, SessionEvent::Ended(SessionEnd::Gone)]);
}

#[test]
fn a_guest_keeps_what_no_client_has() {
    let mut host = Host::running(false, false);
    let client = host.attach(1);
    host.write(1, SessionStream::Stdout, 0, &vec![1; 30_000]).unwrap();
    assert!(host.sent().is_empty(), "nobody has it for good");
    host.events(client);
    for stdout in [10_000, 20_000] {
        host.request(client, SessionRequest::Taken(SessionOffsets { stdout, stderr: 0 }));
    }
    assert_eq!(limits(&mut host)[&(1, OUT)], (20_000, 20_000 + (1 << 20)), "the latest only");
    assert_eq!(host.table.list().unwrap()[0].kept_from, SessionOffsets { stdout: 20_000, stderr: 0 });
}

/// The more sessions, the less room each gets; what was given is not taken back.
#[test]
fn all_outputs_together_are_bounded() {
    let mut host = Host::up();
    for number in 1..=256 {
        assert_eq!(host.table.open(Token(number), id(number), asked(false, false), host.now), None);
        let told = limits(&mut host);
        for ((session, _), (taken, limit)) in told {
            assert!(limit - taken >= 4096 && session == number);
        }
    }
    let reserved = |host: &Host| {
        let streams = |session: &Session| session.stdout.reserved() + session.stderr.reserved();
        host.table.sessions.values().map(streams).sum::<u64>()
    };
    let most = OUTPUT_MAX + 512 * 4096;
    assert!((OUTPUT_MAX / 2..most).contains(&reserved(&host)), "{}", reserved(&host));
}

#[test]
fn what_is_left_when_the_workload_ends_is_taken_over_at_once() {
    let mut host = Host::running(false, false);
    host.begin(2, false, true);
    host.begin(3, false, false);
    host.ended(3, [0, 0], CODE_0);
    host.write(1, SessionStream::Stdout, 0, b"first").unwrap();
    host.sent();
    host.say(0, SessionReport::Closing).unwrap();
    let told = host.sent();
    assert_eq!(told[0], (3, Content::Message(SessionCommand::Forget)), "all of it is here");
    let mib = 1 << 20;
    let taken = SessionCommand::Taken { stream: SessionStream::Stdout, taken: 5, limit: 5 + mib };
    assert!(told.contains(&(1, Content::Message(taken))), "{told:?}");
    let opened = host.table.open(Token(9), id(9), asked(false, false), host.now);
    assert_eq!(opened, Some(Err(SessionError::NotRunning)));
    host.write(1, SessionStream::Stdout, 5, b" last").unwrap();
    assert_eq!(limits(&mut host)[&(1, OUT)], (10, 10 + mib));
    host.ended(1, [10, 0], GuestEnd::Exited(WorkloadEnd::Signal(1)));
    assert_eq!(host.commands(), [(1, SessionCommand::Forget)]);
    assert!(matches!(host.write(1, SessionStream::Stdout, 10, b"x"), Err(Broken::Unknown { .. })));
    host.pass(CLIENT_LIMIT / 2);
    host.table.end(&SessionError::NotRunning, host.now);
    let client = host.attach(1);
    let hung_up = SessionEvent::Ended(SessionEnd::Exited(ExitStatus::Signal(1)));
    assert_eq!(host.events(client), [stdout(0, "first last"), hung_up]);
    let lost = host.attach(2);
    assert_eq!(host.events(lost), [SessionEvent::Ended(SessionEnd::Gone)]);
    host.pass(CLIENT_LIMIT);
    assert_eq!(host.ids(), [1, 2], "their clients are there");
    host.request(client, SessionRequest::TakenEnd);
    host.table.client_gone(lost, host.now);
    host.pass(CLIENT_LIMIT);
    assert!(host.table.list().is_err() && host.table.deadline().is_none());
    assert!(host.sent().is_empty());
}

/// Programs that write without end, and nobody who takes it.
#[test]
fn what_is_taken_over_is_bounded() {
    let mut host = Host::up();
    for number in 1..=64 {
        host.begin(number, false, false);
    }
    host.say(0, SessionReport::Closing).unwrap();
    let mut limit: BTreeMap<u64, u64> =
        host.table.sessions.values().map(|session| (session.id.get(), session.stdout.reserved())).collect();
    let mut given: BTreeMap<u64, u64> = BTreeMap::new();
    loop {
        limit
            .extend(limits(&mut host).into_iter().filter(|((_, of), _)| *of == OUT).map(|((id, _), (_, to))| (id, to)));
        let before = given.clone();
        for (session, limit) in &limit {
            let offset = given.entry(*session).or_default();
            while *offset < *limit {
                let len = (limit - *offset).min(32_000);
                host.write(*session, SessionStream::Stdout, *offset, &vec![0; len as usize]).unwrap();
                *offset += len;
            }
        }
        if given == before {
            break;
        }
    }
    let came: u64 = given.values().sum();
    assert!((CLOSING_MAX / 4..=CLOSING_MAX + 64 * 8192).contains(&came), "{came}");
    // Whoever takes something makes room.
    let client = host.attach(1);
    while host.table.next_event(client).is_some() {}
    host.request(client, SessionRequest::Taken(SessionOffsets { stdout: given[&1], stderr: 0 }));
    assert!(!limits(&mut host).is_empty());
}

#[test]
fn what_came_before_a_sudden_end_is_served() {
    let mut host = Host::running(true, false);
    let client = host.attach(1);
    host.write(1, SessionStream::Stdout, 0, b"half a li").unwrap();
    assert_eq!(host.table.open(Token(5), id(5), asked(false, false), host.now), None);
    let reason = SessionError::Unreachable("gone".to_owned());
    host.table.end(&reason, host.now);
    assert_eq!(host.table.take_answers(), [(Token(5), Err(reason.clone()))]);
    assert_eq!(host.events(client), [stdout(0, "half a li"), SessionEvent::Ended(SessionEnd::Gone)]);
    assert_eq!(host.table.open(Token(6), id(6), asked(false, false), host.now), Some(Err(reason.clone())));
    let again = host.table.open(Token(6), id(1), asked(false, false), host.now).unwrap().unwrap();
    assert_eq!(again.end, Some(SessionEnd::Gone));
    assert_eq!(host.table.tell(id(1), &SessionRequest::HangUp, host.now), Err(reason));
    host.request(client, SessionRequest::Input { offset: 0, bytes: "x".into() });
    host.request(client, SessionRequest::Signal(9));
    assert!(host.sent().is_empty());
}
