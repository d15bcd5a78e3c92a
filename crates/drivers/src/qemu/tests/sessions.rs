//! Sessions of real guests.
#![expect(clippy::cast_possible_truncation, reason = "what is sent here is small")]

use std::collections::BTreeMap;

use futures::future::join_all;
use sandpen_types::session::{SessionEnd, SessionId, SessionOffsets, SessionSpec};
use sandpen_vmm::sessions::{Attachment, GuestSessions, SessionError, SessionEvent, SessionRequest};

use super::*;

/// What a client got of a session.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    end: Option<SessionEnd>,
}

impl Got {
    fn offsets(&self) -> SessionOffsets {
        SessionOffsets { stdout: self.stdout.len() as u64, stderr: self.stderr.len() as u64 }
    }

    fn add(&mut self, stream: OutputStream, offset: u64, bytes: &[u8]) {
        let to = if stream == OutputStream::Stdout { &mut self.stdout } else { &mut self.stderr };
        assert_eq!(offset, to.len() as u64, "nothing lost, nothing doubled");
        to.extend_from_slice(bytes);
    }

    fn text(&self) -> (&str, &str) {
        (std::str::from_utf8(&self.stdout).unwrap(), std::str::from_utf8(&self.stderr).unwrap())
    }
}

fn id(number: u64) -> SessionId {
    SessionId::new(number).unwrap()
}

fn script(text: &str) -> SessionSpec {
    SessionSpec::command(["/bin/busybox", "sh", "-c", text])
}

