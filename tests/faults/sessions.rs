//! Sessions of the library, whose sandbox's monitor fails: nothing is lost or doubled.

use std::time::Duration;

use sandpen::session::{SessionEnd, SessionSpec};
use sandpen::{Events, EventsOptions, Handle, Sandpen, SandpenError, Session};
use sandpen_actors::testing::panic::{ActorKind, InjectPanic, PanicPlace};
use sandpen_types::event::EventKind;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::state::ExitStatus;

use crate::played::{key, running, soon};

/// The monitor fails, and another one takes its place.
async fn lose_monitor(handle: &Handle, events: &mut Events) {
    let panic = InjectPanic { actor: ActorKind::Monitor, place: PanicPlace::Handler, sandbox: Some(key("a")) };
    while !soon(handle.inject_panic(panic.clone())).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    loop {
        let record = soon(events.next()).await.unwrap().expect("follows");
        if matches!(record.known_kind(), Some(EventKind::ActorRestarted { actor, .. }) if actor == "monitor") {
            break;
        }
    }
}

async fn line(session: &mut Session) -> Vec<u8> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.extend_from_slice(&soon(session.next()).await.unwrap().expect("a line").bytes);
    }
    line
}

#[tokio::test]
async fn a_session_goes_on_over_the_failures_of_monitors() {
    let dir = tempfile::tempdir().unwrap();
    let (sandpen, _vmm) = running(Sandpen::builder(), dir.path()).await;
    let handle = sandpen.handle();
    let script = "while read line; do echo \"got $line\"; done; exit 3";
    let spec = SessionSpec { stdin: true, ..SessionSpec::command(["sh", "-c", script]) };
    let mut session = soon(handle.exec(&key("a"), spec.clone())).await.unwrap();
    // Asked for again, it is the same.
    let again = soon(handle.open_session(&key("a"), session.id(), spec)).await.unwrap();
    assert_eq!(again.id, session.id());
    assert_eq!(soon(handle.sessions(&key("a"))).await.unwrap().len(), 1);
    let mut events = handle.events(EventsOptions { follow: true, ..EventsOptions::default() }).await.unwrap();
    let stdin = session.stdin();
    for number in 0..3 {
        soon(stdin.write(format!("{number}\n").as_bytes())).await.unwrap();
        assert_eq!(line(&mut session).await, format!("got {number}\n").as_bytes());
        lose_monitor(&handle, &mut events).await;
    }
    let at = session.offsets();
    assert_eq!((at.stdout, at.stderr), (18, 0));
    soon(stdin.close()).await.unwrap();
    assert_eq!(soon(session.wait()).await.unwrap(), SessionEnd::Exited(ExitStatus::Code(3)));
    // That its end was taken is on its way to the session.
    let forgotten = async {
        while !handle.sessions(&key("a")).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(forgotten).await;
    soon(sandpen.shutdown(None)).await.unwrap();
}

#[tokio::test]
async fn input_and_output_move_whoever_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (sandpen, _vmm) = running(Sandpen::builder(), dir.path()).await;
    let handle = sandpen.handle();
    let bytes: Vec<u8> = (0..3_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    let spec = SessionSpec { stdin: true, ..SessionSpec::command(["cat"]) };
    let mut session = soon(handle.exec(&key("a"), spec.clone())).await.unwrap();
    let (stdin, input) = (session.stdin(), bytes.clone());
    let writing = tokio::spawn(async move {
        for chunk in input.chunks(100_000) {
            stdin.write(chunk).await?;
        }
        stdin.close().await
    });
    let mut output = Vec::new();
    while let Some(chunk) = soon(session.next()).await.unwrap() {
        if chunk.stream == OutputStream::Stdout {
            assert_eq!(chunk.offset, output.len() as u64);
            output.extend_from_slice(&chunk.bytes);
        } else {
            assert_eq!((chunk.offset, chunk.bytes.len()), (0, 0), "its end alone");
        }
    }
    assert!(output == bytes, "{} bytes", output.len());
    soon(writing).await.unwrap().unwrap();
    // One who only writes is enough for input, and one who leaves can be followed by another, from where he was.
    let mut first = soon(handle.exec(&key("a"), SessionSpec { detached: true, ..spec })).await.unwrap();
    soon(first.stdin().write(b"one\n")).await.unwrap();
    assert_eq!(line(&mut first).await, b"one\n");
    let (id, offsets) = (first.id(), first.offsets());
    let mut second = soon(handle.attach_session(&key("a"), id, Some(offsets))).await.unwrap();
    soon(second.stdin().write(b"two\n")).await.unwrap();
    assert_eq!(line(&mut second).await, b"two\n");
    assert!(matches!(soon(first.next()).await, Err(SandpenError::SessionReplaced(of)) if of == id));
    soon(second.signal(15)).await.unwrap();
    assert_eq!(soon(second.wait()).await.unwrap(), SessionEnd::Exited(ExitStatus::Signal(15)));
    soon(sandpen.shutdown(None)).await.unwrap();
}
