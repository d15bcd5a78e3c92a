//! Logs and indexes that are damaged, half renamed or missing: never refused, never lost.

use std::os::unix::fs::FileExt as _;

use super::*;

/// Two files of a log: 4096 bytes of stdout, then 1000 of stderr and 500 of stdout.
async fn made() -> (Place, Vec<u8>) {
    let place = Place::new(4096, 5);
    let writer = place.start(1);
    let bytes = pattern(1, 5596);
    write(&writer, OutputStream::Stdout, &bytes[..4096]).await.unwrap();
    write(&writer, OutputStream::Stderr, &bytes[4096..5096]).await.unwrap();
    write(&writer, OutputStream::Stdout, &bytes[5096..]).await.unwrap();
    ask(&writer, Close).await.unwrap();
    (place, bytes)
}

async fn totals(writer: &Addr<LogWriter>) -> StreamTotals {
    ask(writer, bytes_of(0, 0)).await.unwrap()
}

/// Goes on with the same generation; everything before and the new bytes must be there.
async fn goes_on(place: &Place, bytes: &[u8]) -> StreamTotals {
    let writer = place.start(1);
    let before = totals(&writer).await;
    write(&writer, OutputStream::Stderr, b"more").await.unwrap();
    let live = ask(&writer, Follow { from: FollowFrom::Position(0) }).await.unwrap();
    ask(&writer, Close).await.unwrap();
    let mut expected = bytes.to_vec();
    expected.extend(b"more");
    let live = collect(live).await.unwrap();
    assert!(live.all == expected, "the follower lacks something: {:?}", live.gaps);
    let got = files(&place.log(), FollowFrom::Oldest).await;
    assert!(got.all == expected);
    assert!(got.stderr.ends_with(b"more"));
    before
}

#[test]
fn adoption_restores_the_counters() {
    run(async {
        let (place, bytes) = made().await;
        assert_eq!(
            goes_on(&place, &bytes).await,
            StreamTotals { stdout: 4596, stderr: 1000, position: 5596, ..StreamTotals::default() }
        );
    });
}

#[test]
fn an_index_cut_anywhere_is_continued() {
    run(async {
        let whole = { fs::metadata(made().await.0.index(0)).unwrap().len() };
        for cut in 0..whole {
            let (place, bytes) = made().await;
            File::options().write(true).open(place.index(0)).unwrap().set_len(cut).unwrap();
            let before = goes_on(&place, &bytes).await;
            assert_eq!((before.position, before.stdout + before.stderr), (5596, 5596), "cut at {cut}");
        }
    });
}

#[test]
fn any_damaged_byte_of_an_index_costs_no_byte_of_the_log() {
    run(async {
        let whole = { fs::metadata(made().await.0.index(0)).unwrap().len() };
        for at in 0..whole {
            let (place, bytes) = made().await;
            let index = File::options().read(true).write(true).open(place.index(0)).unwrap();
            let mut byte = [0];
            index.read_exact_at(&mut byte, at).unwrap();
            index.write_all_at(&[byte[0] ^ 0x41], at).unwrap();
            assert_eq!(goes_on(&place, &bytes).await.position, 5596, "damaged at {at}");
        }
    });
}

#[test]
fn indexes_that_are_gone_or_garbage_make_it_all_stdout() {
    run(async {
        let (place, bytes) = made().await;
        fs::remove_file(place.index(0)).unwrap();
        fs::remove_file(place.index(1)).unwrap();
        let got = files(&place.log(), FollowFrom::Oldest).await;
        assert!(got.stdout == bytes && got.gaps.is_empty());
        goes_on(&place, &bytes).await;

        let (place, bytes) = made().await;
        fs::write(place.index(0), pattern(7, 1000)).unwrap();
        fs::write(place.index(1), b"x").unwrap();
        let got = files(&place.log(), FollowFrom::Oldest).await;
        assert!(got.stdout == bytes && got.gaps.is_empty());
        goes_on(&place, &bytes).await;
    });
}

#[test]
fn a_rotation_cut_off_anywhere_is_finished() {
    run(async {
        // The steps of a rotation of two files, as `names::shift` and the store do them.
        for steps in 0..=5 {
            let (place, bytes) = made().await;
            let renames = [
                (place.index(1), place.index(2)),
                (place.numbered(1), place.numbered(2)),
                (place.index(0), place.index(1)),
                (place.numbered(0), place.numbered(1)),
            ];
            for (from, to) in renames.iter().take(steps) {
                fs::rename(from, to).unwrap();
            }
            if steps == 5 {
                fs::write(place.index(0), b"sandpidx").unwrap();
            }
            let got = files(&place.log(), FollowFrom::Oldest).await;
            assert!(got.all == bytes && got.stderr == bytes[4096..5096], "after {steps} steps");
            assert_eq!(
                goes_on(&place, &bytes).await,
                StreamTotals { stdout: 4596, stderr: 1000, position: 5596, ..StreamTotals::default() }
            );
        }
    });
}

#[test]
fn a_log_shorter_than_its_index_shows_a_gap() {
    run(async {
        let (place, bytes) = made().await;
        // A power failure can keep the index and lose the bytes.
        File::options().write(true).open(place.log()).unwrap().set_len(300).unwrap();
        let writer = place.start(1);
        assert_eq!(totals(&writer).await.position, 5096, "what the index is sure of");
        write(&writer, OutputStream::Stderr, b"more").await.unwrap();
        ask(&writer, Close).await.unwrap();
        let got = files(&place.log(), FollowFrom::Oldest).await;
        assert_eq!(got.gaps, [(4396, 700)]);
        assert!(got.all == [&bytes[..4396], b"more"].concat());
    });
}

#[test]
fn missing_files_show_as_gaps() {
    run(async {
        let (place, bytes) = made().await;
        fs::remove_file(place.numbered(1)).unwrap();
        assert_eq!(files(&place.log(), FollowFrom::Position(0)).await.gaps, [(0, 4096)]);
        fs::remove_file(place.log()).unwrap();
        let writer = place.start(1);
        assert!(totals(&writer).await.position >= 5096);
        write(&writer, OutputStream::Stdout, &bytes[..10]).await.unwrap();
        ask(&writer, Close).await.unwrap();
        assert_eq!(files(&place.log(), FollowFrom::Oldest).await.all, bytes[..10]);
    });
}

#[test]
fn links_and_fifos_are_not_followed() {
    run(async {
        let place = Place::new(4096, 5);
        fs::create_dir_all(place.log().parent().unwrap()).unwrap();
        let target = place.dir.path().join("target");
        fs::write(&target, b"precious").unwrap();
        std::os::unix::fs::symlink(&target, place.log()).unwrap();
        let writer = place.start(1);
        assert!(write(&writer, OutputStream::Stdout, b"x").await.is_err());
        assert!(LogFollower::of_files(&place.log(), FollowFrom::Oldest).is_err());
        fs::remove_file(place.log()).unwrap();
        nix::unistd::mkfifo(&place.log(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(write(&writer, OutputStream::Stdout, b"x").await.is_err());
        fs::remove_file(place.log()).unwrap();
        write(&writer, OutputStream::Stdout, b"x").await.unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        ask(&writer, Close).await.unwrap();
    });
}
