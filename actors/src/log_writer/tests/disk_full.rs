//! A disk without room, a real one: a small tmpfs in a mount namespace of this test's own.

use std::io::Write as _;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sandpen_skip::{Reason, skip};

use super::trouble::subscribe;
use super::*;

/// Mounts a tmpfs that only this thread and those that it starts see; `None` without the right to.
pub(super) fn small_disk(kib: u32) -> Option<TestDir> {
    let dir = TestDir::new();
    let options = format!("size={kib}k,mode=0700");
    let mounted = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>))
        .and_then(|()| mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())));
    match mounted {
        Ok(()) => Some(dir),
        Err(e) => {
            skip(Reason::NoMounts, format_args!("a small tmpfs: {e}"));
            None
        }
    }
}

/// A file that leaves no room, but for `spare` bytes.
pub(super) fn ballast(dir: &Path, spare: u64) -> PathBuf {
    let path = dir.join("ballast");
    let mut file = File::create(&path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let len = file.metadata().unwrap().len();
    file.set_len(len - spare).unwrap();
    path
}

#[test]
fn bytes_wait_in_the_pipe_until_there_is_room() {
    let Some(dir) = small_disk(512) else { return };
    run(async {
        let place = Place { dir, max_bytes: 1 << 20, keep: 3 };
        let writer = place.start(1);
        let (mut failures, _) = subscribe(&writer).await;
        let mut follower = ask(&writer, Follow { from: FollowFrom::Oldest }).await.unwrap();
        let bytes = pattern(1, 900_000);
        let mut pipe = attach(&writer, OutputStream::Stdout).await;
        pipe.write_all(&bytes[..1000]).unwrap();
        ask(&writer, bytes_of(1000, 0)).await.unwrap();
        let ballast_file = ballast(place.dir.path(), 40_960);
        let copy = bytes.clone();
        let thread = std::thread::spawn(move || write_in_pieces(pipe, &copy[1000..200_000], &[100, 5000]));
        let failure = failures.recv().await.unwrap();
        assert!(failure.message.contains("No space left"), "{}", failure.message);
        assert_eq!(failure.lost_bytes, 0);
        // Nobody is told that bytes are missing which only wait for room.
        let stuck = ask(
            &writer,
            AwaitBytes {
                stdout: 200_000,
                stderr: 0,
                missing_max: u64::MAX,
                limit: DEADLINE,
                idle_limit: Duration::from_millis(50),
            },
        );
        assert!(tokio::time::timeout(Duration::from_millis(500), stuck).await.is_err());
        let refused = write(&writer, OutputStream::Stderr, &pattern(9, 30_000)).await;
        assert!(matches!(refused, Err(LogError::File { .. })), "{refused:?}");
        fs::remove_file(ballast_file).unwrap();
        let totals = ask(&writer, bytes_of(200_000, 0)).await.unwrap();
        assert_eq!(totals.position, 200_000, "the refused chunk left nothing");
        thread.join().unwrap();
        ask(&writer, Close).await.unwrap();
        assert!(failures.try_recv().is_err(), "told once");
        let mut got = Got::default();
        while let Some(chunk) = follower.next().await.unwrap() {
            got.add(chunk);
        }
        assert!(got.stdout == bytes[..200_000] && got.gaps.is_empty());
        assert!(files(&place.log(), FollowFrom::Oldest).await.all == bytes[..200_000]);
    });
}

#[test]
fn close_gives_up_after_its_limit_and_the_bytes_stay() {
    let Some(dir) = small_disk(256) else { return };
    run(async {
        let place = Place { dir, max_bytes: 1 << 20, keep: 3 };
        let (read, mut pipe) = std::io::pipe().unwrap();
        let again = OwnedFd::from(read.try_clone().unwrap());
        let writer = start(LogConfig { close_limit: Duration::from_millis(250), ..place.config(1) });
        ask(&writer, AttachStream { stream: OutputStream::Stdout, pipe: read.into() }).await.unwrap();
        let full = ballast(place.dir.path(), 0);
        let bytes = pattern(2, 30_000);
        pipe.write_all(&bytes).unwrap();
        let refused = ask(&writer, Close).await;
        assert!(matches!(&refused, Err(LogError::CloseLimit { source: Some(_), .. })), "{refused:?}");
        // Whoever asked gives up; the next daemon finds everything.
        let weak = writer.downgrade();
        drop(writer);
        eventually("the writer stops", || weak.upgrade().is_none()).await;
        fs::remove_file(full).unwrap();
        let writer = place.start(1);
        ask(&writer, AttachStream { stream: OutputStream::Stdout, pipe: again }).await.unwrap();
        assert_eq!(ask(&writer, Close).await.unwrap().stdout, 30_000);
        assert!(files(&place.log(), FollowFrom::Oldest).await.all == bytes);
    });
}

#[test]
fn rotations_and_indexes_on_a_full_disk_lose_nothing() {
    let Some(dir) = small_disk(256) else { return };
    run(async {
        // The log alone is larger than the disk until it is rotated away: it is full again and again.
        let place = Place { dir, max_bytes: 16_384, keep: 30 };
        let writer = place.start(1);
        let mut follower = ask(&writer, Follow { from: FollowFrom::Oldest }).await.unwrap();
        let bytes = pattern(3, 1_000_000);
        let pipe = attach(&writer, OutputStream::Stderr).await;
        let copy = bytes.clone();
        let thread = std::thread::spawn(move || write_in_pieces(pipe, &copy, &[1, 5000, 100, 64]));
        let mut got = Got::default();
        while got.all.len() < bytes.len() {
            got.add(follower.next().await.unwrap().unwrap());
            // Makes room as an operator would, only for what was read.
            for n in 1..40 {
                let index = place.index(n);
                if let Ok(Some(header)) = File::open(&index).and_then(|file| index::Header::read(&file)) {
                    let end = header.base + fs::metadata(place.numbered(n)).map_or(0, |meta| meta.len());
                    if end <= follower.position() {
                        let _ = fs::remove_file(place.numbered(n));
                        let _ = fs::remove_file(index);
                    }
                }
            }
        }
        assert!(got.stderr == bytes && got.gaps.is_empty());
        thread.join().unwrap();
        assert_eq!(ask(&writer, Close).await.unwrap().stderr, 1_000_000);
    });
}
