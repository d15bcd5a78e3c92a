//! Sharing, turns, limits and giving up, with real threads and processes.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::*;

type TestLane = Lane<u32, io::Error>;

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

fn lane(at_once: usize) -> &'static TestLane {
    Box::leak(Box::new(Lane::new(at_once)))
}

fn piece(key: &str) -> Piece {
    Piece { key: key.to_owned(), what: format!("making {key}"), limit: DEADLINE, advice: "wait" }
}

/// Begins work for a start that may give up.
fn begin(
    lane: &'static TestLane,
    piece: Piece,
    work: impl FnOnce(&Stop) -> io::Result<u32> + Send + 'static,
) -> (CancellationToken, tokio::task::JoinHandle<Outcome<u32, io::Error>>) {
    let cancel = CancellationToken::new();
    let its = cancel.clone();
    (cancel, tokio::spawn(async move { lane.on_thread(piece, &its, work).await }))
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Resolves with the pid that the program of [`sleeper`] has written.
async fn pid_in(path: &Path) -> i32 {
    let mut pid = None;
    until("it runs", || {
        pid = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        pid.is_some()
    })
    .await;
    pid.unwrap()
}

fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A program that goes on for ever, beside a draft.
fn sleeper(dir: &Path) -> impl FnOnce(&Stop) -> io::Result<u32> + Send + 'static {
    let (dir, pid) = (dir.to_owned(), dir.join("pid"));
    move |stop| {
        let _draft = sandpen_cache::Draft::create(&dir)?;
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\"; exec sleep 1000"]).arg(pid).stdin(Stdio::null());
        stop.output(command).map(|_| 1)
    }
}

#[tokio::test]
async fn those_who_want_the_same_share_it_and_its_error() {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let lane = lane(4);
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let (_, first) = begin(lane, piece("a"), move |_| {
        RUNS.fetch_add(1, Ordering::SeqCst);
        receiver.recv().unwrap();
        Err(io::ErrorKind::StorageFull.into())
    });
    until("it runs", || RUNS.load(Ordering::SeqCst) == 1).await;
    let others: Vec<_> = (0..8).map(|_| begin(lane, piece("a"), |_| panic!("it runs already")).1).collect();
    // Another one goes on beside it.
    let (_, other) = begin(lane, piece("b"), |_| Ok(2));
    assert_eq!(other.await.unwrap().unwrap(), 2);
    sender.send(()).unwrap();
    for outcome in futures::future::join_all(others.into_iter().chain([first])).await {
        let error = outcome.unwrap().unwrap_err();
        assert!(matches!(&*error, WorkError::Failed(error) if error.kind() == io::ErrorKind::StorageFull), "{error:?}");
    }
    assert_eq!(RUNS.load(Ordering::SeqCst), 1);
    // What is over is not shared any more.
    assert_eq!(begin(lane, piece("a"), |_| Ok(3)).1.await.unwrap().unwrap(), 3);
}

#[tokio::test]
async fn no_more_go_on_at_once_than_the_lane_has_turns_and_waiting_can_be_left() {
    static NOW: AtomicU32 = AtomicU32::new(0);
    static MOST: AtomicU32 = AtomicU32::new(0);
    let lane = lane(2);
    let (_, held): (Vec<_>, Vec<_>) = (0..6)
        .map(|number| {
            begin(lane, piece(&number.to_string()), |_| {
                MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(50));
                NOW.fetch_sub(1, Ordering::SeqCst);
                Ok(0)
            })
        })
        .unzip();
    let (cancel, waits) = begin(lane, piece("left"), |_| panic!("it was left"));
    cancel.cancel();
    assert!(matches!(&*waits.await.unwrap().unwrap_err(), WorkError::Cancelled));
    for outcome in futures::future::join_all(held).await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(MOST.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_last_one_to_leave_ends_the_program_and_the_draft() {
    let dir = tempfile::tempdir().unwrap();
    let lane = lane(1);
    let (first_cancel, first) = begin(lane, piece("a"), sleeper(dir.path()));
    let pid = pid_in(&dir.path().join("pid")).await;
    let (second_cancel, second) = begin(lane, piece("a"), |_| panic!("it runs already"));
    // It has joined when it is one of two.
    until("it has joined", || {
        let pieces = lane.pieces.lock().unwrap();
        pieces["a"].outcome.upgrade().is_some_and(|outcome| outcome.strong_count() > Some(3))
    })
    .await;
    first_cancel.cancel();
    assert!(matches!(&*first.await.unwrap().unwrap_err(), WorkError::Cancelled));
    assert!(exists(pid), "another one wants it");
    second_cancel.cancel();
    assert!(matches!(&*second.await.unwrap().unwrap_err(), WorkError::Cancelled));
    // At once: reaped, too.
    assert!(!exists(pid), "the program goes on");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["pid"]);
    assert_eq!(begin(lane, piece("a"), |_| Ok(4)).1.await.unwrap().unwrap(), 4, "its turn is over");
}

#[tokio::test]
async fn a_start_that_is_dropped_has_left() {
    let dir = tempfile::tempdir().unwrap();
    let (_, start) = begin(lane(1), piece("a"), sleeper(dir.path()));
    let pid = pid_in(&dir.path().join("pid")).await;
    start.abort();
    until("the program has ended", || !exists(pid)).await;
    until("its draft is gone", || fs::read_dir(dir.path()).unwrap().count() == 1).await;
}

#[tokio::test]
async fn what_takes_too_long_is_ended_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let brief = Piece { limit: Duration::from_millis(300), ..piece("an image") };
    let (_, start) = begin(lane(1), brief, sleeper(dir.path()));
    let pid = pid_in(&dir.path().join("pid")).await;
    let error = start.await.unwrap().unwrap_err();
    assert!(error.to_string().starts_with("making an image has taken longer than 0 s"), "{error}");
    assert!(error.to_string().ends_with("; wait") && !exists(pid), "{error}");
    let driver = error.of_step("making the root image");
    assert!(driver.chain().starts_with("making the root image: making an image has taken"), "{}", driver.chain());
}

#[tokio::test]
async fn a_thread_that_panics_is_told_and_gives_its_turn_back() {
    let lane = lane(1);
    let error = begin(lane, piece("a"), |_| panic!("a test")).1.await.unwrap().unwrap_err();
    assert!(matches!(&*error, WorkError::Lost), "{error:?}");
    assert_eq!(begin(lane, piece("a"), |_| Ok(5)).1.await.unwrap().unwrap(), 5);
}

#[tokio::test]
async fn what_a_program_says_is_kept_in_part_and_read_to_its_end() {
    let (_, work) = begin(lane(1), piece("a"), |stop| {
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 1000000 /dev/zero; echo gone wrong >&2; exit 3"]).stdin(Stdio::null());
        let output = stop.output(command)?;
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(3), &b"gone wrong\n"[..]));
        Ok(u32::try_from(output.stdout.len()).unwrap())
    });
    assert_eq!(work.await.unwrap().unwrap(), 64 << 10);
}
