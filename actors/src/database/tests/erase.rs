//! What was removed is in none of the files, and a link in the place of one is not followed.

use std::collections::BTreeMap;

use super::*;

/// A value that no other sandbox has, as long as `length`, of which every part of some length tells whose it is.
fn secret(number: usize, length: usize) -> String {
    format!("<s3cret-{number:06}>").repeat(length / 15 + 1)
}

fn with_secret(number: usize, length: usize) -> BeginStart {
    let mut spec = spec(&format!("box-{}", number % 1000));
    spec.env.push(("TOKEN".into(), secret(number, length).into()));
    start_of(spec)
}

async fn ended(database: &Addr<Database>, begin: BeginStart) -> SandboxRow {
    let row = database.send(begin).await.unwrap().unwrap();
    step(database, &row, Event::SpawnFailed(FailureReason::Lost)).await
}

/// How many of the file's bytes are of a secret, by its number.
fn remains(fixture: &Fixture) -> BTreeMap<usize, usize> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(fixture.dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for at in memchr(&bytes) {
            let number = std::str::from_utf8(&bytes[at + 7..at + 13]).ok().and_then(|text| text.parse().ok());
            if let Some(number) = number {
                *found.entry(number).or_default() += 15;
            }
        }
    }
    found
}

fn memchr(bytes: &[u8]) -> Vec<usize> {
    let word = b"s3cret-";
    (0..bytes.len().saturating_sub(13)).filter(|at| bytes[*at..].starts_with(word)).collect()
}

async fn gone(fixture: &Fixture, which: impl Fn(usize) -> bool) -> BTreeMap<usize, usize> {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let left: BTreeMap<_, _> = remains(fixture).into_iter().filter(|(number, _)| which(*number)).collect();
        if left.is_empty() || std::time::Instant::now() > end {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_removed_environment_is_in_none_of_the_files() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        // In a cell, in overflow pages, and where pages are divided and joined.
        let lengths = [20, 700, 3_000, 20_000];
        let mut rows = Vec::new();
        for number in 0..160 {
            rows.push(ended(&database, with_secret(number, lengths[number % 4])).await);
        }
        assert_eq!(remains(&fixture).len(), 160, "they are found where they are");
        for (number, row) in rows.iter().enumerate().filter(|(number, _)| number % 3 != 0) {
            database.send(RemoveSandbox(row.id)).await.unwrap().unwrap();
            // What takes the room of those that went.
            if number % 5 == 0 {
                ended(&database, with_secret(200 + number, lengths[number % 3])).await;
            }
        }
        let is_removed = |number| number < 160 && number % 3 != 0;
        assert_eq!(gone(&fixture, is_removed).await, BTreeMap::new());
        // A specification that takes another one's place.
        for number in (0..160).filter(|number| number % 3 == 0) {
            ended(&database, with_secret(1000 + number, 1_000)).await;
        }
        let is_replaced = |number| number < 160;
        assert_eq!(gone(&fixture, is_replaced).await, BTreeMap::new());
        assert!(remains(&fixture).keys().any(|number| *number >= 1000));
    });
}

/// Somebody who looks at the file keeps what he sees; when he has gone it goes.
#[test]
fn a_reader_puts_it_off_and_holds_up_nobody() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let row = ended(&database, with_secret(1, 700)).await;
        let mut reader = SqlitePoolForTests::open(&fixture.path()).await.0.acquire().await.unwrap();
        sqlx::query("BEGIN").execute(&mut *reader).await.unwrap();
        sqlx::query("SELECT * FROM sandboxes").fetch_all(&mut *reader).await.unwrap();
        database.send(RemoveSandbox(row.id)).await.unwrap().unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(1_500) {
            ended(&database, with_secret(2, 700)).await;
        }
        assert!(remains(&fixture).contains_key(&1), "it is still being read");
        sqlx::query("ROLLBACK").execute(&mut *reader).await.unwrap();
        assert_eq!(gone(&fixture, |number| number == 1).await, BTreeMap::new());
    });
}

/// Also what an orchestrator that died had not got to.
#[test]
fn a_start_ends_what_was_left_in_the_log() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let row = ended(&database, with_secret(1, 700)).await;
        database.send(RemoveSandbox(row.id)).await.unwrap().unwrap();
        // A copy of the files as a crash leaves them.
        let copy = Fixture::new();
        for name in ["db", "db-wal"] {
            std::fs::copy(fixture.dir.path().join(name), copy.dir.path().join(name)).unwrap();
        }
        assert!(remains(&copy).contains_key(&1));
        let _database = copy.open().await;
        assert_eq!(gone(&copy, |_| true).await, BTreeMap::new());
    });
}

#[test]
fn a_link_in_the_place_of_the_file_is_not_followed() {
    run(|| async {
        let fixture = Fixture::new();
        let outside = fixture.dir.path().join("outside");
        for content in ["", "as it was"] {
            std::fs::write(&outside, content).unwrap();
            let _ = std::fs::remove_file(fixture.path());
            std::os::unix::fs::symlink(&outside, fixture.path()).unwrap();
            assert!(matches!(fixture.refused().await, DatabaseError::Create { .. }));
            assert_eq!(std::fs::read_to_string(&outside).unwrap(), content);
        }
    });
}
