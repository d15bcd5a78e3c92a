//! Hosts that die, whenever they like, and others that go on.

use proptest::prelude::*;

use super::*;

#[test]
fn a_guest_that_nobody_has_spoken_to_says_nothing() {
    let mut host = Host::with_workload();
    let port = host.sessions.try_clone().unwrap();
    let mut early = Link {
        port: port.try_clone().unwrap(),
        epoch: 1,
        reader: SessionFrameReader::new(),
        seen: BTreeMap::new(),
        refused: vec![],
        is_closing: false,
        tenths: Some(10),
    };
    early.describe(1, script("echo never"));
    early.tell(1, SessionCommand::HangUp);
    host.end_workload();
    assert_eq!(host.exit().end, WorkloadEnd::Code(5));
    port.set_nonblocking(true).unwrap();
    assert_eq!(early.port.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    host.finish();
}

#[test]
fn nothing_is_sent_before_there_is_room_and_a_new_host_knows_all() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    link.tenths = None;
    let mut session = fed("echo out; echo error >&2; read line; exit 9");
    session.notes.label = "its label".into();
    let notes = session.notes.clone();
    link.open(1, session);
    link.until(|link| link.seen[&1].window.is_some());
    link.bytes(1, SessionStream::Stdin, 0, b"12");
    link.until(|link| link.seen[&1].window.unwrap().0 == 2);
    let mut link = host.link(2);
    link.bytes(1, SessionStream::Stdin, 0, b"123\n");
    link.until(|link| link.seen[&1].end.is_some());
    assert!(link.seen[&1].stdout.bytes.is_empty() && link.seen[&1].stderr.bytes.is_empty());
    let mut link = host.link(3);
    let state = |ended: u64| OutputState { taken: 0, written: ended, ended: true };
    let expected = SessionState {
        notes,
        terminal: false,
        stdin: false,
        received: 4,
        input_ended: false,
        stdout: state(4),
        stderr: state(6),
        end: Some(code(9)),
    };
    assert_eq!(link.seen[&1].state, Some(expected));
    link.take(1);
    assert_eq!(link.end(1), (code(9), b"out\n".to_vec(), b"error\n".to_vec()));
    host.done();
}

/// What a host does before it dies.
#[derive(Debug, Clone)]
struct Life {
    /// How many times it hears something.
    hears: usize,
    /// How many of ten bytes it takes for good.
    tenths: Option<u64>,
    /// Most bytes of input that it sends at once.
    piece: usize,
    /// Bytes that it reads at last, and nobody hears.
    lost: usize,
}

fn life() -> impl Strategy<Value = Life> {
    (0..40_usize, proptest::option::weighted(0.8, 0..=10_u64), 1..30_000_usize, 0..200_000_usize)
        .prop_map(|(hears, tenths, piece, lost)| Life { hears, tenths, piece, lost })
}

const INPUT: usize = 200_000;

fn input() -> Vec<u8> {
    (0..INPUT).map(|place| u8::try_from(place * 7 % 251).unwrap()).collect()
}

/// Sends as much input as the guest has room for, and its end; again from what the guest has.
fn send_input(link: &mut Link, sent: &mut u64, piece: usize) {
    let seen = &link.seen[&1];
    let (Some((_, limit)), false) = (seen.window, seen.input_closed) else { return };
    let begin = usize::try_from(*sent).unwrap();
    let end = INPUT.min(begin + piece).min(usize::try_from(limit).unwrap());
    if begin < end {
        link.bytes(1, SessionStream::Stdin, *sent, &input()[begin..end]);
        *sent = end as u64;
        if end == INPUT {
            link.tell(1, SessionCommand::EndInput { total: INPUT as u64 });
        }
    }
}

fn resumed_input(link: &mut Link) -> u64 {
    let state = link.seen[&1].state.clone().unwrap();
    if state.received == INPUT as u64 && !state.input_ended && state.stdin {
        link.tell(1, SessionCommand::EndInput { total: INPUT as u64 });
    }
    state.received
}

fn run_through(lives: &[Life]) {
    let host = Host::with_workload();
    let mut link = host.link(1);
    link.open(1, fed("seq 1 40000; seq 1 30000 >&2; cat; exit 42"));
    link.started(1);
    let mut sent = 0;
    for (epoch, life) in (2..).zip(lives) {
        link.tenths = life.tenths;
        for _ in 0..life.hears {
            let seen = &link.seen[&1];
            let is_over = seen.end.is_some() && seen.stdout.is_whole() && seen.stderr.is_whole();
            // Without any room nothing more may come.
            if is_over || life.tenths.is_none() {
                break;
            }
            send_input(&mut link, &mut sent, life.piece);
            link.take(1);
            link.hear();
        }
        link.port.set_nonblocking(true).unwrap();
        let mut lost = vec![0; life.lost];
        let _ = link.port.read(&mut lost);
        link.port.set_nonblocking(false).unwrap();
        link = Link::join(link.port, epoch, link.seen);
        sent = resumed_input(&mut link);
    }
    link.take(1);
    while link.seen[&1].end.is_none() || !link.seen[&1].stdout.is_whole() || !link.seen[&1].stderr.is_whole() {
        send_input(&mut link, &mut sent, INPUT);
        link.hear();
    }
    let (end, stdout, stderr) = link.end(1);
    assert_eq!(end, code(42));
    let numbers = |last: u32| (1..=last).map(|number| format!("{number}\n")).collect::<String>().into_bytes();
    assert!(stdout == [numbers(40_000), input()].concat());
    assert!(stderr == numbers(30_000));
    host.done();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_comes_once_over_any_deaths_of_hosts(lives in proptest::collection::vec(life(), 0..12)) {
        run_through(&lives);
    }
}
