//! What earlier writers left cannot be read, and then it can.

use sandpen_types::spec::LogBacklog;

use super::trouble::subscribe;
use super::*;

/// A log of 4000 and 96 bytes, whose index a directory is in the way of; where the index is now.
async fn unreadable(place: &Place) -> PathBuf {
    let writer = place.start(1);
    write(&writer, OutputStream::Stdout, &pattern(1, 4000)).await.unwrap();
    write(&writer, OutputStream::Stderr, &pattern(2, 96)).await.unwrap();
    ask(&writer, Close).await.unwrap();
    let aside = place.dir.path().join("aside");
    fs::rename(place.index(0), &aside).unwrap();
    fs::create_dir(place.index(0)).unwrap();
    aside
}

fn readable(place: &Place, aside: &Path) {
    fs::remove_dir(place.index(0)).unwrap();
    fs::rename(aside, place.index(0)).unwrap();
}

#[test]
fn who_waits_for_what_is_on_file_hears_of_it_when_it_can_be_read() {
    run(async {
        for backlog in [LogBacklog::Block, LogBacklog::Drop] {
            let place = Place::new(1 << 20, 2);
            let aside = unreadable(&place).await;
            let config = place.config(1);
            let limits = LogLimits { backlog, ..config.limits };
            let writer = start(LogConfig { limits, ..config });
            let (mut failures, _) = subscribe(&writer).await;
            assert!(failures.recv().await.unwrap().message.contains("not a regular file"));
            // Neither a lie of the guest's, nor silence.
            let wanted = AwaitBytes { missing_max: 10, idle_limit: Duration::from_millis(1), ..bytes_of(4000, 96) };
            let waiting = tokio::spawn(writer.send(wanted));
            assert!(ask(&writer, Follow { from: FollowFrom::Oldest }).await.is_err());
            readable(&place, &aside);
            let totals = waiting.await.unwrap().unwrap().unwrap();
            assert_eq!((totals.stdout, totals.stderr, totals.position), (4000, 96, 4096));
            // The trouble is over without a byte, and what is missing from now on is.
            let refused = ask(&writer, AwaitBytes { missing_max: 10, ..bytes_of(5000, 96) }).await;
            assert!(matches!(refused, Err(LogError::TooManyMissing { missing: 1000, .. })), "{refused:?}");
            let silent = AwaitBytes { idle_limit: Duration::from_millis(1), ..bytes_of(5000, 96) };
            assert_eq!(ask(&writer, silent).await.unwrap(), totals);
            assert!(failures.try_recv().is_err(), "told once");
            ask(&writer, Close).await.unwrap();
        }
    });
}

#[test]
fn bytes_that_come_before_it_can_be_read_follow_what_is_there() {
    run(async {
        let place = Place::new(1 << 20, 2);
        let aside = unreadable(&place).await;
        let config = LogConfig { close_limit: Duration::from_millis(150), ..place.config(1) };
        let writer = start(config);
        let mut pipe = attach(&writer, OutputStream::Stdout).await;
        std::io::Write::write_all(&mut pipe, b"more").unwrap();
        let refused = ask(&writer, Close).await;
        assert!(matches!(refused, Err(LogError::CloseLimit { .. })), "{refused:?}");
        readable(&place, &aside);
        assert_eq!(ask(&writer, bytes_of(4004, 96)).await.unwrap().position, 4100);
        ask(&writer, Close).await.unwrap();
        let got = files(&place.log(), FollowFrom::Oldest).await;
        assert!(got.gaps.is_empty() && got.stdout.ends_with(b"more") && got.stderr.len() == 96);
    });
}
