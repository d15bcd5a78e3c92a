//! The index of images.

use super::*;

fn row(byte: u8, names: &[&str]) -> ImageRow {
    ImageRow {
        digest: sandpen_types::image::ImageDigest::new([byte; 32]),
        names: names.iter().map(|name| name.parse().unwrap()).collect(),
        bytes: 1 << 33,
        created: None,
        loaded: chrono::DateTime::UNIX_EPOCH,
        last_used: Some(chrono::DateTime::UNIX_EPOCH + chrono::Duration::microseconds(7)),
    }
}

#[test]
fn the_index_is_what_was_written_last() {
    run(async || {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        assert_eq!(database.send(ListImages).await.unwrap().unwrap(), []);
        let rows = vec![row(1, &["a", "ghcr.io/o/b:1"]), row(2, &[])];
        database.send(ReplaceImages(rows.clone())).await.unwrap().unwrap();
        assert_eq!(database.send(ListImages).await.unwrap().unwrap(), rows);
        database.send(ReplaceImages(rows[1..].to_vec())).await.unwrap().unwrap();
        assert_eq!(database.send(ListImages).await.unwrap().unwrap(), rows[1..]);
        // A row that cannot be leaves the index as it was.
        let twice = vec![row(3, &[]), row(3, &[])];
        assert!(database.send(ReplaceImages(twice)).await.unwrap().is_err());
        assert_eq!(database.send(ListImages).await.unwrap().unwrap(), rows[1..]);
    });
}
