//! Links with scripted guests over real pipes.

use std::fs::File;
use std::io::{Read, Write};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use sandpen_guest::protocol::{
    Bytes, ExitReport, GuestState, PROTOCOL_VERSION, PowerOff, RootfsSource, STDIN_CHUNK, Start, StartFailure,
    StartFailureCode, StdinMessage, WorkloadEnd,
};
use sandpen_types::spec::SandboxSpec;
use sandpen_types::state::ExitStatus;
use sandpen_vmm::start_timings::StartTimings;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

mod adopted;
mod clock;
mod order;
mod probe;
mod terminal;
mod usage;

const LIMIT: Duration = Duration::from_secs(20);

/// The guest's ends of the pipes; its methods block, in the guest's own thread.
struct Guest {
    control_out: File,
    control_in: File,
    stdin_in: File,
    reader: FrameReader<HostMessage>,
}

impl Guest {
    fn say(&mut self, message: &GuestMessage) {
        self.control_out.write_all(&encode(message).unwrap()).unwrap();
    }

    fn hear(&mut self) -> HostMessage {
        loop {
            if let Some(message) = self.reader.next().unwrap() {
                return message;
            }
            let mut chunk = [0; 1000];
            let len = self.control_in.read(&mut chunk).unwrap();
            assert_ne!(len, 0, "the host is gone");
            assert_eq!(self.reader.push(&chunk[..len]), len);
        }
    }

    fn boot(&mut self) -> Box<Start> {
        self.say(&GuestMessage::Ready { version: PROTOCOL_VERSION });
        match self.hear() {
            HostMessage::Start(start) => start,
            other => panic!("{other:?} instead of Start"),
        }
    }

    fn answer_query(&mut self, state: GuestState) {
        match self.hear() {
            HostMessage::Query { nonce } => self.say(&GuestMessage::Status { nonce, state }),
            other => panic!("{other:?} instead of Query"),
        }
    }
}

struct Running {
    link: ControlLink,
    task: JoinHandle<()>,
    events: mpsc::Receiver<VmmEvent>,
    guest: JoinHandle<Guest>,
}

