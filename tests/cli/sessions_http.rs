//! Sessions over HTTP, and hostile clients of their WebSockets, byte by byte through the socket.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use super::http_api::{refused, request};
use crate::support::{DEADLINE, Home, until};

const SESSIONS: &str = "/v1/sandboxes/default/a/sessions";
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

fn idle() -> Home {
    let home = Home::new();
    let rootfs = home.path().to_str().unwrap();
    home.ok(&["run", "--driver", "process", "-d", "--idle", "-n", "a", rootfs]);
    home
}

fn id(number: u64) -> String {
    format!("{number:016x}")
}

/// Begins a shell script, with an input.
fn begin(home: &Home, number: u64, script: &str) -> (u16, Value) {
    let body = json!({"id": id(number), "program": {"command": ["sh", "-c", script]}, "stdin": true});
    request(home, "POST", SESSIONS, &body.to_string())
}

/// A client's end of a WebSocket.
struct Socket(UnixStream);

impl Socket {
    /// The answer's head, and the socket behind it.
    fn ask(home: &Home, target: &str) -> (String, Self) {
        let mut stream = UnixStream::connect(home.state().join("sandpen.sock")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let head = format!(
            "GET {target} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        (String::from_utf8(answer).unwrap(), Self(stream))
    }

    fn attached(home: &Home, number: u64, query: &str) -> Self {
        let (head, mut socket) = Self::ask(home, &format!("{SESSIONS}/{}/attach{query}", id(number)));
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let info = socket.news();
        assert_eq!((info["type"].as_str(), info["id"].as_str()), (Some("info"), Some(id(number).as_str())), "{info}");
        socket
    }

    fn frame(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
            length if length < 1 << 16 => {
                frame.push(0x80 | 0x7e);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                frame.push(0x80 | 0x7f);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        // A mask of zeros masks nothing.
        frame.extend([0; 4]);
        frame.extend(payload);
        self.0.write_all(&frame).unwrap();
    }

    fn wish(&mut self, wish: &Value) {
        self.frame(0x80 | TEXT, wish.to_string().as_bytes());
    }

    fn input(&mut self, offset: u64, bytes: &[u8]) {
        self.frame(0x80 | BINARY, &[&[0], &offset.to_le_bytes()[..], bytes].concat());
    }

    /// The next message; `None` when there are no more.
    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            Err(error) => panic!("{error}"),
        }
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.0.read_exact(&mut length).unwrap();
                u16::from_be_bytes(length).into()
            }
            127 => {
                let mut length = [0; 8];
                self.0.read_exact(&mut length).unwrap();
                u64::from_be_bytes(length)
            }
            length => length.into(),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).unwrap();
        Some((head[0] & 15, payload))
    }

    /// The next message in text.
    fn news(&mut self) -> Value {
        let (kind, payload) = self.next().expect("a message");
        assert_eq!(kind, TEXT, "{}", String::from_utf8_lossy(&payload));
        serde_json::from_slice(&payload).unwrap()
    }

    /// The next piece of output: its stream, its offset, its bytes.
    fn piece(&mut self) -> (u8, u64, Vec<u8>) {
        loop {
            let (kind, payload) = self.next().expect("a message");
            if kind == BINARY {
                return (payload[0], u64::from_le_bytes(payload[1..9].try_into().unwrap()), payload[9..].to_vec());
            }
        }
    }

    /// The code of the close that comes next.
    fn close_code(&mut self) -> u16 {
        loop {
            let (kind, payload) = self.next().expect("a close");
            if kind == CLOSE {
                return u16::from_be_bytes(payload[..2].try_into().unwrap());
            }
        }
    }

    /// Asserts that it is refused with this code of ours, and closed.
    fn is_refused(&mut self, code: &str) {
        let error = loop {
            let (kind, payload) = self.next().expect("a message");
            let news: Value = if kind == TEXT { serde_json::from_slice(&payload).unwrap() } else { Value::Null };
            if news["type"] == "error" {
                break news;
            }
        };
        assert_eq!(error["code"], code, "{error}");
        assert!(matches!(self.close_code(), 1000 | 1008));
        assert_eq!(self.next(), None);
    }
}

