//! Jobs of the library, whose keeper, monitor and supervisor fail: nothing is lost or doubled, for who follows neither.

use std::time::Duration;

use sandpen::actors::log_writer::LogChunk;
use sandpen::session::{SessionEnd, SessionSpec};
use sandpen::{EventsOptions, OutputOptions, Sandpen};
use sandpen_actors::runtime::intensity::RestartIntensity;
use sandpen_actors::testing::panic::{ActorKind, InjectPanic, PLACES};
use sandpen_types::event::EventKind;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::state::ExitStatus;

use crate::played::{key, running, soon};

#[tokio::test]
async fn a_job_goes_on_over_the_failures_of_all_that_keep_it() {
    let dir = tempfile::tempdir().unwrap();
    let intensity = RestartIntensity { limit: 1000, window: Duration::from_secs(1) };
    let (sandpen, _vmm) = running(Sandpen::builder().restart_intensity(intensity), dir.path()).await;
    let handle = sandpen.handle();
    let go = dir.path().join("go");
    let script = format!("i=0; until [ -e {} ]; do i=$((i+1)); echo $i; done; exit 3", go.display());
    let job = soon(handle.start_job(&key("a"), SessionSpec::command(["sh", "-c", &script]))).await.unwrap();
    // Asked for again, it is the same.
    let again = soon(handle.open_job(&key("a"), job.id, SessionSpec::command(["false"]))).await.unwrap();
    assert_eq!((again.id, again.asked_at), (job.id, job.asked_at));
    let options = OutputOptions { follow: true, ..OutputOptions::default() };
    let mut output = soon(handle.job_output(&key("a"), job.id, options)).await.unwrap();
    let following = tokio::spawn(async move {
        let mut text = Vec::new();
        while let Some(chunk) = output.next().await.unwrap() {
            match chunk {
                LogChunk::Bytes { stream: OutputStream::Stdout, bytes, .. } => text.extend_from_slice(&bytes),
                other => panic!("{other:?}"),
            }
        }
        String::from_utf8(text).unwrap()
    });
    let (waiter, id) = (handle.clone(), job.id);
    let waiting = tokio::spawn(async move { waiter.wait_job(&key("a"), id).await });
    let mut events = handle.events(EventsOptions { follow: true, ..EventsOptions::default() }).await.unwrap();
    for place in PLACES {
        for (actor, word) in [
            (ActorKind::JobKeeper, "job_keeper"),
            (ActorKind::Monitor, "monitor"),
            (ActorKind::Supervisor, "supervisor"),
            (ActorKind::Database, "database"),
        ] {
            let panic = InjectPanic { actor, place, sandbox: Some(key("a")) };
            while !soon(handle.inject_panic(panic.clone())).await.unwrap() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            loop {
                let record = soon(events.next()).await.unwrap().expect("follows");
                if matches!(record.known_kind(), Some(EventKind::ActorRestarted { actor, .. }) if actor == word) {
                    break;
                }
            }
            // The way to it is there again.
            let before = soon(handle.job(&key("a"), id)).await.unwrap().bytes;
            while soon(handle.job(&key("a"), id)).await.unwrap().bytes == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    std::fs::write(go, "").unwrap();
    let ended = soon(waiting).await.unwrap().unwrap();
    assert_eq!(ended.end, Some(SessionEnd::Exited(ExitStatus::Code(3))));
    let text = soon(following).await.unwrap();
    for (index, line) in text.lines().enumerate() {
        assert_eq!(line, (index + 1).to_string(), "a line is lost, doubled or broken");
    }
    assert_eq!(ended.bytes, text.len() as u64);
    assert_eq!(soon(handle.jobs(&key("a"))).await.unwrap(), [ended]);
    soon(sandpen.shutdown(None)).await.unwrap();
}
