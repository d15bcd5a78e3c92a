//! Output that is dropped on a full disk: the workload never waits, what is lost is counted and marked.

use std::io::Write as _;

use sandpen_types::spec::LogBacklog;

use super::disk_full::{ballast, small_disk};
use super::killed::{Killed, dir};
use super::*;
use crate::telemetry::counters::Counter;

fn dropping(config: LogConfig) -> LogConfig {
    let limits = LogLimits { backlog: LogBacklog::Drop, ..config.limits };
    LogConfig { limits, ..config }
}

/// Follows one stream's bytes through kept pieces and marks: each piece is where the marks say. Answers how many
/// bytes were kept and dropped.
async fn check(mut follower: LogFollower, written: &[u8]) -> (u64, u64) {
    let (mut at, mut kept, mut dropped) = (0, 0, 0);
    while let Some(chunk) = follower.next().await.unwrap() {
        match chunk {
            LogChunk::Bytes { bytes, position, .. } => {
                assert_eq!(position, kept, "positions count kept bytes");
                assert!(written[at..].starts_with(&bytes), "at {at}, after {dropped} dropped bytes");
                at += bytes.len();
                kept += bytes.len() as u64;
            }
            LogChunk::Dropped { bytes, position, .. } => {
                assert_eq!(position, kept);
                at += usize::try_from(bytes).unwrap();
                dropped += bytes;
            }
            gap @ LogChunk::Gap { .. } => panic!("{gap:?}"),
        }
    }
    (kept, dropped)
}

/// One byte more and more, until one is kept again; how many were written then.
async fn until_kept(
    writer: &Addr<LogWriter>,
    pipe: &mut std::io::PipeWriter,
    bytes: &[u8],
    mut written: usize,
) -> usize {
    loop {
        let before = ask(writer, bytes_of(0, 0)).await.unwrap();
        pipe.write_all(&bytes[written..=written]).unwrap();
        written += 1;
        let wanted = bytes_of(written as u64, 0);
        if ask(writer, wanted).await.unwrap().stdout > before.stdout {
            return written;
        }
    }
}

#[test]
fn one_drops_and_never_waits_another_waits_and_loses_nothing() {
    let Some(dir) = small_disk(512) else { return };
    run(async {
        let place = Place { dir, max_bytes: 1 << 20, keep: 3 };
        let waiting_log = place.dir.path().join("waiting.log");
        let faults = crate::telemetry::faults::Faults::default();
        let writer = start(LogConfig { faults: faults.clone(), ..dropping(place.config(1)) });
        let waiting = start(LogConfig { path: waiting_log.clone(), ..place.config(1) });
        let elsewhere = Place::new(1 << 20, 3);
        let neighbour = elsewhere.start(1);
        let follower = ask(&writer, Follow { from: FollowFrom::Oldest }).await.unwrap();
        let bytes = pattern(1, 3_000_000);
        let mut pipe = attach(&writer, OutputStream::Stdout).await;
        let mut slow_pipe = attach(&waiting, OutputStream::Stdout).await;
        let first = bytes_of(1000, 0);
        for (writer, pipe) in [(&writer, &mut pipe), (&waiting, &mut slow_pipe)] {
            pipe.write_all(&bytes[..1000]).unwrap();
            ask(writer, first).await.unwrap();
        }
        let full = ballast(place.dir.path(), 8192);
        let copy = bytes.clone();
        let blocked = std::thread::spawn(move || slow_pipe.write_all(&copy[1000..200_000]).unwrap());
        // All of it goes somewhere although the disk is full all the time.
        pipe.write_all(&bytes[1000..2_900_000]).unwrap();
        let wanted = bytes_of(2_900_000, 0);
        let totals = ask(&writer, wanted).await.unwrap();
        assert_eq!(totals.stdout + totals.dropped_stdout, 2_900_000);
        assert!(totals.dropped_stdout > 2_000_000, "{totals:?}");
        assert_eq!(dropped_bytes(&place.log()).unwrap(), (totals.dropped_stdout, 0), "the mark is on the full disk");
        assert!(!blocked.is_finished(), "nothing of the other one's is dropped");
        write(&neighbour, OutputStream::Stdout, b"untouched").await.unwrap();

        fs::remove_file(full).unwrap();
        let written = until_kept(&writer, &mut pipe, &bytes, 2_900_000).await;
        blocked.join().unwrap();
        let closed = ask(&writer, Close).await.unwrap();
        assert_eq!(closed.stdout + closed.dropped_stdout, written as u64);
        assert_eq!(faults.counters().value(Counter::LogDroppedStdout), closed.dropped_stdout);
        for follower in [follower, LogFollower::of_files(&place.log(), FollowFrom::Oldest).unwrap()] {
            assert_eq!(check(follower, &bytes).await, (closed.stdout, closed.dropped_stdout));
        }
        assert_eq!(ask(&waiting, Close).await.unwrap().stdout, 200_000);
        assert!(files(&waiting_log, FollowFrom::Oldest).await.all == bytes[..200_000]);
        ask(&neighbour, Close).await.unwrap();
        assert_eq!(elsewhere.raw(), b"untouched");
    });
}