#[test]
fn a_session_is_begun_once_followed_and_forgotten() {
    let home = idle();
    let (status, info) = begin(&home, 1, "echo $$; while read line; do echo \"got $line\"; done; exit 3");
    assert_eq!((status, info["id"].as_str(), info["end"].is_null()), (201, Some(id(1).as_str()), true), "{info}");
    assert_eq!(begin(&home, 1, "echo another").0, 200);
    assert_eq!(request(&home, "GET", SESSIONS, "").1.as_array().unwrap().len(), 1);
    let one = format!("{SESSIONS}/{}", id(1));
    assert_eq!(request(&home, "GET", &one, "").1["label"], info["label"]);
    let mut socket = Socket::attached(&home, 1, "");
    let (stream, offset, pid) = socket.piece();
    assert_eq!((stream, offset), (1, 0));
    socket.input(0, b"a\n");
    // What the session has is passed over.
    socket.input(0, b"a\nb\n");
    let mut got = Vec::new();
    while got.len() < "got a\ngot b\n".len() {
        let (_, offset, bytes) = socket.piece();
        assert_eq!(offset, (pid.len() + got.len()) as u64);
        got.extend(bytes);
    }
    assert_eq!(got, b"got a\ngot b\n");
    // Another one has it from where this one says.
    let mut second = Socket::attached(&home, 1, &format!("?stdout={}&stderr=0", pid.len()));
    assert_eq!(second.piece(), (1, pid.len() as u64, got.clone()));
    loop {
        if socket.news()["type"] == "replaced" {
            break;
        }
    }
    assert_eq!(socket.close_code(), 1000);
    // What was taken is gone for everybody.
    let taken = pid.len() + got.len();
    second.wish(&json!({"type": "taken", "stdout": taken, "stderr": 0}));
    until("it is taken", || request(&home, "GET", &one, "").1["kept_from"]["stdout"] == taken);
    refused(&home, "GET", &format!("{one}/attach?stdout=0&stderr=0"), "", 400, "invalid_request");
    let (head, _) = Socket::ask(&home, &format!("{one}/attach?stdout=0&stderr=0"));
    assert!(head.starts_with("HTTP/1.1 410 "), "{head}");
    second.wish(&json!({"type": "end_input", "total": 4}));
    loop {
        let news = second.news();
        if news["type"] == "ended" {
            assert_eq!(news["end"], json!({"exited": {"code": 3}}));
            break;
        }
    }
    second.wish(&json!({"type": "taken_end"}));
    assert_eq!(second.close_code(), 1000);
    refused(&home, "GET", &one, "", 404, "session_not_found");
}

/// Long before the session's end, behind the last byte, and to each client once.
#[test]
fn the_end_of_an_output_is_told() {
    let home = idle();
    begin(&home, 1, "echo all; exec >&-; read line; echo end >&2");
    let end = |stream: &str, total: u64| json!({"type": "stream_ended", "stream": stream, "total": total});
    let next_end = |socket: &mut Socket| {
        std::iter::from_fn(|| socket.next()).find_map(|(kind, payload)| {
            let news: Value = if kind == TEXT { serde_json::from_slice(&payload).unwrap() } else { Value::Null };
            ["stream_ended", "ended"].contains(&news["type"].as_str()?).then_some(news)
        })
    };
    let mut first = Socket::attached(&home, 1, "");
    assert_eq!(first.piece(), (1, 0, b"all\n".to_vec()));
    assert_eq!(next_end(&mut first), Some(end("stdout", 4)));
    let mut second = Socket::attached(&home, 1, "?stdout=4&stderr=0");
    assert_eq!(next_end(&mut second), Some(end("stdout", 4)));
    second.input(0, b"go\n");
    assert_eq!(next_end(&mut second), Some(end("stderr", 4)));
    assert_eq!(next_end(&mut second).unwrap()["type"], "ended");
}

