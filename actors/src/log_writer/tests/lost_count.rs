//! An index that was lost once: what it alone knew nobody claims to know again.

use super::*;

async fn is_certain(writer: &Addr<LogWriter>) -> bool {
    ask(writer, GetOnFile).await.unwrap().is_certain
}

async fn stop(writer: Addr<LogWriter>) {
    let weak = writer.downgrade();
    drop(writer);
    eventually("the writer stops", || weak.upgrade().is_none()).await;
}

#[test]
fn a_lost_count_stays_lost_over_writers_and_rotations_until_the_next_generation() {
    run(async {
        for (keep_elder, writes_first) in [(false, false), (false, true), (true, false), (true, true)] {
            let place = Place::new(4096, 5);
            let writer = place.start(1);
            if keep_elder {
                write(&writer, OutputStream::Stdout, &pattern(1, 4096)).await.unwrap();
            }
            write(&writer, OutputStream::Stderr, &pattern(2, 3000)).await.unwrap();
            ask(&writer, Close).await.unwrap();
            let known = place.start(1);
            assert!(is_certain(&known).await);
            stop(known).await;
            fs::remove_file(place.index(0)).unwrap();
            for round in 0..4 {
                let writer = place.start(1);
                assert!(!is_certain(&writer).await, "round {round}");
                // As much as was written, which the files do not say any more: no lie.
                let wanted =
                    AwaitBytes { missing_max: 10, idle_limit: Duration::from_millis(1), ..bytes_of(0, 90_000) };
                ask(&writer, wanted).await.unwrap();
                if writes_first || round > 0 {
                    // Beyond the end of a file in the second round.
                    write(&writer, OutputStream::Stdout, &pattern(3, 1000)).await.unwrap();
                }
                if round % 2 == 0 {
                    ask(&writer, Close).await.unwrap();
                } else {
                    stop(writer).await;
                }
            }
            assert!(place.index(1).exists(), "it was rotated");
            let begins = LogConfig { begins_generation: true, ..place.config(2) };
            let writer = start(begins);
            write(&writer, OutputStream::Stdout, b"new").await.unwrap();
            ask(&writer, Close).await.unwrap();
            let writer = place.start(2);
            assert!(is_certain(&writer).await, "the next one counts anew");
            let refused = ask(&writer, AwaitBytes { missing_max: 10, ..bytes_of(100, 0) }).await;
            assert!(matches!(refused, Err(LogError::TooManyMissing { missing: 97, .. })), "{refused:?}");
            ask(&writer, Close).await.unwrap();
            let got = files(&place.log(), FollowFrom::Oldest).await;
            assert!(got.gaps.is_empty() && got.all.ends_with(b"new"));
        }
    });
}
