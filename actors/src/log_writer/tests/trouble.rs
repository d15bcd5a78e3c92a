//! Rotation that fails, files that change from outside, second writers, events.

use std::io::Write as _;

use actix::{Actor, Context, Handler};
use tokio::sync::mpsc;

use super::*;

/// Passes events on to a test.
pub(super) struct Events(mpsc::UnboundedSender<LogFailed>, mpsc::UnboundedSender<Appended>);

impl Actor for Events {
    type Context = Context<Self>;
}

impl Handler<LogFailed> for Events {
    type Result = ();
    fn handle(&mut self, event: LogFailed, _: &mut Self::Context) {
        let _ = self.0.send(event);
    }
}

impl Handler<Appended> for Events {
    type Result = ();
    fn handle(&mut self, event: Appended, _: &mut Self::Context) {
        let _ = self.1.send(event);
    }
}

pub(super) async fn subscribe(
    writer: &Addr<LogWriter>,
) -> (mpsc::UnboundedReceiver<LogFailed>, mpsc::UnboundedReceiver<Appended>) {
    let (failed, failures) = mpsc::unbounded_channel();
    let (appended, appends) = mpsc::unbounded_channel();
    let events = Events(failed, appended).start();
    let subscribe = Subscribe { appended: Some(events.clone().recipient()), failed: Some(events.recipient()) };
    writer.send(subscribe).await.unwrap();
    (failures, appends)
}

#[test]
fn a_directory_in_the_way_of_rotation_stops_nothing() {
    run(async {
        let place = Place::new(4096, 2);
        let writer = place.start(1);
        let (mut failures, mut appends) = subscribe(&writer).await;
        write(&writer, OutputStream::Stdout, &pattern(1, 4000)).await.unwrap();
        fs::create_dir(place.numbered(1)).unwrap();
        let mut pipe = attach(&writer, OutputStream::Stdout).await;
        pipe.write_all(&pattern(2, 50_000)).unwrap();
        ask(&writer, bytes_of(54_000, 0)).await.unwrap();
        let failure = failures.recv().await.unwrap();
        assert_eq!(failure.lost_bytes, 0);
        assert!(failure.message.contains("not a regular file"), "{}", failure.message);
        assert_eq!(fs::metadata(place.log()).unwrap().len(), 54_000, "it goes on beyond the limit");
        fs::remove_dir(place.numbered(1)).unwrap();
        // Retried with back-off: some of these bytes come after it.
        let mut written = 54_000;
        while !place.numbered(1).exists() {
            pipe.write_all(b"x").unwrap();
            written += 1;
            ask(&writer, bytes_of(written, 0)).await.unwrap();
        }
        let totals = ask(&writer, Close).await.unwrap();
        assert_eq!(totals.stdout, written);
        assert!(failures.try_recv().is_err(), "told once");
        let mut counted = 0;
        while counted < written {
            let appended = appends.recv().await.unwrap();
            assert_eq!(appended.offset, counted);
            counted += appended.len;
        }
        let got = files(&place.log(), FollowFrom::Oldest).await;
        assert!(got.gaps.is_empty() && got.all.len() as u64 == written);
    });
}

#[test]
fn a_directory_at_the_logs_own_name_leaves_the_bytes_in_the_pipe() {
    run(async {
        let place = Place::new(4096, 2);
        fs::create_dir_all(place.log()).unwrap();
        let writer = start(LogConfig { close_limit: Duration::from_millis(250), ..place.config(1) });
        let (mut failures, _) = subscribe(&writer).await;
        let mut pipe = attach(&writer, OutputStream::Stdout).await;
        pipe.write_all(b"kept").unwrap();
        assert!(failures.recv().await.unwrap().message.contains("not a regular file"));
        assert!(write(&writer, OutputStream::Stderr, b"refused").await.is_err());
        let refused = ask(&writer, Close).await;
        assert!(matches!(refused, Err(LogError::CloseLimit { source: Some(_), .. })), "{refused:?}");
        fs::remove_dir(place.log()).unwrap();
        // It goes on by itself: a refused `Close` changed nothing.
        ask(&writer, bytes_of(4, 0)).await.unwrap();
        assert_eq!(
            ask(&writer, Close).await.unwrap(),
            StreamTotals { stdout: 4, stderr: 0, position: 4, ..StreamTotals::default() }
        );
        assert_eq!(place.raw(), b"kept");
    });
}

#[test]
fn a_file_truncated_from_outside_leaves_a_gap_and_no_hole() {
    run(async {
        let place = Place::new(1 << 20, 2);
        let writer = place.start(1);
        let (mut failures, _) = subscribe(&writer).await;
        let follower = ask(&writer, Follow { from: FollowFrom::Oldest }).await.unwrap();
        write(&writer, OutputStream::Stdout, &pattern(1, 5000)).await.unwrap();
        File::options().write(true).open(place.log()).unwrap().set_len(0).unwrap();
        write(&writer, OutputStream::Stdout, b"after").await.unwrap();
        assert_eq!(failures.recv().await.unwrap().lost_bytes, 5000);
        assert_eq!(place.raw(), b"after");
        File::options().write(true).open(place.log()).unwrap().set_len(2).unwrap();
        write(&writer, OutputStream::Stderr, b"again").await.unwrap();
        assert_eq!(failures.recv().await.unwrap().lost_bytes, 3);
        let totals = ask(&writer, Close).await.unwrap();
        assert_eq!(totals, StreamTotals { stdout: 5005, stderr: 5, position: 5010, ..StreamTotals::default() });
        let got = collect(follower).await.unwrap();
        assert_eq!(got.all, b"afagain");
        assert_eq!(got.gaps, [(0, 5000), (5002, 3)]);
        let got = files(&place.log(), FollowFrom::Position(0)).await;
        assert_eq!((got.stdout.as_slice(), got.stderr.as_slice()), (&b"af"[..], &b"again"[..]));
        assert_eq!(got.gaps, [(0, 5000), (5002, 3)]);
    });
}

