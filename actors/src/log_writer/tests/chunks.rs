//! Chunks from memory: who goes on asks what is on file, also after a SIGKILL.

use super::killed::{dir, kill_amid};
use super::*;

const OUT: usize = 8_000_000;
const ERR: usize = 1_000_000;

#[test]
fn who_goes_on_is_told_what_is_on_file() {
    run(async {
        let place = Place::new(4096, 5);
        let new = LogConfig { begins_generation: true, ..place.config(1) };
        let on_file = async |writer: &Addr<LogWriter>| {
            let OnFile { totals, is_certain } = ask(writer, GetOnFile).await.unwrap();
            (totals.stdout, totals.stderr, is_certain)
        };
        // Nothing is there: whoever begins it knows that this is all, and nobody else does.
        let writer = start(place.config(1));
        assert_eq!(on_file(&writer).await, (0, 0, false));
        drop(writer);
        let writer = start(new);
        assert_eq!(on_file(&writer).await, (0, 0, true));
        for _ in 0..10 {
            write(&writer, OutputStream::Stdout, &[b'o'; 1000]).await.unwrap();
            write(&writer, OutputStream::Stderr, &[b'e'; 10]).await.unwrap();
        }
        assert_eq!(on_file(&writer).await, (10_000, 100, true), "over rotations");
        ask(&writer, Close).await.unwrap();
        let writer = start(place.config(1));
        assert_eq!(on_file(&writer).await, (10_000, 100, true));
        drop(writer);
        // Without its index nobody knows which bytes are of which stream.
        fs::remove_file(place.index(0)).unwrap();
        let writer = start(place.config(1));
        let (_, _, is_certain) = on_file(&writer).await;
        assert!(!is_certain);
        drop(writer);
        // What cannot be read is an error, until it can.
        let log = place.numbered(0);
        fs::remove_file(&log).unwrap();
        fs::create_dir(&log).unwrap();
        let writer = start(place.config(1));
        assert!(matches!(ask(&writer, GetOnFile).await, Err(LogError::NotRegular(path)) if path == log));
        fs::remove_dir(&log).unwrap();
        ask(&writer, GetOnFile).await.unwrap();
    });
}

/// Writes on from what is on file to the end of both patterns.
async fn write_on(dir: &Path) {
    // Small files: many of the kills hit a rotation.
    let limits = LogLimits { max_bytes: 50_000, keep: 1000, ..LogLimits::default() };
    let path = dir.join("box.log");
    let begins_generation = !path.exists();
    let writer = start(LogConfig { begins_generation, ..LogConfig::new(path, limits, 1) });
    let totals = loop {
        match ask(&writer, GetOnFile).await {
            Ok(on_file) => break on_file.totals,
            // Of the one before.
            Err(LogError::Busy(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error}"),
        }
    };
    let (out, err) = (pattern(1, OUT), pattern(2, ERR));
    let (mut at_out, mut at_err) = (usize::try_from(totals.stdout).unwrap(), usize::try_from(totals.stderr).unwrap());
    while at_out < OUT || at_err < ERR {
        let (next_out, next_err) = ((at_out + 7919).min(OUT), (at_err + 1009).min(ERR));
        write(&writer, OutputStream::Stdout, &out[at_out..next_out]).await.unwrap();
        write(&writer, OutputStream::Stderr, &err[at_err..next_err]).await.unwrap();
        (at_out, at_err) = (next_out, next_err);
    }
    ask(&writer, Close).await.unwrap();
}

/// Not a test by itself: the process that is killed.
#[test]
#[ignore = "run by sigkill_amid_chunks_loses_and_doubles_nothing as a process of its own"]
fn chunk_writer() {
    run(write_on(&dir()));
}

#[test]
fn sigkill_amid_chunks_loses_and_doubles_nothing() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("box.log");
        kill_amid("chunks::chunk_writer", dir.path(), (OUT + ERR) as u64);
        write_on(dir.path()).await;
        let got = files(&log, FollowFrom::Oldest).await;
        assert!(got.gaps.is_empty(), "{:?}", got.gaps);
        assert!(got.stdout == pattern(1, OUT), "stdout differs");
        assert!(got.stderr == pattern(2, ERR), "stderr differs");
    });
}