#[test]
fn a_gap_at_the_end_is_told_once_and_goes_on_in_the_next_generation() {
    let Some(dir) = small_disk(256) else { return };
    run(async {
        let place = Place { dir, max_bytes: 1 << 20, keep: 3 };
        let full = ballast(place.dir.path(), 16_384);
        let bytes = pattern(2, 100_000);
        for (generation, stream) in [(1, OutputStream::Stdout), (2, OutputStream::Stderr)] {
            let writer = start(dropping(place.config(generation)));
            let mut pipe = attach(&writer, stream).await;
            pipe.write_all(&bytes).unwrap();
            drop(pipe);
            let totals = ask(&writer, Close).await.unwrap();
            assert_eq!(totals.stdout + totals.stderr + totals.dropped_stdout + totals.dropped_stderr, 100_000);
            assert!(totals.dropped_stdout + totals.dropped_stderr > 50_000, "{totals:?}");
            let (stdout, stderr) = dropped_bytes(&place.log()).unwrap();
            assert_eq!((stdout, stderr), (totals.dropped_stdout, totals.dropped_stderr));
        }
        fs::remove_file(full).unwrap();
        let got = files(&place.log(), FollowFrom::Oldest).await;
        let of = |wanted| got.dropped.iter().filter(|(_, stream, _)| *stream == wanted).map(|mark| mark.2).sum::<u64>();
        assert_eq!(of(OutputStream::Stdout) + got.stdout.len() as u64, 100_000);
        assert_eq!(of(OutputStream::Stderr) + got.stderr.len() as u64, 100_000);
        // Whoever goes on where another reader ended is not told the same again.
        let mut first = LogFollower::of_files(&place.log(), FollowFrom::Oldest).unwrap();
        while first.next().await.unwrap().is_some() {}
        let from = FollowFrom::Position(first.position());
        let next = LogFollower::of_files(&place.log(), from).unwrap().passing_over(first.marks_told());
        assert_eq!(collect(next).await.unwrap().dropped, []);
        assert!(!collect(LogFollower::of_files(&place.log(), from).unwrap()).await.unwrap().dropped.is_empty());
    });
}

#[test]
fn rotated_files_keep_their_marks() {
    run(async {
        // Were all kept, there would be fewer files than a follower that does not read holds.
        let place = Place::new(16_384, 60);
        // Each write counts as slow: after each one output is dropped for as long as it took.
        let writer = start(LogConfig { slow_write: Duration::ZERO, ..dropping(place.config(1)) });
        let follower = ask(&writer, Follow { from: FollowFrom::Oldest }).await.unwrap();
        let bytes = pattern(3, 1_000_000);
        let mut pipe = attach(&writer, OutputStream::Stdout).await;
        for piece in bytes.chunks(5000) {
            pipe.write_all(piece).unwrap();
        }
        drop(pipe);
        let closed = ask(&writer, Close).await.unwrap();
        assert_eq!(closed.stdout + closed.dropped_stdout, 1_000_000);
        assert!(place.numbered(1).exists());
        assert_eq!(dropped_bytes(&place.log()).unwrap(), (closed.dropped_stdout, 0), "files before count too");
        assert_eq!(check(follower, &bytes).await, (closed.stdout, closed.dropped_stdout));
    });
}

