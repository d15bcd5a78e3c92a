//! A command that the running daemon does not know yet.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::support::Home;

/// The request that `stream` has, with its body.
fn read_request(stream: &mut UnixStream) -> Vec<u8> {
    let mut asked = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&asked);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return asked;
            }
        }
        match stream.read(&mut chunk).unwrap() {
            // Nothing was asked: the test is over.
            0 if asked.is_empty() => return asked,
            count => asked.extend_from_slice(&chunk[..count]),
        }
    }
}

/// What a daemon of before says of a body with a field that it does not know.
fn refuse_body(asked: &[u8]) -> String {
    let asked = String::from_utf8_lossy(asked);
    let known = "expected one of `host`, `guest`, `read_only`";
    let words = match () {
        () if asked.contains("\"labels\":") => "unknown field labels".to_owned(),
        () if asked.contains("\"user\":") => "unknown field user".to_owned(),
        () if asked.contains("\"read_only\":true") => "unknown field read_only".to_owned(),
        () if asked.contains("\"volumes\":[{\"name\":") => format!("unknown field `name`, {known}"),
        () => return NOT_A_WISH.to_owned(),
    };
    let message = format!("the body is not what is expected here: {words} at line 1 column 99");
    serde_json::json!({"error": {"code": "invalid_request", "message": message, "chain": []}}).to_string()
}

const NOT_A_WISH: &str = r#"{"error":{"code":"invalid_spec","message":"this cannot be","chain":[]}}"#;

/// A daemon of before: it says its version, and knows no other path.
fn serve_as_before(listener: &UnixListener) {
    const VERSION: &str = r#"{"name":"sandpen","version":"0.0.9","api":1,"pid":4711,"state_dir":"/"}"#;
    const REFUSAL: &str = r#"{"error":{"code":"no_such_route","message":"there is no such path","chain":[]}}"#;
    const UNKNOWN_KEY: &str = r#"{"error":{"code":"invalid_request","message":"Query deserialize error: unknown field `since`, expected one of `from`, `tail`, `stream`, `follow`","chain":[]}}"#;
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let asked = read_request(&mut stream);
        if asked.is_empty() {
            return;
        }
        let of_body = refuse_body(&asked);
        let (status, body) = match () {
            () if asked.starts_with(b"GET /v1/version ") => ("200 OK", VERSION),
            () if asked.starts_with(b"GET /v1/sandboxes/default/a/output?") => ("400 Bad Request", UNKNOWN_KEY),
            () if asked.starts_with(b"POST /v1/sandboxes ") => ("400 Bad Request", of_body.as_str()),
            () => ("404 Not Found", REFUSAL),
        };
        // A client that has what it wants may be gone.
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n");
        let _ = write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len());
    }
}

#[test]
fn one_that_does_not_know_it_yet_is_named_with_what_to_do() {
    let home = Home::new();
    fs::DirBuilder::new().mode(0o700).create(home.state()).unwrap();
    let socket = home.state().join("sandpen.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let daemon = std::thread::spawn(move || serve_as_before(&listener));
    let root = home.path().to_str().unwrap();
    for args in [
        &["start", "a"][..],
        &["restart", "a"],
        &["logs", "--all", "--since", "1h", "a"],
        &["run", "-l", "team=a", root],
        &["run", "-d", "-u", "nobody", root],
        &["run", "--read-only", root],
        &["run", "-v", "cache:/x", root],
    ] {
        let refused = home.fails(args);
        assert!(refused.contains("sandpen 0.0.9, process 4711") && refused.contains("another version"), "{refused}");
        assert!(refused.contains("`sandpen daemon --replace`"), "{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
    let refused = home.fails(&["run", root]);
    assert_eq!(refused, "sandpen: this cannot be\n", "what it knows and refuses is told as it says it");
    drop(UnixStream::connect(socket).unwrap());
    daemon.join().unwrap();
}
