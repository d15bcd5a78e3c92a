//! Properties: an honest guest loses nothing whatever clients do, and no guest at all harms the host.

use super::*;

/// What may happen to a session.
#[derive(Debug, Clone)]
enum Step {
    /// The guest's program writes so much.
    Write(bool, usize),
    /// The client is told so many events.
    Hear(usize),
    /// The client says what it has.
    Take,
    /// Another client comes with what the last one had for good, or from what is kept.
    Attach(bool),
    /// It goes.
    Leave,
    /// Another host comes; the guest sends again what was not taken.
    Resume,
    /// So many frames reach the guest.
    Deliver(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), 1..100_000_usize).prop_map(|(stderr, len)| Step::Write(stderr, len)),
        4 => (1..5_usize).prop_map(Step::Hear),
        3 => Just(Step::Take),
        2 => any::<bool>().prop_map(Step::Attach),
        1 => Just(Step::Leave),
        1 => Just(Step::Resume),
        4 => (1..6_usize).prop_map(Step::Deliver),
    ]
}

/// An output as an honest guest has it.
#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    written: u64,
    sent: u64,
    taken: u64,
    limit: u64,
}

fn byte(stderr: usize, at: u64) -> u8 {
    let byte = (at % 251) as u8;
    if stderr == 0 { byte } else { !byte }
}

const STREAMS: [SessionStream; 2] = [SessionStream::Stdout, SessionStream::Stderr];

struct World {
    host: Host,
    guest: [Stream; 2],
    client: Option<ClientKey>,
    /// What clients have, one after the other: the same bytes only once.
    had: [u64; 2],
}

impl World {
    fn send(&mut self) {
        for (number, stream) in STREAMS.into_iter().enumerate() {
            let of = &mut self.guest[number];
            while of.sent < of.written.min(of.limit) {
                let end = of.written.min(of.limit).min(of.sent + 32_000);
                let bytes: Vec<u8> = (of.sent..end).map(|at| byte(number, at)).collect();
                self.host.write(1, stream, of.sent, &bytes).unwrap();
                of.sent = end;
            }
        }
    }

    fn deliver(&mut self, frames: usize) {
        for _ in 0..frames {
            let Some(frame) = self.host.table.next_frame().unwrap() else { break };
            let mut reader = SessionFrameReader::<HostFrame>::new();
            assert_eq!(reader.push(&frame), frame.len());
            if let Content::Message(SessionCommand::Taken { stream, taken, limit }) =
                reader.next().unwrap().unwrap().content
            {
                let of = &mut self.guest[usize::from(stream == SessionStream::Stderr)];
                assert!(taken >= of.taken && limit >= of.limit && limit >= taken && taken <= of.sent);
                (of.taken, of.limit) = (taken, limit);
            }
        }
        self.send();
    }

    fn hear(&mut self, events: usize) {
        let Some(client) = self.client else { return };
        for _ in 0..events {
            let Some(event) = self.host.table.next_event(client) else { break };
            if let SessionEvent::Output { stream, offset, bytes } = event {
                let number = usize::from(stream == OutputStream::Stderr);
                assert_eq!(offset, self.had[number], "nothing lost, nothing doubled");
                assert!(bytes.iter().zip(offset..).all(|(found, at)| *found == byte(number, at)));
                self.had[number] += bytes.len() as u64;
            }
        }
    }

    fn attach(&mut self, with_offsets: bool) {
        let had = SessionOffsets { stdout: self.had[0], stderr: self.had[1] };
        let (key, info) = self.host.table.attach(id(1), with_offsets.then_some(had)).unwrap();
        if !with_offsets {
            self.had = [info.kept_from.stdout, info.kept_from.stderr];
        }
        self.client = Some(key);
    }