fn code(code: i32) -> SessionEnd {
    SessionEnd::Exited(ExitStatus::Code(code))
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

/// An honest client: feeds `input` as there is room, and takes output until there are `enough` bytes of it, or the end.
async fn follow(client: &mut Attachment, got: &mut Got, input: &[u8], enough: usize) {
    let mut sent = client.info.stdin;
    let mut has_ended = false;
    while got.stdout.len() < enough {
        let Some(event) = within(client.events.recv()).await else { return };
        match event {
            SessionEvent::Output { stream, offset, bytes } => {
                got.add(stream, offset, &bytes);
                within(client.requests.send(SessionRequest::Taken(got.offsets()))).await.unwrap();
            }
            SessionEvent::InputWindow { limit, .. } => {
                let to = limit.min(input.len() as u64);
                while sent < to {
                    let end = to.min(sent + 50_000);
                    let bytes = input[sent as usize..end as usize].to_vec().into();
                    within(client.requests.send(SessionRequest::Input { offset: sent, bytes })).await.unwrap();
                    sent = end;
                }
                if sent == input.len() as u64 && !has_ended {
                    within(client.requests.send(SessionRequest::EndInput { total: sent })).await.unwrap();
                    has_ended = true;
                }
            }
            SessionEvent::InputClosed | SessionEvent::StreamEnded { .. } => {}
            SessionEvent::Ended(end) => {
                got.end = Some(end);
                within(client.requests.send(SessionRequest::TakenEnd)).await.unwrap();
                assert_eq!(within(client.events.recv()).await, None);
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Runs a session to its end.
async fn exec(sessions: &dyn GuestSessions, number: u64, spec: SessionSpec, input: &[u8]) -> Got {
    within(sessions.open(id(number), spec)).await.unwrap();
    let mut client = within(sessions.attach(id(number), None)).await.unwrap();
    let mut got = Got::default();
    follow(&mut client, &mut got, input, usize::MAX).await;
    got
}

async fn started(host: &Host, launch: Launch) -> Vmm {
    let mut vmm = host.driver().launch(launch).await.unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::WorkloadStarted, "{}", host.vmm_log());
    vmm
}

#[tokio::test]
async fn commands_run_beside_the_workload() {
    let Some(host) = Host::real() else { return };
    let mut vmm = started(&host, host.shell("exec sleep 1000")).await;
    let sessions = vmm.guest.sessions().unwrap();
    assert_eq!(within(sessions.list()).await, Ok(Vec::new()));
    let got = exec(&*sessions, 1, script("echo out; echo err >&2; exit 3"), b"").await;
    assert_eq!((got.text(), got.end.clone()), (("out\n", "err\n"), Some(code(3))));
    let missing = exec(&*sessions, 2, SessionSpec::command(["/bin/nothing"]), b"").await;
    assert!(matches!(missing.end, Some(SessionEnd::NotStarted { code: 127, .. })), "{missing:?}");

    let bytes: Vec<u8> = (0..8 << 20).map(|i: u32| (i % 251) as u8 ^ (i >> 16) as u8).collect();
    let cat = SessionSpec { stdin: true, ..SessionSpec::command(["/bin/busybox", "cat"]) };
    let got = exec(&*sessions, 3, cat, &bytes).await;
    assert!(got.stdout == bytes, "{} of {} bytes", got.stdout.len(), bytes.len());
    assert_eq!(got.end, Some(code(0)));

    let all = (100..200_u64).map(|number| {
        let sessions = sessions.clone();
        async move { (number, exec(&*sessions, number, script(&format!("echo {number}")), b"").await) }
    });
    for (number, got) in join_all(all).await {
        assert_eq!((got.text(), got.end.clone()), ((format!("{number}\n").as_str(), ""), Some(code(0))));
    }
    assert_eq!(within(sessions.list()).await, Ok(Vec::new()));

    let spec = SessionSpec { detached: true, ..script("echo up; sleep 1000") };
    within(sessions.open(id(7), spec)).await.unwrap();
    let mut client = within(sessions.attach(id(7), None)).await.unwrap();
    let mut lost = Got::default();
    follow(&mut client, &mut lost, b"", 3).await;
    vmm.process.signal_vmm(SIGKILL).unwrap();
    follow(&mut client, &mut lost, b"", usize::MAX).await;
    assert_eq!((lost.text(), lost.end.clone()), (("up\n", ""), Some(SessionEnd::Gone)));
    assert_eq!(next(&mut vmm).await, VmmEvent::VmmExited(ExitStatus::Signal(9)));
    assert!(matches!(within(sessions.open(id(8), script("true"))).await, Err(SessionError::Unreachable(_))));
    vmm.process.release().await.unwrap();
}

#[tokio::test]
async fn the_next_daemon_and_the_orderly_end_lose_nothing() {
    let Some(host) = Host::real() else { return };
    let launch = host.shell("read x; exit 5");
    let first = started(&host, launch.clone()).await;
    let sessions = first.guest.sessions().unwrap();
    let lines = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; echo end >&2";
    within(sessions.open(id(1), script(lines))).await.unwrap();
    let mut got = Got::default();
    let mut client = within(sessions.attach(id(1), None)).await.unwrap();
    follow(&mut client, &mut got, b"", 50_000).await;
    drop(sessions);
    drop(first);
    while within(client.events.recv()).await.is_some() {}

    let mut vmm = host.driver().adopt(launch).await.unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::WorkloadStarted);
    let sessions = vmm.guest.sessions().unwrap();
    let again = within(sessions.open(id(1), script(lines))).await.unwrap();
    assert!(again.kept_from.stdout <= got.offsets().stdout);
    let mut client = within(sessions.attach(id(1), Some(got.offsets()))).await.unwrap();
    follow(&mut client, &mut got, b"", usize::MAX).await;
    let expected: String = (0..30_000).map(|i| format!("line {i}\n")).collect();
    assert!(got.stdout == expected.as_bytes(), "{} of {} bytes", got.stdout.len(), expected.len());
    assert_eq!((got.stderr.as_slice(), got.end), (&b"end\n"[..], Some(code(0))));

    let trap = "exec 2>/dev/null; trap 'echo bye; exit 7' HUP; echo up; while :; do sleep 1; done";
    let mut clients = BTreeMap::new();
    for number in [2, 3] {
        within(sessions.open(id(number), script(trap))).await.unwrap();
        let mut client = within(sessions.attach(id(number), None)).await.unwrap();
        let mut got = Got::default();
        follow(&mut client, &mut got, b"", 3).await;
        clients.insert(number, (client, got));
    }
    vmm.guest.write_stdin(b"\n".to_vec()).await.unwrap();
    let (mut client, mut got) = clients.remove(&2).unwrap();
    follow(&mut client, &mut got, b"", usize::MAX).await;
    assert_eq!((got.text(), got.end.clone()), (("up\nbye\n", ""), Some(code(7))));
    let ended = next(&mut vmm).await;
    assert!(matches!(ended, VmmEvent::WorkloadExited { exit: ExitStatus::Code(5), .. }), "{ended:?}");
    vmm.guest.acknowledge_exit().await.unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::VmmExited(ExitStatus::Code(0)));
    vmm.process.release().await.unwrap();
    // The other one fetches only now.
    let (client, mut got) = clients.remove(&3).unwrap();
    drop(client);
    let mut client = within(sessions.attach(id(3), Some(got.offsets()))).await.unwrap();
    follow(&mut client, &mut got, b"", usize::MAX).await;
    assert_eq!((got.text(), got.end.clone()), (("up\nbye\n", ""), Some(code(7))));
}

#[tokio::test]
async fn a_restored_machine_has_sessions() {
    let Some(host) = Host::real() else { return };
    if crate::acceleration::acceleration().accelerator != crate::acceleration::Accelerator::Tcg {
        return skip(Reason::KvmWorks, "machines are restored under emulation only");
    }
    let mut launch = host.shell("exec sleep 1000");
    let mut spec = SandboxSpec::clone(&launch.spec);
    spec.rootfs = Rootfs::Overlayfs(spec.rootfs.paths().into_iter().map(Path::to_owned).collect());
    spec.root_device = sandpen_types::spec::RootDevice::Disk;
    launch.spec = Arc::new(spec);
    let mut vmm = started(&host, launch).await;
    let sessions = vmm.guest.sessions().unwrap();
    let input = b"there and back".to_vec();
    let cat = SessionSpec { stdin: true, ..SessionSpec::command(["/bin/busybox", "cat"]) };
    let got = exec(&*sessions, 1, cat, &input).await;
    assert_eq!((got.stdout, got.end), (input, Some(code(0))));
    vmm.process.signal_vmm(SIGKILL).unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::VmmExited(ExitStatus::Signal(9)));
    vmm.process.release().await.unwrap();
}
