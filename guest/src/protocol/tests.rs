use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

mod limits;

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn terminal_size() -> impl Strategy<Value = TerminalSize> {
    any::<(u16, u16)>().prop_map(|(rows, cols)| TerminalSize { rows, cols })
}

fn extras() -> impl Strategy<Value = (Vec<Rlimit>, Network, Option<Bytes>)> {
    let rlimit = any::<(u32, u64, u64)>().prop_map(|(resource, soft, hard)| Rlimit { resource, soft, hard });
    let interface = any::<([u8; 4], u8, [u8; 4])>()
        .prop_map(|(address, prefix, gateway)| Network::Interface(Interface { address, prefix, gateway }));
    let network = prop_oneof![Just(Network::Loopback), interface, Just(Network::Host)];
    (vec(rlimit, 0..16), network, proptest::option::of(bytes()))
}

fn rootfs_source() -> impl Strategy<Value = RootfsSource> {
    prop_oneof![
        Just(RootfsSource::Current),
        ".{0,20}".prop_map(|tag| RootfsSource::Virtiofs { tag }),
        (vec(".{0,20}", 0..4), ".{0,20}").prop_map(|(lowers, disk)| RootfsSource::Overlay { lowers, disk }),
        (vec(".{0,20}", 0..4), ".{0,20}").prop_map(|(layers, disk)| RootfsSource::Images { layers, disk }),
    ]
}

prop_compose! {
    fn start()(
        command in vec(bytes(), 0..8),
        env in vec((bytes(), bytes()), 0..8),
        workdir in proptest::option::of(bytes()),
        hostname in ".{0,20}",
        stdin in any::<bool>(),
        rootfs in rootfs_source(),
        seconds in any::<u64>(),
        nanos in 0..1_000_000_000_u32,
        entropy in any::<[[u8; 32]; 2]>(),
        off in any::<bool>(),
        terminal in proptest::option::of(terminal_size()),
        volumes in vec((".{0,20}", bytes(), any::<bool>()), 0..4),
        (rlimits, network, resolv_conf) in extras(),
    ) -> Start {
        Start {
            command, env, workdir, hostname, stdin,
            rootfs,
            wall_clock: Duration::new(seconds, nanos),
            entropy,
            power_off: if off { PowerOff::Off } else { PowerOff::Reset },
            terminal,
            volumes: volumes.into_iter().map(|(tag, target, read_only)| Volume { tag, target, read_only }).collect(),
            rlimits, network, resolv_conf,
        }
    }
}

fn settings() -> impl Strategy<Value = Settings> {
    let tmpfs = (bytes(), any::<Option<u64>>(), any::<u16>(), any::<(u32, u32)>(), any::<bool>())
        .prop_map(|(target, bytes, mode, owner, exec)| Tmpfs { target, bytes, mode, owner, exec });
    let texts = || vec((".{0,20}", ".{0,20}"), 0..3);
    let hosts = vec((".{0,20}", any::<std::net::IpAddr>()), 0..3);
    let user = proptest::option::of(".{0,20}");
    (user, any::<(bool, Option<u64>)>(), vec(tmpfs, 0..3), hosts, texts(), vec(".{0,20}", 0..3)).prop_map(
        |(user, (read_only, shm_bytes), tmpfs, hosts, sysctls, files)| Settings {
            user,
            read_only,
            tmpfs,
            shm_bytes,
            hosts,
            sysctls,
            files,
        },
    )
}

