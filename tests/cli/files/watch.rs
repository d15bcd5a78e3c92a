//! What happens to files, told over HTTP and by `sandpen file watch`.

use std::io::{BufRead as _, BufReader};

use super::*;

#[test]
fn what_happens_is_told_to_who_watches() {
    let place = Place::new();
    let mut command = place.home.sandpen(&["file", "watch", "-r", "--json", "a", &place.path("")]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = move || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let at = |name: &str| place.path(name);
    assert_eq!(next(), json!({"type": "watching"}));
    fs::create_dir(place.at("dir")).unwrap();
    assert_eq!(next(), json!({"type": "created", "path": at("dir"), "directory": true}));
    place.ok(&["append", "a", &at("dir/file")], b"x");
    // Perhaps twice: it may have come before its directory was watched.
    let mut told = next();
    while told["type"] == "created" {
        assert_eq!(told, json!({"type": "created", "path": at("dir/file"), "directory": false}));
        told = next();
    }
    assert_eq!(told, json!({"type": "modified", "path": at("dir/file")}));
    assert_eq!(next(), json!({"type": "closed", "path": at("dir/file")}));
    place.ok(&["mv", "a", &at("dir"), &at("moved")], b"");
    assert_eq!(next(), json!({"type": "renamed", "from": at("dir"), "to": at("moved"), "directory": true}));
    // What is watched goes, and with it who watches.
    place.ok(&["rm", "-r", "a", &at("")], b"");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(1), "{}", explain(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no such file or directory"), "{}", explain(&output));
    // One that goes away without a word leaves nothing.
    fs::create_dir(place.at("")).unwrap();
    let mut stream = UnixStream::connect(place.home.state().join("sandpen.sock")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", place.target("/watch", "", ""));
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    drop(stream);
    // It is noticed with the next word.
    until("nobody is told any more", || {
        fs::write(place.at("again"), "").unwrap();
        place.home.ok(&["sessions", "--json", "a"]).trim() == "[]"
    });
}

/// Nothing is kept for who does not read but what has room on the way: the system drops the rest, which is told.
#[test]
fn who_does_not_read_a_watch_hears_that_something_is_missing() {
    const EVENTS: usize = 120_000;
    let place = Place::new();
    let mut stream = UnixStream::connect(place.home.state().join("sandpen.sock")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", place.target("/watch", "", ""));
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream).lines();
    let mut until_line = |wanted: &str| {
        let mut lines = 0;
        while !reader.next().unwrap().unwrap().contains(wanted) {
            lines += 1;
        }
        lines
    };
    until_line(r#"{"type":"watching"}"#);
    // Two events each, which are never the same one twice in a row.
    for _ in 0..EVENTS / 2 {
        fs::File::create(place.at("a")).unwrap();
        fs::remove_file(place.at("a")).unwrap();
    }
    // The daemon has no more of them than it would of a few.
    assert!(place.ask("GET", "/v1/version", "")["name"] == "sandpen");
    let told = until_line(r#"{"type":"overflow"}"#);
    assert!(told < EVENTS, "{told} lines");
    fs::write(place.at("last"), "").unwrap();
    until_line(&format!(r#"{{"type":"closed","path":"{}"}}"#, place.path("last")));
}