    fn resume(&mut self) {
        let mut host = Host::new();
        host.say(0, SessionReport::Resumed { sessions: 1 }).unwrap();
        let [stdout, stderr] = self.guest.map(|of| OutputState { taken: of.taken, written: of.written, ended: false });
        host.say(1, SessionReport::State(SessionState { stdout, stderr, ..state() })).unwrap();
        for of in &mut self.guest {
            // Nothing is sent before the new host has told its limits.
            (of.sent, of.limit) = (of.taken, of.taken);
        }
        (self.host, self.client) = (host, None);
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Write(stderr, len) => {
                self.guest[usize::from(stderr)].written += len as u64;
                self.send();
            }
            Step::Hear(events) => self.hear(events),
            Step::Take => {
                if let Some(client) = self.client {
                    let had = SessionOffsets { stdout: self.had[0], stderr: self.had[1] };
                    self.host.request(client, SessionRequest::Taken(had));
                    assert!(self.host.table.take_farewells().iter().all(|(key, _)| *key != client));
                }
            }
            Step::Attach(with_offsets) => self.attach(with_offsets),
            Step::Leave => {
                if let Some(client) = self.client.take() {
                    self.host.table.client_gone(client, self.host.now);
                }
            }
            Step::Resume => self.resume(),
            Step::Deliver(frames) => self.deliver(frames),
        }
    }
}

fn report() -> impl Strategy<Value = SessionReport> {
    let number = || prop_oneof![0..10_u64, any::<u64>()];
    let stream = prop_oneof![Just(SessionStream::Stdout), Just(SessionStream::Stderr), Just(SessionStream::Stdin)];
    prop_oneof![
        (0..300_u32).prop_map(|sessions| SessionReport::Resumed { sessions }),
        Just(SessionReport::State(state())),
        Just(SessionReport::Refused(SessionRefusal::Malformed)),
        Just(SessionReport::Started),
        (number(), number()).prop_map(|(received, limit)| SessionReport::InputWindow { received, limit }),
        Just(SessionReport::InputClosed),
        (stream, number()).prop_map(|(stream, total)| SessionReport::StreamEnded { stream, total }),
        any::<u8>().prop_map(|code| SessionReport::Ended(GuestEnd::Exited(WorkloadEnd::Signal(code)))),
        Just(SessionReport::Closing),
    ]
}

fn content() -> impl Strategy<Value = Content<SessionReport>> {
    let bytes = (0..4_usize, 0..20_u64, 1..10_usize).prop_map(|(stream, offset, len)| {
        let stream = [SessionStream::Stdout, SessionStream::Stderr, SessionStream::Stdin, SessionStream::Spec][stream];
        Content::Bytes { stream, offset, bytes: vec![0; len] }
    });
    prop_oneof![report().prop_map(Content::Message), bytes]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn each_byte_of_output_comes_once(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world =
            World { host: Host::running(true, false), guest: <[Stream; 2]>::default(), client: None, had: [0; 2] };
        for of in &mut world.guest {
            of.limit = 1 << 20;
        }
        for step in steps {
            world.take(&step);
        }
        // In the end whoever is there gets all.
        world.attach(true);
        loop {
            let before = world.had;
            world.deliver(10);
            world.hear(100);
            world.take(&Step::Take);
            if world.had == before {
                break;
            }
        }
        prop_assert_eq!(world.had, world.guest.map(|of| of.written));
        world.host.ended(1, world.had, CODE_0);
        let events = world.host.all_events(world.client.unwrap());
        let ends: Vec<_> = events.iter().filter(|event| !matches!(event, SessionEvent::InputWindow { .. })).collect();
        prop_assert_eq!(ends.len(), 3, "{:?}", events);
        for (stream, total) in OutputStream::ALL.into_iter().zip(world.had) {
            prop_assert!(ends.contains(&&stream_ended(stream, total)), "{:?}", events);
        }
        prop_assert_eq!(events.last(), Some(&EXITED));
    }

    #[test]
    fn no_guest_harms_its_host(frames in proptest::collection::vec((0..4_u64, content()), 1..60), up in any::<bool>()) {
        let mut host = if up { Host::running(true, false) } else { Host::new() };
        let mut client = None;
        for (number, (session, content)) in frames.into_iter().enumerate() {
            if let Err(broken) = host.frame(session, content) {
                host.table.end(&SessionError::Unreachable(broken.to_string()), host.now);
            }
            host.sent();
            if number == 5 {
                let _ = host.table.open(Token(2), id(2), asked(true, true), host.now);
            }
            if number % 7 == 0 {
                client = host.table.attach(id(1), None).ok().map(|(key, _)| key).or(client);
            }
            if let Some(client) = client {
                host.events(client);
                host.request(client, SessionRequest::Input { offset: 0, bytes: "abc".into() });
            }
            host.pass(Duration::from_secs(3));
            prop_assert!(host.table.deadline().is_none_or(|deadline| deadline > host.now));
        }
    }
}