fn host_message() -> impl Strategy<Value = HostMessage> {
    prop_oneof![
        start().prop_map(|start| HostMessage::Start(Box::new(start))),
        (start(), settings()).prop_map(|(start, settings)| HostMessage::Begin(Box::new(Begin { start, settings }))),
        any::<u64>().prop_map(|nonce| HostMessage::Query { nonce }),
        any::<i32>().prop_map(HostMessage::Signal),
        Just(HostMessage::AcknowledgeExit),
        terminal_size().prop_map(HostMessage::Resize),
        (any::<u64>(), vec(bytes(), 0..4), any::<u32>()).prop_map(|(id, command, millis)| {
            HostMessage::Probe(Probe { id, command, limit: Duration::from_millis(millis.into()) })
        }),
        (any::<u64>(), 0..1_000_000_000_u32)
            .prop_map(|(seconds, nanos)| HostMessage::SetClock { wall_clock: Duration::new(seconds, nanos) }),
        any::<u64>().prop_map(|nonce| HostMessage::GetUsage { nonce }),
        start().prop_map(|start| HostMessage::Idle(Box::new(start.into()))),
    ]
}

fn report() -> impl Strategy<Value = ExitReport> {
    let end = prop_oneof![any::<u8>().prop_map(WorkloadEnd::Code), any::<u8>().prop_map(WorkloadEnd::Signal)];
    (end, any::<u64>(), any::<u64>()).prop_map(|(end, stdout_bytes, stderr_bytes)| ExitReport {
        end,
        stdout_bytes,
        stderr_bytes,
    })
}

fn failure() -> impl Strategy<Value = StartFailure> {
    let code = prop_oneof![Just(StartFailureCode::NotExecutable), Just(StartFailureCode::NotFound)];
    (code, ".{0,300}").prop_map(|(code, message)| StartFailure::new(code, message))
}

fn probe_end() -> impl Strategy<Value = ProbeEnd> {
    prop_oneof![
        report().prop_map(|report| ProbeEnd::Ended(report.end)),
        Just(ProbeEnd::TimedOut),
        failure().prop_map(ProbeEnd::NotStarted),
    ]
}

fn guest_message() -> impl Strategy<Value = GuestMessage> {
    let state = prop_oneof![
        Just(GuestState::AwaitingStart),
        Just(GuestState::Running),
        failure().prop_map(GuestState::NotStarted),
        report().prop_map(GuestState::Ended),
    ];
    prop_oneof![
        any::<u8>().prop_map(|version| GuestMessage::Ready { version }),
        Just(GuestMessage::Started),
        failure().prop_map(GuestMessage::NotStarted),
        report().prop_map(GuestMessage::Exit),
        (any::<u64>(), state).prop_map(|(nonce, state)| GuestMessage::Status { nonce, state }),
        ".{0,300}".prop_map(|message| GuestMessage::Faulted { message }),
        (any::<u64>(), probe_end(), bytes()).prop_map(|(id, end, output)| GuestMessage::ProbeEnded { id, end, output }),
        Just(GuestMessage::FilesLimitMet),
        ".{0,40}".prop_map(|process| GuestMessage::OutOfMemory { process }),
        any::<u32>().prop_map(|messages| GuestMessage::Understands { messages }),
        (any::<u64>(), any::<[u64; 6]>(), any::<u32>()).prop_map(|(nonce, numbers, tasks)| {
            let [cpu_busy, cpu_total, memory_total, memory_available, disk_total, disk_free] = numbers;
            let usage = Usage { cpu_busy, cpu_total, memory_total, memory_available, disk_total, disk_free, tasks };
            GuestMessage::Usage { nonce, usage }
        }),
    ]
}