#[test]
fn hostile_requests_are_refused() {
    let home = idle();
    let body = |change: &dyn Fn(&mut Value)| {
        let mut body = json!({"id": id(1), "program": {"command": ["true"]}});
        change(&mut body);
        body.to_string()
    };
    for odd in [
        body(&|body| body["id"] = json!("1")),
        body(&|body| body["id"] = json!(id(0))),
        body(&|body| body["id"] = json!(1)),
        body(&|body| body["program"] = json!("sh")),
        body(&|body| body["program"] = json!({"command": "sh"})),
        body(&|body| body["x"] = json!(1)),
        body(&|body| body["terminal"] = json!({"rows": 0, "cols": 1})),
        body(&|body| body["timeout"] = json!({"secs": -1, "nanos": 0})),
        "{}".to_owned(),
        "[".repeat(10_000),
    ] {
        refused(&home, "POST", SESSIONS, &odd, 400, "invalid_request");
    }
    for odd in [
        body(&|body| body["program"] = json!({"command": []})),
        body(&|body| body["program"] = json!({"command": ["a\u{0}"]})),
        body(&|body| body["program"] = json!({"command": ["a", "x".repeat(1 << 20)]})),
        body(&|body| body["env"] = json!([["A=B", "c"]])),
        body(&|body| body["workdir"] = json!("tmp")),
        body(&|body| body["timeout"] = json!({"secs": 0, "nanos": 0})),
    ] {
        refused(&home, "POST", SESSIONS, &odd, 400, "invalid_spec");
    }
    for name in ["x", "0", "..", "%00", "0123456789ABCDEF", "0123456789abcdef0"] {
        for (method, rest) in [("GET", ""), ("DELETE", ""), ("GET", "/attach")] {
            refused(&home, method, &format!("{SESSIONS}/{name}{rest}"), "", 400, "invalid_name");
        }
    }
    let none = format!("{SESSIONS}/{}", id(7));
    refused(&home, "GET", &none, "", 404, "session_not_found");
    refused(&home, "DELETE", &none, "", 404, "session_not_found");
    refused(&home, "POST", &format!("{none}/signal"), r#"{"signal":15}"#, 404, "session_not_found");
    refused(&home, "POST", &format!("{none}/resize"), r#"{"rows":1,"cols":1}"#, 404, "session_not_found");
    for signal in ["0", "65", "-1"] {
        let body = format!(r#"{{"signal":{signal}}}"#);
        refused(&home, "POST", &format!("{none}/signal"), &body, 400, "invalid_request");
    }
    refused(&home, "GET", &format!("{none}/attach"), "", 400, "invalid_request");
    refused(&home, "POST", &format!("{none}/attach"), "", 405, "method_not_allowed");
    refused(&home, "GET", &format!("{none}/attach?stdout=1"), "", 400, "invalid_request");
    let (head, _) = Socket::ask(&home, &format!("{none}/attach"));
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    refused(&home, "GET", "/v1/sandboxes/default/nope/sessions", "", 404, "not_found");
}

#[test]
fn nonsense_in_a_socket_is_refused_in_words_and_hurts_nobody_else() {
    let home = idle();
    assert_eq!(begin(&home, 1, "while read line; do echo \"got $line\"; done").0, 201);
    let attached = || Socket::attached(&home, 1, "");
    for text in ["", "x", "{}", r#"{"type":"info"}"#, r#"{"type":"hang_up","x":1}"#, r#"{"type":"signal","signal":0}"#]
    {
        let mut socket = attached();
        socket.frame(0x80 | TEXT, text.as_bytes());
        socket.is_refused("invalid_request");
    }
    let (long, too_long) = (" ".repeat(5000), vec![0; 70_000]);
    for (kind, payload) in [
        (0x80 | TEXT, long.as_bytes()),
        (0x80 | TEXT, &b"\xff"[..]),
        (0x80 | BINARY, b""),
        (0x80 | BINARY, b"\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
        (0x80 | BINARY, b"\x01\x00\x00\x00\x00\x00\x00\x00\x00x"),
        (0x80 | BINARY, b"\x07\x00\x00\x00\x00\x00\x00\x00\x00x"),
        (0x80 | BINARY, b"\x00\xff\xff\xff\xff\xff\xff\xff\xffx"),
        (0x80 | BINARY, &too_long),
        // A continuation of nothing, and a kind that there is not.
        (0x80, b"x"),
        (0x83, b"x"),
    ] {
        let mut socket = attached();
        socket.frame(kind, payload);
        socket.is_refused("invalid_request");
    }
    // Input that leaves some out, and output that was never written.
    let mut socket = attached();
    socket.input(7, b"x");
    socket.is_refused("invalid_request");
    let mut socket = attached();
    socket.wish(&json!({"type": "taken", "stdout": 1000, "stderr": 0}));
    socket.is_refused("invalid_request");
    // A message in pieces is one, and a ping in between is answered.
    let mut socket = attached();
    socket.frame(BINARY, &[0; 9]);
    socket.frame(0x89, b"ping");
    socket.frame(0x80, b"a\n");
    let (mut ponged, mut got) = (false, Vec::new());
    while !ponged || got.is_empty() {
        match socket.next().expect("a message") {
            (10, payload) => ponged = payload == b"ping",
            (BINARY, payload) => got = payload[9..].to_vec(),
            _ => {}
        }
    }
    assert_eq!(got, b"got a\n");
    // One that is cut in the middle of a frame is a client that died.
    socket.0.write_all(&[0x82, 0xfe, 0xff]).unwrap();
    drop(socket);
    until("nobody is attached", || request(&home, "GET", SESSIONS, "").1[0]["attached"] == false);
    let mut socket = attached();
    assert_eq!(socket.piece(), (1, 0, b"got a\n".to_vec()), "nobody has taken it");
}

/// One that reads nothing while its session writes without end.
#[test]
fn a_client_that_reads_nothing_holds_up_nobody_else_and_no_end() {
    let home = idle();
    assert_eq!(begin(&home, 1, "exec yes").0, 201);
    assert_eq!(begin(&home, 2, "echo other; exec sleep 1000").0, 201);
    let stalled = Socket::attached(&home, 1, "");
    let mut other = Socket::attached(&home, 2, "");
    assert_eq!(other.piece(), (1, 0, b"other\n".to_vec()));
    // A daemon that ends tells so, and waits for nobody.
    let ending = std::thread::scope(|scope| {
        let ended = scope.spawn(|| home.ok(&["shutdown"]));
        let code = other.close_code();
        ended.join().unwrap();
        code
    });
    assert_eq!(ending, 1012);
    drop(stalled);
    home.ok(&["rm", "-f", "a"]);
}
