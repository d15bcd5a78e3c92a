//! Followers: live, stalled, many, on files; and where the last lines begin.

use std::io::Write as _;

use super::*;

#[test]
fn a_stalled_follower_gets_what_was_rotated_away() {
    run(async {
        let place = Place::new(4096, 1);
        let writer = place.start(1);
        let mut pipe = attach(&writer, OutputStream::Stdout).await;
        // Attached before there is any file.
        let early = ask(&writer, Follow { from: FollowFrom::Oldest }).await.unwrap();
        let bytes = pattern(1, 200_000);
        let (head, rest) = bytes.split_at(10_000);
        pipe.write_all(head).unwrap();
        ask(&writer, bytes_of(10_000, 0)).await.unwrap();
        let late = ask(&writer, Follow { from: FollowFrom::Oldest }).await.unwrap();
        let oldest_then = late.position();
        assert!(oldest_then > 0 && oldest_then <= 10_000 - 4096);
        pipe.write_all(rest).unwrap();
        ask(&writer, Close).await.unwrap();
        // Only now they read: 49 files were written, 2 still have names.
        let got = collect(early).await.unwrap();
        assert!(got.gaps.is_empty() && got.all == bytes, "{:?}", got.gaps);
        let got = collect(late).await.unwrap();
        assert!(got.gaps.is_empty() && got.all == bytes[usize::try_from(oldest_then).unwrap()..]);
        assert_eq!(open_files(place.dir.path()), 0);
    });
}

#[test]
fn among_many_open_logs_one_without_new_bytes_closes_its_files_at_once() {
    run(async {
        let place = Place::new(1 << 20, 1);
        let comfortable = OpenLogs::within(FILES_OF_LOG);
        let one = start(LogConfig { open_logs: comfortable.clone(), ..place.config(1) });
        let mut pipe = attach(&one, OutputStream::Stdout).await;
        let write = async |pipe: &mut std::io::PipeWriter, total: u64| {
            pipe.write_all(b"line\n").unwrap();
            ask(&one, bytes_of(total, 0)).await.unwrap();
        };
        write(&mut pipe, 5).await;
        assert_eq!(open_files(place.dir.path()), 2, "they are kept open for a while");
        // Somebody else's.
        let other = comfortable.count();
        write(&mut pipe, 10).await;
        while open_files(place.dir.path()) > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        drop(other);
        write(&mut pipe, 15).await;
        assert_eq!(open_files(place.dir.path()), 2);
        ask(&one, Close).await.unwrap();
        assert_eq!(place.raw(), b"line\n".repeat(3));
    });
}

#[test]
fn a_follower_that_stalls_for_too_long_gets_a_gap() {
    run(async {
        let place = Place::new(4096, 1);
        let writer = place.start(1);
        let stalled = ask(&writer, Follow { from: FollowFrom::Oldest }).await.unwrap();
        let bytes = pattern(2, 4096 * 100);
        for piece in bytes.chunks(4096) {
            write(&writer, OutputStream::Stderr, piece).await.unwrap();
        }
        assert!(open_files(place.dir.path()) <= 2 * segment::SEGMENTS_HELD + 4);
        ask(&writer, Close).await.unwrap();
        let got = collect(stalled).await.unwrap();
        assert_eq!(got.gaps, [(0, 4096 * 36)]);
        assert!(got.stderr == bytes[4096 * 36..]);
    });
}