#[test]
fn a_log_moved_away_is_begun_anew() {
    run(async {
        let place = Place::new(1 << 20, 2);
        let writer = place.start(1);
        let follower = ask(&writer, Follow { from: FollowFrom::Oldest }).await.unwrap();
        write(&writer, OutputStream::Stdout, b"one").await.unwrap();
        let moved = place.dir.path().join("moved");
        fs::rename(place.log(), &moved).unwrap();
        write(&writer, OutputStream::Stdout, b"two").await.unwrap();
        ask(&writer, Reopen).await.unwrap();
        write(&writer, OutputStream::Stdout, b"three").await.unwrap();
        fs::remove_file(place.log()).unwrap();
        write(&writer, OutputStream::Stdout, b"four").await.unwrap();
        ask(&writer, Close).await.unwrap();
        assert_eq!(fs::read(&moved).unwrap(), b"onetwo", "as with every log, until Reopen");
        assert_eq!(place.raw(), b"four");
        let got = collect(follower).await.unwrap();
        assert_eq!((got.all.as_slice(), got.gaps.len()), (&b"onetwothreefour"[..], 0));
    });
}

#[test]
fn a_writer_without_address_stops_and_the_next_one_goes_on() {
    run(async {
        let place = Place::new(1 << 20, 2);
        let (read, mut pipe) = std::io::pipe().unwrap();
        let first = place.start(1);
        let pipe_again = OwnedFd::from(read.try_clone().unwrap());
        ask(&first, AttachStream { stream: OutputStream::Stdout, pipe: read.into() }).await.unwrap();
        pipe.write_all(b"first ").unwrap();
        ask(&first, bytes_of(6, 0)).await.unwrap();
        // A reader of the first one must not keep the second one out.
        let reader = ask(&first, Follow { from: FollowFrom::Oldest }).await.unwrap();

        let second = place.start(1);
        let refused = write(&second, OutputStream::Stderr, b"too early").await;
        assert!(matches!(refused, Err(LogError::Busy(_))), "{refused:?}");
        let weak = first.downgrade();
        drop(first);
        eventually("the first writer stops", || weak.upgrade().is_none()).await;
        ask(&second, AttachStream { stream: OutputStream::Stdout, pipe: pipe_again }).await.unwrap();
        pipe.write_all(b"second").unwrap();
        let totals = ask(&second, bytes_of(12, 0)).await.unwrap();
        assert_eq!(totals, StreamTotals { stdout: 12, stderr: 0, position: 12, ..StreamTotals::default() });
        ask(&second, Close).await.unwrap();
        assert_eq!(place.raw(), b"first second");
        assert!(matches!(collect(reader).await, Err(LogError::WriterGone { position: 6 })));
    });
}

#[test]
fn a_closing_writer_takes_nothing_new() {
    run(async {
        let place = Place::new(4096, 2);
        fs::create_dir_all(place.log()).unwrap();
        let writer = start(LogConfig { close_limit: Duration::from_millis(300), ..place.config(1) });
        let mut pipe = attach(&writer, OutputStream::Stdout).await;
        pipe.write_all(b"stuck").unwrap();
        let late = async {
            tokio::task::yield_now().await;
            assert!(matches!(write(&writer, OutputStream::Stdout, b"no").await, Err(LogError::Closed)));
            assert!(matches!(ask(&writer, Reopen).await, Err(LogError::Closed)));
            let (read, _write) = std::io::pipe().unwrap();
            let attach = AttachStream { stream: OutputStream::Stderr, pipe: read.into() };
            assert!(matches!(ask(&writer, attach).await, Err(LogError::Closed)));
        };
        let (closed, ()) = futures::join!(ask(&writer, Close), late);
        assert!(closed.is_err());
    });
}

#[test]
fn a_process_that_is_being_started_keeps_no_log_locked() {
    let place = Place::new(4096, 2);
    let write = |store: &mut store::Store, generation: u64| {
        let room = store.prepare(OutputStream::Stdout, generation, 1).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&room.segment.log, b"x", room.offset).unwrap();
        store.advance(OutputStream::Stdout, 1);
    };
    write(&mut store::Store::new(place.config(1)), 1);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Between fork and exec a child has all files of this process open, and the locks with them.
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                assert!(std::process::Command::new("/bin/true").status().unwrap().success());
            }
        });
        let result = std::panic::catch_unwind(|| {
            for generation in 2..2000 {
                let mut store = store::Store::new(place.config(generation));
                store.recover().unwrap();
                store.follow(FollowFrom::Oldest).map(drop).unwrap();
            }
        });
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        result.unwrap();
    });
}