fn pipe(host_reads: bool) -> (OwnedFd, OwnedFd) {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
    fcntl(if host_reads { &read } else { &write }, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    (read, write)
}

/// A link with a guest that follows `script`; its pipes stay open until the test ends.
fn begin(mode: LinkMode, limit: Duration, script: impl FnOnce(&mut Guest) + Send + 'static) -> Running {
    let (control_out, guest_out) = pipe(true);
    let (guest_in, control_in) = pipe(false);
    let (guest_stdin, stdin_in) = pipe(false);
    let fifos = ControlFifos { control_out, control_in, stdin_in };
    let (told, events) = mpsc::channel(4);
    let (link, task) = open(fifos, mode, limit, StartTimings::default(), told).unwrap();
    let mut guest = Guest {
        control_out: guest_out.into(),
        control_in: guest_in.into(),
        stdin_in: guest_stdin.into(),
        reader: FrameReader::new(Garbage::Refuse),
    };
    let guest = tokio::task::spawn_blocking(move || {
        script(&mut guest);
        guest
    });
    Running { link, task: tokio::spawn(task), events, guest }
}

impl Running {
    async fn event(&mut self) -> VmmEvent {
        timeout(LIMIT, self.events.recv()).await.expect("an event in time").expect("the link goes on")
    }

    /// The one event of a link that fails, and its end.
    async fn fault(&mut self) -> FailureReason {
        let reason = match self.event().await {
            VmmEvent::Faulted(reason) => reason,
            other => panic!("{other:?} instead of a fault"),
        };
        assert_eq!(timeout(LIMIT, self.events.recv()).await.unwrap(), None, "nothing comes after a fault");
        reason
    }

    async fn broken(&mut self) -> String {
        match self.fault().await {
            FailureReason::ProtocolBroken { message } => message,
            other => panic!("{other:?} instead of ProtocolBroken"),
        }
    }
}

fn start() -> Box<StartFrame> {
    start_with_value("value")
}

fn start_with_value(value: &str) -> Box<StartFrame> {
    let mut spec = SandboxSpec::new(
        sandpen_types::spec::SandboxName::new("box").unwrap(),
        sandpen_types::spec::Rootfs::Native("/".into()),
        vec!["sh".into()],
    );
    spec.env = vec![("NAME".into(), value.into())];
    Box::new(start_message(&spec, RootfsSource::Current, PowerOff::Reset).unwrap())
}

fn launch(script: impl FnOnce(&mut Guest) + Send + 'static) -> Running {
    begin(LinkMode::Launch(start()), LIMIT, script)
}

const REPORT: ExitReport = ExitReport { end: WorkloadEnd::Code(42), stdout_bytes: 7, stderr_bytes: 8 };

fn exited() -> VmmEvent {
    VmmEvent::WorkloadExited { exit: ExitStatus::Code(42), stdout_bytes: Some(7), stderr_bytes: Some(8) }
}

#[tokio::test]
async fn a_whole_life() {
    // More than a pipe holds.
    let start = start_with_value(&"x".repeat(300_000));
    let mut running = begin(LinkMode::Launch(start), LIMIT, |guest| {
        let start = guest.boot();
        assert_eq!(start.hostname, "box");
        assert_eq!(start.env[0].1.len(), 300_000);
        assert_ne!(start.entropy[0], start.entropy[1]);
        guest.say(&GuestMessage::Started);
        assert_eq!(guest.hear(), HostMessage::Signal(15));
        guest.say(&GuestMessage::Exit(REPORT));
        assert_eq!(guest.hear(), HostMessage::AcknowledgeExit);
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    running.link.signal(15).await.unwrap();
    assert_eq!(running.event().await, exited());
    running.link.acknowledge_exit().await.unwrap();
    let error = running.link.write_stdin(b"late").await.unwrap_err();
    assert!(error.to_string().contains("ended"), "{error}");
    drop(running.guest.await.unwrap());
    timeout(LIMIT, running.task).await.expect("it ends with the pipe").unwrap();
    assert_eq!(running.events.recv().await, None);
}

/// What a guest knows is what it says, or else what each has known: that of an older program is sent nothing else.
#[tokio::test]
async fn a_guest_is_known_to_understand_what_it_says() {
    let understands = |messages| GuestMessage::Understands { messages };
    let (all, least) = (HostMessage::VARIANTS, HostMessage::UNDERSTOOD_BY_ALL);
    let status = |guest: &mut Guest, messages: Option<u32>| {
        let HostMessage::Query { nonce } = guest.hear() else { panic!("no query") };
        if let Some(messages) = messages {
            guest.say(&GuestMessage::Understands { messages });
        }
        guest.say(&GuestMessage::Status { nonce, state: GuestState::Running });
    };
    let launched = move |said: Option<u32>| {
        launch(move |guest| {
            guest.say(&GuestMessage::Ready { version: PROTOCOL_VERSION });
            if let Some(messages) = said {
                guest.say(&understands(messages));
            }
            guest.hear();
            guest.say(&GuestMessage::Started);
        })
    };
    let adopted = |said| begin(LinkMode::Adopt(None), LIMIT, move |guest| status(guest, said));
    let restored = begin(LinkMode::Restored(start()), LIMIT, |guest| {
        guest.hear();
        guest.say(&GuestMessage::Started);
    });
    for (mut running, known) in [
        (launched(None), least),
        (launched(Some(all)), all),
        (launched(Some(u32::MAX)), u32::MAX),
        (launched(Some(0)), 0),
        (adopted(None), least),
        (adopted(Some(all)), all),
        (restored, all),
    ] {
        assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
        let resize = HostMessage::Resize(TerminalSize { rows: 1, cols: 1 });
        assert_eq!(running.link.0.understood.load(Ordering::Relaxed), known);
        assert_eq!(running.link.understands(&resize), resize.position() < known);
        drop(running.guest.await.unwrap());
    }
}

#[tokio::test]
async fn a_workload_that_cannot_start() {
    let mut running = launch(|guest| {
        guest.boot();
        let message = "sh: not found\n\u{1b}[31m";
        guest.say(&GuestMessage::NotStarted(StartFailure::new(StartFailureCode::NotFound, message)));
    });
    let expected = VmmEvent::WorkloadNotStarted { code: 127, message: "sh: not found  [31m".into() };
    assert_eq!(running.event().await, expected, "without control characters");
}

#[tokio::test]
async fn a_signal_before_the_guest_is_up_waits_for_it() {
    let running = launch(|_| {});
    running.link.signal(15).await.unwrap();
    let mut guest = running.guest.await.unwrap();
    let heard = tokio::task::spawn_blocking(move || (guest.hear(), guest)).await.unwrap();
    assert_eq!(heard.0, HostMessage::Signal(15));
}

#[tokio::test]
async fn standard_input_waits_for_the_workload_and_comes_whole() {
    let mut running = launch(|guest| {
        guest.boot();
        guest.say(&GuestMessage::Started);
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    let text: Vec<u8> = (0..500_000_u32).map(|i| (i % 253) as u8).collect();
    let link = running.link.clone();
    let bytes = text.clone();
    let writer = tokio::spawn(async move {
        link.write_stdin(&bytes).await.unwrap();
        link.close_stdin().await.unwrap();
    });
    let mut guest = running.guest.await.unwrap();
    let received = tokio::task::spawn_blocking(move || {
        let mut reader = FrameReader::<StdinMessage>::new(Garbage::Refuse);
        let mut received = Vec::new();
        loop {
            match reader.next().unwrap() {
                Some(StdinMessage::Bytes(bytes)) => received.extend_from_slice(&bytes),
                Some(StdinMessage::End) => return received,
                None => {
                    let mut chunk = [0; 1000];
                    let room = FrameReader::<StdinMessage>::CAPACITY - reader.buffered();
                    let len = guest.stdin_in.read(&mut chunk[..room.min(1000)]).unwrap();
                    assert_eq!(reader.push(&chunk[..len]), len);
                }
            }
        }
    });
    assert!(timeout(LIMIT, received).await.unwrap().unwrap() == text);
    writer.await.unwrap();
}

#[tokio::test]
async fn standard_input_that_nobody_reads_ends_with_the_workload() {
    let mut running = launch(|guest| {
        guest.boot();
        guest.say(&GuestMessage::Started);
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    let link = running.link.clone();
    let writer = tokio::spawn(async move { link.write_stdin(&vec![0; 1_000_000]).await });
    let mut guest = (&mut running.guest).await.unwrap();
    guest.say(&GuestMessage::Exit(REPORT));
    assert_eq!(running.event().await, exited());
    assert!(timeout(LIMIT, writer).await.expect("not held up").unwrap().is_err());
}

#[tokio::test]
async fn a_guest_that_never_comes_up() {
    let mut running = begin(LinkMode::Launch(start()), Duration::from_millis(50), |_| {});
    assert_eq!(running.fault().await, FailureReason::BootTimedOut { limit: Duration::from_millis(50) });
}

#[tokio::test]
async fn a_guest_that_never_reads_its_start() {
    let mut start = start();
    start.begin.start.command = vec![Bytes::from(vec![b'x'; 900_000])];
    let mut running = begin(LinkMode::Launch(start), Duration::from_millis(200), |guest| {
        guest.say(&GuestMessage::Ready { version: PROTOCOL_VERSION });
    });
    assert!(matches!(running.fault().await, FailureReason::BootTimedOut { .. }));
}

/// One that hangs right after it was restored, with a pipe that has no room.
#[tokio::test]
async fn a_restored_guest_that_never_reads_its_start() {
    let (control_out, _guest_out) = pipe(true);
    let (_guest_in, control_in) = pipe(false);
    let (_guest_stdin, stdin_in) = pipe(false);
    let mut full = File::from(control_in.try_clone().unwrap());
    while full.write(&[0; 4096]).is_ok() {}
    let fifos = ControlFifos { control_out, control_in, stdin_in };
    let mode = LinkMode::Restored(start());
    let (told, mut events) = mpsc::channel(4);
    let (_link, task) = open(fifos, mode, Duration::from_millis(200), StartTimings::default(), told).unwrap();
    let task = tokio::spawn(task);
    let told = timeout(LIMIT, events.recv()).await.expect("it waits for the guest");
    assert!(matches!(told, Some(VmmEvent::Faulted(FailureReason::BootTimedOut { .. }))), "{told:?}");
    timeout(LIMIT, task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_guest_that_breaks_the_order() {
    let not_started = || GuestMessage::NotStarted(StartFailure::new(StartFailureCode::NotFound, "x"));
    let ready = || GuestMessage::Ready { version: PROTOCOL_VERSION };
    let cases: Vec<(Vec<GuestMessage>, usize)> = vec![
        (vec![GuestMessage::Started], 0),
        (vec![GuestMessage::Exit(REPORT)], 0),
        (vec![not_started()], 0),
        (vec![GuestMessage::Status { nonce: 0, state: GuestState::Running }], 0),
        (vec![GuestMessage::Ready { version: 77 }], 0),
        (vec![ready(), ready()], 0),
        (vec![ready(), GuestMessage::Exit(REPORT)], 0),
        (vec![ready(), GuestMessage::Started, GuestMessage::Started], 1),
        (vec![ready(), GuestMessage::Started, not_started()], 1),
        (vec![ready(), GuestMessage::Started, GuestMessage::Exit(REPORT), GuestMessage::Exit(REPORT)], 2),
        (vec![ready(), not_started(), GuestMessage::Started], 1),
        (
            vec![
                ready(),
                GuestMessage::Started,
                GuestMessage::Exit(ExitReport { end: WorkloadEnd::Signal(65), ..REPORT }),
            ],
            1,
        ),
    ];
    for (messages, events) in cases {
        let text = format!("{messages:?}");
        let mut running = launch(move |guest| messages.iter().for_each(|message| guest.say(message)));
        for _ in 0..events {
            assert!(!matches!(running.event().await, VmmEvent::Faulted(_)), "{text}");
        }
        assert!(!running.broken().await.is_empty(), "{text}");
        timeout(LIMIT, running.task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_guest_that_sends_garbage() {
    let giant = {
        let mut frame = encode(&GuestMessage::Started).unwrap();
        frame[6..10].copy_from_slice(&u32::MAX.to_le_bytes());
        frame
    };
    for garbage in [b"garbage!".to_vec(), giant, encode(&HostMessage::AcknowledgeExit).unwrap()] {
        let mut running = launch(move |guest| guest.control_out.write_all(&garbage).unwrap());
        running.broken().await;
    }
}

#[tokio::test]
async fn a_guest_that_failed_says_why() {
    let mut running = launch(|guest| {
        guest.boot();
        guest.say(&GuestMessage::Started);
        guest.say(&GuestMessage::Faulted { message: "panic\nin PID 1".into() });
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    assert_eq!(running.fault().await, FailureReason::Internal { message: "in the guest: panic in PID 1".into() });
}

#[tokio::test]
async fn a_guest_that_takes_no_message_is_unreachable() {
    let running = launch(|_| {});
    let error = loop {
        if let Err(error) = running.link.signal(28).await {
            break error;
        }
    };
    assert!(error.to_string().contains("took no message for"), "{error}");
}