#[test]
fn many_followers_read_while_it_is_written() {
    run(async {
        let place = Place::new(20_000, 2);
        let writer = place.start(1);
        let mut followers = Vec::new();
        for _ in 0..50 {
            followers.push(ask(&writer, Follow { from: FollowFrom::Oldest }).await.unwrap());
        }
        let out = pattern(3, 400_000);
        let err = pattern(4, 50_000);
        let (out_pipe, err_pipe) =
            (attach(&writer, OutputStream::Stdout).await, attach(&writer, OutputStream::Stderr).await);
        let (out_copy, err_copy) = (out.clone(), err.clone());
        let threads = [
            std::thread::spawn(move || write_in_pieces(out_pipe, &out_copy, &[3000, 1, 777])),
            std::thread::spawn(move || write_in_pieces(err_pipe, &err_copy, &[100])),
        ];
        // On a runtime that knows nothing of actix.
        let reader = std::thread::spawn(move || {
            let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            other.block_on(futures::future::join_all(followers.into_iter().map(collect)))
        });
        ask(&writer, bytes_of(400_000, 50_000)).await.unwrap();
        ask(&writer, Close).await.unwrap();
        for got in reader.join().unwrap() {
            let got = got.unwrap();
            assert!(got.gaps.is_empty() && got.stdout == out && got.stderr == err);
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_follower_waits_for_new_bytes_and_survives_being_dropped_mid_wait() {
    run(async {
        let place = Place::new(1 << 20, 2);
        let writer = place.start(1);
        let mut follower = ask(&writer, Follow { from: FollowFrom::Oldest }).await.unwrap();
        for round in 0..20_u8 {
            let waited = tokio::time::timeout(Duration::from_millis(1), follower.next()).await;
            assert!(waited.is_err());
            write(&writer, OutputStream::Stdout, &[round; 3]).await.unwrap();
            let Some(LogChunk::Bytes { bytes, position, .. }) = follower.next().await.unwrap() else {
                panic!("no bytes")
            };
            assert_eq!((bytes, position), (vec![round; 3], u64::from(round) * 3));
        }
        let (end, closed) = futures::join!(follower.next(), ask(&writer, Close));
        assert_eq!(end.unwrap(), None);
        closed.unwrap();
        assert_eq!(follower.next().await.unwrap(), None);
    });
}

#[test]
fn a_writer_that_goes_without_closing_is_told_after_the_last_byte() {
    run(async {
        let place = Place::new(1 << 20, 2);
        let writer = place.start(1);
        let mut follower = ask(&writer, Follow { from: FollowFrom::Oldest }).await.unwrap();
        write(&writer, OutputStream::Stdout, b"last words").await.unwrap();
        drop(writer);
        assert!(
            matches!(follower.next().await.unwrap(), Some(LogChunk::Bytes { bytes, .. }) if bytes == b"last words")
        );
        assert!(matches!(follower.next().await, Err(LogError::WriterGone { position: 10 })));
    });
}

#[test]
fn generations_are_told_apart_live_and_on_files() {
    run(async {
        let place = Place::new(4096, 10);
        assert_eq!(files(&place.log(), FollowFrom::LatestGeneration).await, Got::default());
        for generation in 1..=4 {
            let writer = place.start(generation);
            let before = ask(&writer, bytes_of(0, 0)).await.unwrap();
            assert_eq!((before.stdout, before.stderr), (0, 0));
            let waiting = ask(&writer, Follow { from: FollowFrom::LatestGeneration }).await.unwrap();
            let bytes = pattern(generation, 3000);
            write(&writer, OutputStream::Stderr, &bytes[..1000]).await.unwrap();
            write(&writer, OutputStream::Stdout, &bytes[1000..]).await.unwrap();
            let late = ask(&writer, Follow { from: FollowFrom::LatestGeneration }).await.unwrap();
            let totals = ask(&writer, Close).await.unwrap();
            assert_eq!(
                totals,
                StreamTotals { stdout: 2000, stderr: 1000, position: 3000 * generation, ..StreamTotals::default() }
            );
            for got in [
                collect(waiting).await.unwrap(),
                collect(late).await.unwrap(),
                files(&place.log(), FollowFrom::LatestGeneration).await,
            ] {
                assert!(got.all == bytes && got.stderr == bytes[..1000]);
            }
        }
        for generation in 1..=4 {
            // The last three files of 4096 bytes hold them all; a writer of the last one is asked as well.
            let got = files(&place.log(), FollowFrom::Generation(generation)).await;
            let rest: Vec<u8> = (generation..=4).flat_map(|generation| pattern(generation, 3000)).collect();
            assert!(got.all == rest, "generation {generation}: {} bytes", got.all.len());
            let writer = place.start(4);
            let live = ask(&writer, Follow { from: FollowFrom::Generation(generation) }).await.unwrap();
            ask(&writer, Close).await.unwrap();
            assert!(collect(live).await.unwrap().all == rest, "generation {generation}");
        }
        assert_eq!(files(&place.log(), FollowFrom::Generation(5)).await, Got::default());
        assert_eq!(files(&place.log(), FollowFrom::Generation(0)).await.all.len(), 12_000);
        // A generation without a byte is one nevertheless.
        ask(&place.start(5), Close).await.unwrap();
        assert_eq!(files(&place.log(), FollowFrom::LatestGeneration).await, Got::default());
        assert_eq!(files(&place.log(), FollowFrom::Oldest).await.all.len(), 12_000);
    });
}

#[test]
fn files_are_read_to_the_end_even_when_there_are_more_than_are_held_open() {
    run(async {
        let place = Place::new(4096, 500);
        let writer = place.start(1);
        let bytes = pattern(5, 4096 * 200 + 17);
        for piece in bytes.chunks(4096) {
            write(&writer, OutputStream::Stdout, piece).await.unwrap();
        }
        ask(&writer, Close).await.unwrap();
        let got = files(&place.log(), FollowFrom::Oldest).await;
        assert!(got.gaps.is_empty() && got.all == bytes);
        assert!(files(&place.log(), FollowFrom::Position(500_000)).await.all == bytes[500_000..]);
        assert_eq!(files(&place.log(), FollowFrom::Position(u64::MAX - 5)).await, Got::default());
    });
}

#[test]
fn the_last_lines_are_found_over_rotations_and_by_stream() {
    run(async {
        let place = Place::new(4096, 300);
        assert_eq!(position_of_tail(&place.log(), 10, None).unwrap(), 0);
        let writer = place.start(1);
        let mut starts = Vec::new();
        let mut position = 0;
        for n in 0..900 {
            let line = format!("{n}: {}\n", "x".repeat(n % 700));
            let stream = if n % 5 == 0 { OutputStream::Stderr } else { OutputStream::Stdout };
            starts.push((position, stream));
            write(&writer, stream, line.as_bytes()).await.unwrap();
            position += line.len() as u64;
        }
        let log = place.log();
        let tail = |lines, stream| position_of_tail(&log, lines, stream).unwrap();
        assert_eq!(tail(0, None), position);
        for lines in [1, 2, 10, 100, 500, 900] {
            assert_eq!(tail(lines, None), starts[900 - lines].0);
        }
        assert_eq!(tail(10_000, None), 0);
        let errors: Vec<_> = starts.iter().filter(|(_, stream)| *stream == OutputStream::Stderr).collect();
        for lines in [1, 7, 100, 179] {
            // The lines of the other stream in between may come along; the reader filters them.
            let found = tail(lines, Some(OutputStream::Stderr));
            assert!(found <= errors[180 - lines].0 && found > errors[180 - lines - 1].0);
        }
        write(&writer, OutputStream::Stdout, b"unfinished").await.unwrap();
        assert_eq!(tail(1, None), position);
        assert_eq!(tail(2, None), starts[899].0);
        ask(&writer, Close).await.unwrap();
    });
}

#[test]
fn files_can_be_opened_while_they_rotate() {
    run(async {
        let place = Place::new(4096, 5);
        let writer = place.start(1);
        let pipe = attach(&writer, OutputStream::Stdout).await;
        let bytes = pattern(6, 1_500_000);
        let copy = bytes.clone();
        let thread = std::thread::spawn(move || write_in_pieces(pipe, &copy, &[20]));
        let mut seen = 0;
        while !thread.is_finished() {
            // Files may go from under it, which shows as a gap; what it reads must be right.
            let mut follower = LogFollower::of_files(&place.log(), FollowFrom::Oldest).unwrap();
            while let Some(chunk) = follower.next().await.unwrap() {
                if let LogChunk::Bytes { position, bytes: got, stream, .. } = chunk {
                    let at = usize::try_from(position).unwrap();
                    assert!(got == bytes[at..at + got.len()], "wrong bytes at {position}");
                    assert_eq!(stream, OutputStream::Stdout);
                    seen += got.len();
                }
            }
            assert!(position_of_tail(&place.log(), 5, None).unwrap() <= bytes.len() as u64);
        }
        thread.join().unwrap();
        assert!(seen > 0);
        assert_eq!(ask(&writer, Close).await.unwrap().stdout, 1_500_000);
    });
}

#[test]
fn files_that_go_before_they_are_opened_show_as_a_gap() {
    run(async {
        let place = Place::new(4096, 100);
        let writer = place.start(1);
        let bytes = pattern(3, 70 * 4096);
        for file in bytes.chunks(4096) {
            write(&writer, OutputStream::Stdout, file).await.unwrap();
        }
        ask(&writer, Close).await.unwrap();
        let follower = LogFollower::of_files(&place.log(), FollowFrom::Oldest).unwrap();
        // It holds those that it begins with.
        remove_files(&place.log()).unwrap();
        let got = collect(follower).await.unwrap();
        assert!(got.all == bytes[..64 * 4096]);
        assert_eq!(got.gaps, [(64 * 4096, 6 * 4096)]);
    });
}
