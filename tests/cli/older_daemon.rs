//! A command that the running daemon does not know yet.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::support::Home;

/// A daemon of before: it says its version, and knows no other path.
fn serve_as_before(listener: &UnixListener) {
    const VERSION: &str = r#"{"name":"sandpen","version":"0.0.9","api":1,"pid":4711,"state_dir":"/"}"#;
    const REFUSAL: &str = r#"{"error":{"code":"no_such_route","message":"there is no such path","chain":[]}}"#;
    const UNKNOWN_KEY: &str = r#"{"error":{"code":"invalid_request","message":"Query deserialize error: unknown field `since`, expected one of `from`, `tail`, `stream`, `follow`","chain":[]}}"#;
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut chunk = [0; 1024];
        while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut chunk).unwrap() {
                // Nothing was asked: the test is over.
                0 if asked.is_empty() => return,
                count => asked.extend_from_slice(&chunk[..count]),
            }
        }
        let (status, body) = match () {
            () if asked.starts_with(b"GET /v1/version ") => ("200 OK", VERSION),
            () if asked.starts_with(b"GET /v1/sandboxes/default/a/output?") => ("400 Bad Request", UNKNOWN_KEY),
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
    for args in [&["start", "a"][..], &["restart", "a"], &["logs", "--all", "--since", "1h", "a"]] {
        let refused = home.fails(args);
        assert!(refused.contains("sandpen 0.0.9, process 4711") && refused.contains("another version"), "{refused}");
        assert!(refused.contains("`sandpen daemon --replace`"), "{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
    drop(UnixStream::connect(socket).unwrap());
    daemon.join().unwrap();
}
