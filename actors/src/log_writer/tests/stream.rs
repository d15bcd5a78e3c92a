//! Bytes from pipes to files: all of them, in order, apart by stream, within the limits.

use std::os::unix::net::UnixStream;

use super::*;

#[test]
fn both_streams_arrive_unchanged_over_many_rotations() {
    run(async {
        let place = Place::new(4096, 150);
        let writer = place.start(1);
        let out = pattern(1, 300_017);
        let err = pattern(2, 100_003);
        let (out_pipe, err_pipe) =
            (attach(&writer, OutputStream::Stdout).await, attach(&writer, OutputStream::Stderr).await);
        let (out_copy, err_copy) = (out.clone(), err.clone());
        let threads = [
            std::thread::spawn(move || write_in_pieces(out_pipe, &out_copy, &[1, 7, 4096, 100, 33_333, 65_536])),
            std::thread::spawn(move || write_in_pieces(err_pipe, &err_copy, &[1, 3, 999, 5000])),
        ];
        let wanted = bytes_of(out.len() as u64, err.len() as u64);
        let totals = ask(&writer, wanted).await.unwrap();
        let all = (out.len() + err.len()) as u64;
        assert_eq!(totals, StreamTotals { stdout: 300_017, stderr: 100_003, position: all, ..StreamTotals::default() });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(ask(&writer, Close).await.unwrap(), totals);
        let got = files(&place.log(), FollowFrom::Oldest).await;
        assert!(got.gaps.is_empty());
        assert!(got.stdout == out && got.stderr == err, "streams differ");
        assert!(got.all == place.raw(), "followers and files differ");
        for n in 0..150 {
            if let Ok(meta) = fs::metadata(place.numbered(n)) {
                assert!(meta.len() <= 4096, "file {n} is {} bytes", meta.len());
                assert!(n == 0 || meta.len() == 4096, "file {n} was rotated before it was full");
            }
        }
        assert!(place.numbered(97).exists(), "400,020 bytes take 98 files");
        assert!(!place.numbered(98).exists());
    });
}

/// Both have waited before anybody looked, as while a daemon is busy, or is replaced by another.
#[test]
fn what_waits_in_both_streams_comes_in_the_order_in_which_it_was_written() {
    run(async {
        for (first, second) in
            [(OutputStream::Stdout, OutputStream::Stderr), (OutputStream::Stderr, OutputStream::Stdout)]
        {
            let place = Place::new(4096, 3);
            let arbiter = actix::Arbiter::new();
            let config = place.config(1);
            let writer = LogWriter::start_in_arbiter(&arbiter.handle(), move |_| LogWriter::new(config));
            let mut attached = Vec::new();
            let mut fifos = Vec::new();
            for stream in [first, second] {
                let path = place.dir.path().join(stream.to_string());
                nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
                let mut fifo = File::options().read(true).write(true).open(&path).unwrap();
                std::io::Write::write_all(&mut fifo, format!("{stream}\n").as_bytes()).unwrap();
                // Longer than the kernel takes for a new time.
                tokio::time::sleep(Duration::from_millis(20)).await;
                fifos.push(fifo);
                let pipe = sandpen_vmm::waiter::open_fifo_read(&path).unwrap();
                attached.push(AttachStream { stream, pipe });
            }
            // Stdout's is the older future in both cases.
            attached.sort_by_key(|attach| attach.stream == OutputStream::Stderr);
            // It looks once both are there.
            let (go_on, wait) = std::sync::mpsc::channel::<()>();
            assert!(arbiter.spawn_fn(move || {
                let _ = wait.recv();
            }));
            let asked: Vec<_> = attached.into_iter().map(|attach| writer.send(attach)).collect();
            drop(go_on);
            for answer in asked {
                answer.await.unwrap().unwrap();
            }
            ask(&writer, bytes_of(7, 7)).await.unwrap();
            assert_eq!(String::from_utf8(place.raw()).unwrap(), format!("{first}\n{second}\n"));
            ask(&writer, Close).await.unwrap();
            drop(fifos);
        }
    });
}