/// Pushes everything, piece by piece, and gives all messages.
fn read_all<M: Message>(reader: &mut FrameReader<M>, stream: &[u8], pieces: &[usize]) -> Result<Vec<M>, FrameError> {
    let mut messages = Vec::new();
    let mut rest = stream;
    let mut pieces = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let piece = pieces.next().unwrap_or(usize::MAX).clamp(1, rest.len());
        let taken = reader.push(&rest[..piece]);
        rest = &rest[taken..];
        while let Some(message) = reader.next()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

fn frames<M: Message>(messages: &[M]) -> Vec<u8> {
    messages.iter().flat_map(|message| encode(message).unwrap()).collect()
}

proptest! {
    /// A guest that knows the first so many variants is judged by it.
    #[test]
    fn a_host_messages_position_is_what_is_sent(message in host_message()) {
        let payload = encode(&message).unwrap()[HEADER_LEN..].to_vec();
        prop_assert_eq!(u32::from(payload[0]), message.position());
        prop_assert!(message.position() < HostMessage::VARIANTS && HostMessage::VARIANTS < 128);
    }

    #[test]
    fn host_messages_survive_any_split(messages in vec(host_message(), 0..6), pieces in vec(1..70_usize, 1..20)) {
        let mut reader = FrameReader::<HostMessage>::new(Garbage::Refuse);
        prop_assert_eq!(read_all(&mut reader, &frames(&messages), &pieces).unwrap(), messages);
    }

    #[test]
    fn guest_messages_survive_any_split(messages in vec(guest_message(), 0..6), pieces in vec(1..70_usize, 1..20)) {
        let mut reader = FrameReader::<GuestMessage>::new(Garbage::Refuse);
        prop_assert_eq!(read_all(&mut reader, &frames(&messages), &pieces).unwrap(), messages);
    }

    #[test]
    fn garbage_never_panics_and_holds_bounded_memory(
        garbage in vec(prop_oneof![Just(vec![0xF5, b'S', b'p', 0xFF, 1, 2]), vec(any::<u8>(), 0..40)], 0..200),
        pieces in vec(1..9000_usize, 1..20),
    ) {
        let stream = garbage.concat();
        for mode in [Garbage::Refuse, Garbage::SkipFirst(1000), Garbage::Skip] {
            let mut reader = FrameReader::<GuestMessage>::new(mode);
            let mut rest = stream.as_slice();
            let mut pieces = pieces.iter().copied().cycle();
            while !rest.is_empty() {
                let piece = pieces.next().unwrap().min(rest.len());
                let taken = reader.push(&rest[..piece]);
                rest = &rest[taken..];
                while let Ok(Some(_)) = reader.next() {}
                prop_assert!(reader.buffered() <= FrameReader::<GuestMessage>::CAPACITY);
                if taken == 0 {
                    prop_assert!(reader.next().is_err(), "a full reader that wants more");
                    break;
                }
            }
        }
    }

    /// What a new daemon sees: the tail of a frame that the old one had begun to read, then frames.
    #[test]
    fn a_late_reader_finds_the_next_frame(
        lost in guest_message(), cut in any::<prop::sample::Index>(),
        messages in vec(guest_message(), 1..4), pieces in vec(1..70_usize, 1..20),
    ) {
        let lost = encode(&lost).unwrap();
        let mut stream = lost[1 + cut.index(lost.len() - 1)..].to_vec();
        stream.extend(frames(&messages));
        let mut reader = FrameReader::<GuestMessage>::new(Garbage::SkipFirst(FrameReader::<GuestMessage>::CAPACITY));
        prop_assert_eq!(read_all(&mut reader, &stream, &pieces).unwrap(), messages);
    }

    #[test]
    fn a_flipped_bit_is_never_a_message(message in guest_message(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut frame = encode(&message).unwrap();
        let at = at.index(frame.len());
        frame[at] ^= 1_u8 << bit;
        let mut reader = FrameReader::<GuestMessage>::new(Garbage::Refuse);
        let _ = reader.push(&frame);
        prop_assert!(!matches!(reader.next(), Ok(Some(_))));
    }
}

#[test]
fn a_skipping_reader_goes_on_after_half_a_frame() {
    let query = HostMessage::Query { nonce: 7 };
    let mut stream = frames(&[HostMessage::Signal(15)]);
    let half = encode(&HostMessage::Signal(9)).unwrap();
    stream.extend(&half[..half.len() - 1]);
    stream.extend(frames(&[query.clone(), query.clone()]));
    let mut reader = FrameReader::<HostMessage>::new(Garbage::Skip);
    assert_eq!(read_all(&mut reader, &stream, &[3]).unwrap(), [HostMessage::Signal(15), query.clone(), query]);
}

#[test]
fn a_reader_that_joined_late_refuses_later_garbage() {
    let mut stream = b"tail".to_vec();
    stream.extend(frames(&[GuestMessage::Started]));
    stream.extend(b"garbage");
    let mut reader = FrameReader::<GuestMessage>::new(Garbage::SkipFirst(100));
    assert_eq!(read_all(&mut reader, &stream, &[500]), Err(FrameError::Garbage));
    assert_eq!(reader.next(), Err(FrameError::Garbage), "broken for ever");
}

#[test]
fn a_late_reader_gives_up() {
    let mut reader = FrameReader::<GuestMessage>::new(Garbage::SkipFirst(100));
    let _ = reader.push(&[0; 200]);
    assert_eq!(reader.next(), Err(FrameError::NoFrame { skipped: 200 }));
}

#[test]
fn another_version_is_named() {
    let mut frame = encode(&GuestMessage::Ready { version: 9 }).unwrap();
    frame[4] = 9;
    let crc = frame::tests_checksum(&frame);
    frame[10..14].copy_from_slice(&crc.to_le_bytes());
    for mode in [Garbage::Refuse, Garbage::Skip] {
        let mut reader = FrameReader::<GuestMessage>::new(mode);
        let _ = reader.push(&frame);
        assert_eq!(reader.next(), Err(FrameError::Version { theirs: 9 }));
    }
    let text = FrameError::Version { theirs: 9 }.to_string();
    assert!(text.contains("version 9") && text.contains("this side 1"), "{text}");
}

#[test]
fn a_frame_of_another_port_is_refused() {
    let mut reader = FrameReader::<GuestMessage>::new(Garbage::Refuse);
    let _ = reader.push(&encode(&HostMessage::AcknowledgeExit).unwrap());
    assert_eq!(reader.next(), Err(FrameError::Kind { kind: 1, expected: 2 }));
}

#[test]
fn an_announced_giant_is_refused_at_once() {
    let mut header = encode(&GuestMessage::Started).unwrap();
    header[6..10].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut reader = FrameReader::<GuestMessage>::new(Garbage::Refuse);
    let _ = reader.push(&header[..HEADER_LEN]);
    assert!(matches!(reader.next(), Err(FrameError::TooLong { .. })));
}

/// What is sent by them must not change: a daemon adopts guests of older programs.
#[test]
fn the_messages_of_before_are_encoded_as_they_were() {
    let payload = |frame: Vec<u8>| frame[HEADER_LEN..].to_vec();
    assert_eq!(payload(encode(&HostMessage::Query { nonce: 5 }).unwrap()), [1, 5]);
    assert_eq!(payload(encode(&HostMessage::AcknowledgeExit).unwrap()), [3]);
    let wall_clock = Duration::new(3, 4);
    assert_eq!(payload(encode(&HostMessage::SetClock { wall_clock }).unwrap()), [7, 3, 4]);
    assert_eq!(payload(encode(&GuestMessage::Ready { version: 1 }).unwrap()), [0, 1]);
    assert_eq!(payload(encode(&GuestMessage::Started).unwrap()), [1]);
    assert_eq!(payload(encode(&GuestMessage::FilesLimitMet).unwrap()), [7]);
    assert_eq!(payload(encode(&GuestMessage::OutOfMemory { process: "x".into() }).unwrap()), [8, 1, b'x']);
    assert_eq!(payload(encode(&GuestMessage::Understands { messages: 6 }).unwrap()), [9, 6]);
    assert_eq!(payload(encode(&HostMessage::GetUsage { nonce: 5 }).unwrap()), [8, 5]);
    let usage = Usage {
        cpu_busy: 1,
        cpu_total: 2,
        memory_total: 3,
        memory_available: 4,
        disk_total: 5,
        disk_free: 6,
        tasks: 7,
    };
    let told = payload(encode(&GuestMessage::Usage { nonce: 9, usage }).unwrap());
    assert_eq!(told, [10, 9, 1, 2, 3, 4, 5, 6, 7]);
    let unknown_to_it = postcard::from_bytes::<HostMessage>(&[u8::try_from(HostMessage::VARIANTS).unwrap()]);
    assert!(unknown_to_it.is_err(), "there are more variants than VARIANTS");
    assert_eq!(HostMessage::UNDERSTOOD_BY_ALL, 6, "guests that say nothing know so many");
}

#[test]
fn everything_but_start_is_written_in_one_piece() {
    let largest = [
        encode(&HostMessage::Query { nonce: u64::MAX }).unwrap(),
        encode(&HostMessage::Signal(i32::MIN)).unwrap(),
        encode(&HostMessage::AcknowledgeExit).unwrap(),
        encode(&HostMessage::Resize(TerminalSize { rows: u16::MAX, cols: u16::MAX })).unwrap(),
        encode(&HostMessage::Probe(Probe {
            id: u64::MAX,
            // Each argument of a byte, which has the most lengths, counts as two.
            command: vec![Bytes::from(vec![0xFF]); PROBE_COMMAND_MAX / 2],
            limit: Duration::MAX,
        }))
        .unwrap(),
        encode(&HostMessage::SetClock { wall_clock: Duration::MAX }).unwrap(),
        encode(&HostMessage::GetUsage { nonce: u64::MAX }).unwrap(),
        encode(&StdinMessage::Bytes(Bytes::from(vec![0xFF; STDIN_CHUNK]))).unwrap(),
        encode(&StdinMessage::End).unwrap(),
    ];
    assert!(largest.iter().all(|frame| frame.len() <= ATOMIC_FRAME));
    let too_much = StdinMessage::Bytes(Bytes::from(vec![0; ATOMIC_FRAME]));
    assert!(matches!(encode(&too_much), Err(FrameError::TooLong { .. })));
}

#[test]
fn the_largest_workload_fits() {
    let start = |command: Vec<Bytes>| Start {
        command,
        env: vec![],
        workdir: None,
        hostname: "h".repeat(64),
        stdin: true,
        rootfs: RootfsSource::Virtiofs { tag: ROOTFS_TAG.into() },
        wall_clock: Duration::MAX,
        entropy: [[0xFF; 32]; 2],
        power_off: PowerOff::Reset,
        terminal: None,
        volumes: Vec::new(),
        rlimits: vec![Rlimit { resource: 15, soft: u64::MAX, hard: u64::MAX }; 16],
        network: Network::Interface(Interface { address: [255; 4], prefix: 32, gateway: [255; 4] }),
        resolv_conf: Some(Bytes::from(vec![b'x'; RESOLV_CONF_MAX])),
    };
    // Each argument counts its length and a NUL towards the 1 MiB.
    for len in [0, 1, 127, 128, 16_383, 16_384, (1 << 20) - 1] {
        let command = vec![Bytes::from(vec![1; len]); (1 << 20) / (len + 1)];
        assert!(encode(&HostMessage::Start(Box::new(start(command)))).is_ok(), "arguments of {len} bytes");
    }
}

#[test]
fn the_longest_message_fits_and_secrets_do_not_show() {
    let failure = StartFailure::new(StartFailureCode::NotFound, "ü".repeat(5000));
    assert_eq!(failure.message.len(), MESSAGE_MAX);
    assert!(encode(&GuestMessage::NotStarted(failure)).is_ok());

    let start = Start {
        command: vec![Bytes::from(b"sh".to_vec()), Bytes::from(b"hunter1".to_vec())],
        env: vec![(Bytes::from(b"TOKEN".to_vec()), Bytes::from(b"hunter2".to_vec()))],
        workdir: None,
        hostname: "h".into(),
        stdin: false,
        rootfs: RootfsSource::Current,
        wall_clock: Duration::ZERO,
        entropy: [[0; 32]; 2],
        power_off: PowerOff::Off,
        terminal: None,
        volumes: Vec::new(),
        rlimits: vec![],
        network: Network::Loopback,
        resolv_conf: None,
    };
    let text = format!("{:?}", HostMessage::Start(Box::new(start)));
    assert!(text.contains("sh") && !text.contains("hunter"), "{text}");
}