#[test]
fn a_directory_in_the_way_drops_and_a_second_writer_does_not() {
    run(async {
        let place = Place::new(4096, 2);
        fs::create_dir_all(place.log()).unwrap();
        let writer = start(dropping(place.config(1)));
        let mut pipe = attach(&writer, OutputStream::Stdout).await;
        let bytes = pattern(4, 500_000);
        pipe.write_all(&bytes[..400_000]).unwrap();
        fs::remove_dir(place.log()).unwrap();
        let written = until_kept(&writer, &mut pipe, &bytes, 400_000).await;
        // What could not be marked at once is marked now.
        let totals = ask(&writer, bytes_of(written as u64, 0)).await.unwrap();
        assert_eq!(dropped_bytes(&place.log()).unwrap(), (totals.dropped_stdout, 0));

        let second = start(dropping(place.config(1)));
        let mut other = attach(&second, OutputStream::Stderr).await;
        other.write_all(b"the first one's").unwrap();
        let refused = ask(
            &second,
            AwaitBytes {
                stdout: 0,
                stderr: 1,
                missing_max: u64::MAX,
                limit: DEADLINE,
                idle_limit: Duration::from_millis(300),
            },
        );
        assert!(tokio::time::timeout(Duration::from_millis(900), refused).await.is_err(), "it waits");
        ask(&writer, Close).await.unwrap();
        let totals = ask(&second, bytes_of(0, 15)).await.unwrap();
        assert_eq!((totals.stderr, totals.dropped_stderr), (15, 0));
        ask(&second, Close).await.unwrap();
    });
}

/// Not a test by itself: the process that is killed.
#[test]
#[ignore = "run by sigkill_amid_a_gap_never_makes_the_loss_look_smaller as a process of its own"]
fn dropping_writer() {
    let dir = dir();
    actix_rt::System::new().block_on(async {
        let writer = start(dropping(crashing_config(&dir)));
        let pipe = sandpen_vmm::waiter::open_fifo_read(&dir.join("out")).unwrap();
        ask(&writer, AttachStream { stream: OutputStream::Stdout, pipe }).await.unwrap();
        // Ends by SIGKILL; or by itself, if the test that started it is gone.
        tokio::time::sleep(DEADLINE).await;
    });
}

fn crashing_config(dir: &Path) -> LogConfig {
    LogConfig::new(dir.join("box.log"), LogLimits { max_bytes: 1 << 20, ..LogLimits::default() }, 1)
}

#[test]
fn sigkill_amid_a_gap_never_makes_the_loss_look_smaller() {
    let Some(dir) = small_disk(256) else { return };
    run(async {
        let fifo = dir.path().join("out");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let hold = || File::options().read(true).write(true).open(&fifo).unwrap();
        let (mut pipe, _held) = (hold(), hold());
        let bytes = pattern(5, 64 << 20);
        let full = ballast(dir.path(), 16_384);
        let log = dir.path().join("box.log");
        let mut written = 0;
        for round in 0..8_usize {
            let child = Killed::spawn("dropping::dropping_writer", dir.path());
            // A pipe's worth stays behind what is written: the kill comes while it is being dropped.
            let until = written + 2_000_000 + round * 77_777;
            pipe.write_all(&bytes[written..until]).unwrap();
            written = until;
            drop(child);
        }
        let pipe = sandpen_vmm::waiter::open_fifo_read(&fifo).unwrap();
        let writer = start(dropping(crashing_config(dir.path())));
        ask(&writer, AttachStream { stream: OutputStream::Stdout, pipe }).await.unwrap();
        let totals = ask(&writer, Close).await.unwrap();
        let told = totals.stdout + totals.dropped_stdout;
        let most = written as u64 + 8 * pump::QUANTUM;
        assert!((written as u64..=most).contains(&told), "{written} bytes, {totals:?}");
        assert!(totals.dropped_stdout > 10_000_000);
        assert_eq!(dropped_bytes(&log).unwrap(), (totals.dropped_stdout, 0));
        let got = files(&log, FollowFrom::Oldest).await;
        assert_eq!(got.all.len() as u64, totals.position, "offsets are those of the file");
        assert_eq!(got.dropped.iter().map(|mark| mark.2).sum::<u64>(), totals.dropped_stdout);
        drop(full);
    });
}