#[test]
fn rotation_keeps_as_many_files_as_asked() {
    run(async {
        let place = Place::new(4096, 3);
        let writer = place.start(1);
        let bytes = pattern(3, 50_000);
        write_in_pieces(attach(&writer, OutputStream::Stdout).await, &bytes, &[50_000]);
        let totals = ask(&writer, Close).await.unwrap();
        assert_eq!(totals.position, 50_000);
        let kept = 3 * 4096 + 50_000 % 4096;
        assert_eq!(place.raw(), bytes[bytes.len() - kept..]);
        let mut names: Vec<_> = fs::read_dir(place.log().parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = ["", ".1", ".1.idx", ".2", ".2.idx", ".3", ".3.idx", ".idx"];
        assert_eq!(names, expected.map(|suffix| format!("box.log{suffix}")));
        let from_start = files(&place.log(), FollowFrom::Position(0)).await;
        assert_eq!(from_start.gaps, [(0, (50_000 - kept) as u64)]);
        assert_eq!(from_start.all, bytes[bytes.len() - kept..]);

        // A limit that was lowered takes effect at the next rotation.
        let lower = Place { dir: place.dir, max_bytes: 4096, keep: 1 };
        let writer = lower.start(2);
        write(&writer, OutputStream::Stdout, &pattern(4, 4096)).await.unwrap();
        ask(&writer, Close).await.unwrap();
        assert!(lower.numbered(1).exists() && !lower.numbered(2).exists() && !lower.numbered(3).exists());
        remove_files(&lower.log()).unwrap();
        assert_eq!(fs::read_dir(lower.log().parent().unwrap()).unwrap().count(), 0);
    });
}

#[test]
fn files_open_at_the_first_byte_and_close_when_idle() {
    run(async {
        let place = Place::new(1 << 20, 2);
        let writer = start(LogConfig { idle_close: Duration::from_millis(30), ..place.config(1) });
        let mut pipe = attach(&writer, OutputStream::Stdout).await;
        let totals = ask(&writer, bytes_of(0, 0)).await.unwrap();
        assert_eq!(totals, StreamTotals::default());
        assert!(!place.log().exists(), "no file before the first byte");
        for round in 1..=3 {
            std::io::Write::write_all(&mut pipe, b"line\n").unwrap();
            ask(&writer, bytes_of(round * 5, 0)).await.unwrap();
            eventually("the files are closed", || open_files(place.dir.path()) == 0).await;
        }
        let mut follower = ask(&writer, Follow { from: FollowFrom::Oldest }).await.unwrap();
        assert!(matches!(follower.next().await.unwrap(), Some(LogChunk::Bytes { bytes, .. }) if bytes == b"line\n"));
        drop(pipe);
        ask(&writer, Close).await.unwrap();
        assert_eq!(place.raw(), b"line\nline\nline\n");
    });
}

#[test]
fn a_pipe_is_spliced_and_grown_when_it_is_hot() {
    use nix::fcntl::{FcntlArg, fcntl};
    let place = Place::new(1 << 20, 2);
    let mut store = store::Store::new(place.config(1));
    let (read, mut pipe) = std::io::pipe().unwrap();
    let mut source = pump::OutputPipe::new(OutputStream::Stdout, std::sync::Arc::new(read.into()));
    assert_eq!(source.look().unwrap(), pump::Moved::Empty);
    std::io::Write::write_all(&mut pipe, &pattern(1, 65_536)).unwrap();
    let room = store.prepare(OutputStream::Stdout, 1, 1).unwrap();
    assert_eq!(source.transfer(&room).unwrap(), pump::Moved::Bytes(65_536));
    store.advance(OutputStream::Stdout, 65_536);
    assert!(source.copied.is_none());
    // An ordinary user may have used up the quota for large pipes.
    assert!(nix::unistd::geteuid().as_raw() != 0 || fcntl(&pipe, FcntlArg::F_GETPIPE_SZ).unwrap() == 512 << 10);
    drop(pipe);
    assert_eq!(source.look().unwrap(), pump::Moved::Ended);
}

#[test]
fn writers_and_followers_can_change_threads() {
    fn assert_send<T: Send>() {}
    assert_send::<LogWriter>();
    assert_send::<LogFollower>();
}

#[test]
fn a_socket_is_copied() {
    run(async {
        let place = Place::new(8192, 50);
        let writer = place.start(1);
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        ask(&writer, AttachStream { stream: OutputStream::Stderr, pipe: ours.into() }).await.unwrap();
        let bytes = pattern(5, 200_001);
        let copy = bytes.clone();
        let thread = std::thread::spawn(move || write_in_pieces(theirs, &copy, &[1, 70_000, 13]));
        let wanted = bytes_of(0, 200_001);
        assert_eq!(ask(&writer, wanted).await.unwrap().stderr, 200_001);
        thread.join().unwrap();
        ask(&writer, Close).await.unwrap();
        assert!(files(&place.log(), FollowFrom::Oldest).await.stderr == bytes);
    });
}

/// As a new monitor does, while bytes that were read from the pipe wait to be written.
#[test]
fn what_was_copied_from_a_pipe_that_is_attached_again_comes_first() {
    run(async {
        let place = Place::new(4096, 50);
        let writer = place.start(1);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let attach = || {
            let pipe = ours.try_clone().unwrap().into();
            ask(&writer, AttachStream { stream: OutputStream::Stdout, pipe })
        };
        let bytes = pattern(5, 60_000);
        std::io::Write::write_all(&mut theirs, &bytes).unwrap();
        attach().await.unwrap();
        for wanted in [1, 5000, 10_000] {
            ask(&writer, bytes_of(wanted, 0)).await.unwrap();
            attach().await.unwrap();
        }
        // Nothing else comes: what was read is written all the same.
        assert_eq!(ask(&writer, bytes_of(60_000, 0)).await.unwrap().stdout, 60_000);
        std::io::Write::write_all(&mut theirs, b"more").unwrap();
        ask(&writer, bytes_of(60_004, 0)).await.unwrap();
        ask(&writer, Close).await.unwrap();
        assert!(files(&place.log(), FollowFrom::Oldest).await.all == [&bytes[..], b"more"].concat());
    });
}

#[test]
fn a_regular_file_cannot_be_attached() {
    run(async {
        let place = Place::new(8192, 5);
        let writer = place.start(1);
        let pipe = File::open("/proc/self/exe").unwrap().into();
        let refused = ask(&writer, AttachStream { stream: OutputStream::Stdout, pipe }).await;
        assert!(matches!(refused, Err(LogError::Attach { .. })), "{refused:?}");
    });
}

#[test]
fn two_hundred_writers_share_one_thread() {
    const WRITERS: u64 = 200;
    const LINES: usize = 300;
    run(async {
        let place = Place::new(1 << 20, 2);
        let arbiter = Arbiter::new().handle();
        let mut writers = Vec::new();
        let mut pipes = Vec::new();
        for i in 0..WRITERS {
            let path = place.dir.path().join(format!("{i}.log"));
            let config = LogConfig::new(path, LogLimits { max_bytes: 8192, keep: 20, ..LogLimits::default() }, 1);
            let writer = LogWriter::start_in_arbiter(&arbiter, move |_| LogWriter::new(config));
            pipes.push((i, attach(&writer, OutputStream::Stdout).await, attach(&writer, OutputStream::Stderr).await));
            writers.push(writer);
        }
        let line = |i: u64, n: usize| format!("sandbox {i} line {n} of some length\n");
        let thread = std::thread::spawn(move || {
            for n in 0..LINES {
                for (i, out, err) in &mut pipes {
                    let pipe = if n % 3 == 0 { err } else { out };
                    std::io::Write::write_all(pipe, line(*i, n).as_bytes()).unwrap();
                }
            }
        });
        for (i, writer) in (0..).zip(&writers) {
            let bytes =
                |wanted: bool| (0..LINES).filter(|n| (n % 3 == 0) == wanted).map(|n| line(i, n)).collect::<String>();
            let (out, err) = (bytes(false), bytes(true));
            let wanted = bytes_of(out.len() as u64, err.len() as u64);
            ask(writer, wanted).await.unwrap();
            ask(writer, Close).await.unwrap();
            let got = files(&place.dir.path().join(format!("{i}.log")), FollowFrom::Oldest).await;
            assert_eq!(String::from_utf8(got.stdout).unwrap(), out);
            assert_eq!(String::from_utf8(got.stderr).unwrap(), err);
        }
        thread.join().unwrap();
    });
}

#[test]
fn waiting_for_bytes_ends_with_what_there_is() {
    run(async {
        let place = Place::new(1 << 20, 2);
        let writer = place.start(1);
        let mut pipe = attach(&writer, OutputStream::Stdout).await;
        std::io::Write::write_all(&mut pipe, b"12345").unwrap();
        let short = AwaitBytes {
            stdout: 6,
            stderr: 0,
            missing_max: u64::MAX,
            limit: DEADLINE,
            idle_limit: Duration::from_millis(100),
        };
        assert_eq!(ask(&writer, short).await.unwrap().stdout, 5);
        let waiting = ask(&writer, bytes_of(6, 1));
        let others = async {
            write(&writer, OutputStream::Stderr, b"e").await.unwrap();
            std::io::Write::write_all(&mut pipe, b"6").unwrap();
        };
        let (totals, ()) = futures::join!(waiting, others);
        assert_eq!(totals.unwrap(), StreamTotals { stdout: 6, stderr: 1, position: 7, ..StreamTotals::default() });
        // Close answers whoever still waits.
        let waiting = ask(&writer, bytes_of(100, 0));
        let (waited, closed) = futures::join!(waiting, ask(&writer, Close));
        assert_eq!(waited.unwrap(), closed.unwrap());
    });
}

#[test]
fn chunks_from_memory_are_whole_or_refused() {
    run(async {
        let place = Place::new(4096, 5);
        let writer = place.start(1);
        let first = write(&writer, OutputStream::Stdout, &pattern(6, 3000)).await.unwrap();
        assert_eq!((first.offset, first.len), (0, 3000));
        let second = write(&writer, OutputStream::Stderr, &pattern(7, 3000)).await.unwrap();
        assert_eq!((second.offset, second.stream), (3000, OutputStream::Stderr));
        assert_eq!(fs::metadata(place.numbered(1)).unwrap().len(), 3000, "a chunk is never split over files");
        let refused = write(&writer, OutputStream::Stdout, &pattern(8, 4097)).await;
        assert!(matches!(refused, Err(LogError::ChunkTooLarge { len: 4097, max: 4096 })), "{refused:?}");
        assert_eq!(write(&writer, OutputStream::Stdout, b"").await.unwrap().offset, 6000);
        ask(&writer, Close).await.unwrap();
        let got = files(&place.log(), FollowFrom::Oldest).await;
        assert!(got.stdout == pattern(6, 3000) && got.stderr == pattern(7, 3000));
    });
}

#[test]
fn close_empties_the_pipes_first() {
    run(async {
        let place = Place::new(1 << 20, 5);
        let writer = place.start(1);
        let mut out = attach(&writer, OutputStream::Stdout).await;
        let mut err = attach(&writer, OutputStream::Stderr).await;
        std::io::Write::write_all(&mut out, &pattern(9, 60_000)).unwrap();
        std::io::Write::write_all(&mut err, &pattern(10, 60_000)).unwrap();
        // The pipes are still open for writing: nothing but their emptiness ends the draining.
        let (first, second) = futures::join!(ask(&writer, Close), ask(&writer, Close));
        assert_eq!(
            first.unwrap(),
            StreamTotals { stdout: 60_000, stderr: 60_000, position: 120_000, ..StreamTotals::default() }
        );
        assert_eq!(second.unwrap().position, 120_000);
        eventually("the writer stops", || !writer.connected()).await;
        assert_eq!(open_files(place.dir.path()), 0);
        drop((out, err));
    });
}
