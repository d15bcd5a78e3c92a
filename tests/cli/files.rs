//! Files of a sandbox over HTTP and by `sandpen file`: of this host, which the sandboxes of tests share.

mod watch;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use super::http_api::{refused, request};
use crate::support::{DEADLINE, Home, explain, feed, finish, spawn, until};

const FILES: &str = "/v1/sandboxes/default/a/files";

struct Place {
    home: Home,
}

impl Place {
    fn new() -> Self {
        let home = Home::new();
        let rootfs = home.path().to_str().unwrap();
        home.ok(&["run", "--driver", "process", "-d", "--idle", "-n", "a", rootfs]);
        fs::create_dir(home.path().join("files")).unwrap();
        Self { home }
    }

    fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.home.path().join("files").join(name)
    }

    /// As it stands on a command line.
    fn path(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    fn target(&self, route: &str, name: impl AsRef<Path>, more: &str) -> String {
        let path = self.at(name);
        let path: String = path.as_os_str().as_bytes().iter().map(|byte| format!("%{byte:02x}")).collect();
        format!("{FILES}{route}?path={path}{more}")
    }

    fn ask(&self, method: &str, target: &str, body: &str) -> Value {
        let (status, answer) = request(&self.home, method, target, body);
        assert!((200..300).contains(&status), "{method} {target}: {status} {answer}");
        answer
    }

    /// Sends the begin of a request, and goes.
    fn break_off(&self, request: &[u8]) {
        let mut stream = UnixStream::connect(self.home.state().join("sandpen.sock")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Whatever it says: it has noticed then.
        let _ = stream.read_to_end(&mut Vec::new());
    }

    /// Every byte that comes to bytes that are sent.
    fn raw(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.home.state().join("sandpen.sock")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    /// Status, head and body of a read.
    fn read(&self, name: &str, range: &str) -> (u16, String, Vec<u8>) {
        let range = if range.is_empty() { String::new() } else { format!("range: {range}\r\n") };
        let target = self.target("/content", name, "");
        let answer =
            self.raw(format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{range}\r\n").as_bytes());
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
        let body = unchunked(&head, &answer[end + 4..]);
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head, body)
    }

    fn file(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.home.sandpen(&[&["file"], args].concat());
        command.stdin(Stdio::piped());
        let mut child = spawn(command);
        if !input.is_empty() {
            feed(&mut child, input);
        }
        drop(child.stdin.take());
        finish(child)
    }

    fn ok(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let output = self.file(args, input);
        assert!(output.status.success(), "{args:?}: {}", explain(&output));
        output.stdout
    }

    fn fails(&self, args: &[&str], words: &str) {
        let output = self.file(args, b"");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", explain(&output));
        assert!(error.contains(words) && error.lines().count() == 1, "{args:?}: {error}");
        assert!(!error.contains('\x1b') && output.stdout.is_empty(), "{args:?}: {}", explain(&output));
    }

    /// No session is left of any request.
    fn done(self) {
        until("every session is forgotten", || self.home.ok(&["sessions", "--json", "a"]).trim() == "[]");
    }
}

/// A body without its chunks; one that was broken off panics.
fn unchunked(head: &str, mut body: &[u8]) -> Vec<u8> {
    if !head.contains("transfer-encoding: chunked") {
        return body.to_vec();
    }
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|bytes| bytes == b"\r\n").expect("a chunk");
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.extend(&body[end + 2..][..length]);
        body = &body[end + 2 + length + 2..];
    }
}

#[test]
fn files_by_http() {
    let place = Place::new();
    let home = &place.home;
    // Written whole, with the mode that is wanted or the one of before.
    assert_eq!(place.ask("PUT", &place.target("/content", "a", "&mode=640"), "0123456789"), json!({"bytes": 10}));
    place.ask("PUT", &place.target("/content", "a", ""), "abcdefghij");
    place.ask("POST", &place.target("/append", "a", ""), "klm");
    assert_eq!(fs::read(place.at("a")).unwrap(), b"abcdefghijklm");
    assert_eq!(fs::metadata(place.at("a")).unwrap().permissions().mode() & 0o7777, 0o640);
    // A body that breaks off changes nothing.
    let head =
        format!("PUT {} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nhalf", place.target("/content", "a", ""));
    place.break_off(head.as_bytes());
    let chunked = head
        .replace("content-length: 1000", "transfer-encoding: chunked")
        .replace("\r\n\r\nhalf", "\r\n\r\n4\r\nhalf\r\n");
    place.break_off(chunked.as_bytes());
    assert_eq!(fs::read(place.at("a")).unwrap(), b"abcdefghijklm");
    // Read whole and in part.
    let (status, head, body) = place.read("a", "");
    assert_eq!((status, body.as_slice()), (200, &b"abcdefghijklm"[..]));
    assert!(head.contains("accept-ranges: bytes") && head.contains("content-type: application/octet-stream"), "{head}");
    for (range, content, body) in [
        ("bytes=0-2", "bytes 0-2/13", &b"abc"[..]),
        ("bytes=10-", "bytes 10-12/13", b"klm"),
        ("bytes=12-18446744073709551614", "bytes 12-12/13", b"m"),
        ("bytes=-2", "bytes 11-12/13", b"lm"),
        ("bytes=-99", "bytes 0-12/13", b"abcdefghijklm"),
    ] {
        let (status, head, read) = place.read("a", range);
        assert_eq!((status, read.as_slice()), (206, body), "{range}: {head}");
        assert!(head.contains(&format!("content-range: {content}")), "{range}: {head}");
    }
    for (range, code) in [
        ("bytes=13-", 416),
        ("bytes=18446744073709551615-", 416),
        ("bytes=2-1", 400),
        ("bytes=0-1,3-4", 400),
        ("x", 400),
    ] {
        assert_eq!(place.read("a", range).0, code, "{range}");
    }
    files_without_a_size(&place);
    // Attributes.
    place.ask(
        "POST",
        &place.target("/change", "a", ""),
        r#"{"mode":384,"size":3,"modified":"2020-01-02T03:04:05.000000006Z"}"#,
    );
    symlink("a", place.at("link")).unwrap();
    let stat = place.ask("GET", &place.target("", "link", "&follow"), "");
    assert_eq!((&stat["kind"], &stat["mode"], &stat["size"]), (&json!("file"), &json!(0o600), &json!(3)), "{stat}");
    assert_eq!(stat["modified"], "2020-01-02T03:04:05.000000006Z");
    let link = place.ask("GET", &place.target("", "link", ""), "");
    assert_eq!((&link["kind"], &link["target"]), (&json!("symlink"), &json!("a")));
    // Names that are not UTF-8, and ones that would speak to a terminal.
    let odd = Path::new(std::ffi::OsStr::from_bytes(b"\xff\n\x1b[2J"));
    place.ask("PUT", &place.target("/content", odd, ""), "odd");
    assert_eq!(fs::read(place.at(odd)).unwrap(), b"odd");
    place.ask("POST", &place.target("/directory", "d/e/f", "&parents&mode=700"), "");
    let rename = json!({"from": place.path("a"), "to": place.path("d/a"), "replace": false}).to_string();
    place.ask("POST", &format!("{FILES}/rename"), &rename);
    refused(home, "POST", &format!("{FILES}/rename"), &rename, 404, "file_not_found");
    let answer = String::from_utf8(
        place.raw(format!("GET {} HTTP/1.0\r\nhost: x\r\n\r\n", place.target("/list", "", "")).as_bytes()),
    )
    .unwrap();
    let mut names: Vec<Value> = answer
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["name"].clone())
        .collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, [json!("d"), json!("link"), json!({"base64": "/wobWzJK"})]);
    place.ask("DELETE", &place.target("", "d", "&recursive"), "");
    place.ask("DELETE", &place.target("", "link", ""), "");
    assert_eq!(fs::read_dir(place.at("")).unwrap().count(), 1);
    place.done();
}

/// What the kernel makes up, and what has nothing in it: a range is answered with where it ends, or refused.
fn files_without_a_size(place: &Place) {
    fs::write(place.at("empty"), "").unwrap();
    // Names are those of a path.
    let (version, zero) = ("/proc/version", "/dev/zero");
    let whole = fs::read(version).unwrap();
    let (status, head, read) = place.read(version, "");
    assert_eq!((status, read.as_slice()), (200, whole.as_slice()), "{head}");
    let last = whole.len() - 1;
    for (range, content, body) in [
        ("bytes=0-4", "bytes 0-4/*".to_owned(), &whole[..5]),
        ("bytes=6-", format!("bytes 6-{last}/*"), &whole[6..]),
        ("bytes=6-100000", format!("bytes 6-{last}/*"), &whole[6..]),
    ] {
        let (status, head, read) = place.read(version, range);
        assert_eq!((status, read.as_slice()), (206, body), "{range}: {head}");
        assert!(head.lines().any(|line| line == format!("content-range: {content}")), "{range}: {head}");
    }
    let (status, head, read) = place.read(zero, "bytes=5-1048580");
    assert_eq!((status, read.len()), (206, 1 << 20), "{head}");
    assert!(head.contains("content-range: bytes 5-1048580/*"), "{head}");
    for (name, range, words) in [
        (version, "bytes=-20", "its last ones cannot be found"),
        (version, "bytes=100000-", "at its end or behind it"),
        (zero, "bytes=0-", "more than 1 MiB"),
        (zero, "bytes=0-1048576", "more than 1 MiB"),
        ("empty", "bytes=0-", "at its end or behind it"),
        ("empty", "bytes=0-9", "at its end or behind it"),
        ("empty", "bytes=-20", "its last ones cannot be found"),
    ] {
        let (status, _, body) = place.read(name, range);
        let body = String::from_utf8(body).unwrap();
        assert!(status == 416 && body.contains("range_beyond_end") && body.contains(words), "{name} {range}: {body}");
    }
    assert_eq!(place.ok(&["read", "-o", "6", "a", version], b""), &whole[6..]);
    place.fails(&["read", "-o", "5", "a", &place.path("empty")], "the range begins at its end or behind it");
    fs::remove_file(place.at("empty")).unwrap();
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let place = Place::new();
    let home = &place.home;
    fs::create_dir_all(place.at("dir/sub")).unwrap();
    fs::write(place.at("file"), "old").unwrap();
    nix::unistd::mkfifo(&place.at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let content = |name: &str| place.target("/content", name, "");
    let to = |method: &str, target: &str, status, code| refused(home, method, target, "", status, code);
    for path in
        ["", "relative", "./x", "%2Fa%00b", &format!("%2F{}", "x".repeat(5000)), &format!("%2F{}", "x".repeat(300))]
    {
        for (method, route) in [
            ("GET", ""),
            ("GET", "/content"),
            ("PUT", "/content"),
            ("GET", "/list"),
            ("GET", "/watch"),
            ("DELETE", ""),
            ("POST", "/directory"),
        ] {
            to(method, &format!("{FILES}{route}?path={path}"), 400, "invalid_path");
        }
    }
    for query in ["", "?", "?path", "?path=%2", "?path=/a&path=/b", "?path=/a&what=1", "?path=/a&user="] {
        let code = if query == "?path" { "invalid_path" } else { "invalid_request" };
        to("GET", &format!("{FILES}{query}"), 400, code);
    }
    for more in ["&mode=9", "&mode=10000", "&mode="] {
        to("PUT", &place.target("/content", "new", more), 400, "invalid_request");
    }
    for (method, target, status, code) in [
        ("GET", content("dir"), 409, "is_a_directory"),
        ("PUT", content("dir"), 409, "is_a_directory"),
        ("PUT", content("dir/"), 409, "is_a_directory"),
        ("POST", place.target("/append", "dir", ""), 409, "is_a_directory"),
        ("DELETE", place.target("", "dir", ""), 409, "is_a_directory"),
        ("GET", content("none"), 404, "file_not_found"),
        ("PUT", content("none/x"), 404, "file_not_found"),
        ("PUT", content("file/x"), 409, "not_a_directory"),
        ("GET", place.target("/list", "file", ""), 409, "not_a_directory"),
        ("GET", place.target("/list", "none", ""), 404, "file_not_found"),
        ("GET", place.target("/watch", "none", ""), 404, "file_not_found"),
        ("GET", content("fifo"), 409, "not_a_file"),
        ("PUT", content("fifo"), 409, "not_a_file"),
        ("POST", place.target("/directory", "dir", ""), 409, "file_exists"),
        ("DELETE", format!("{FILES}?path=/&recursive"), 409, "file_failed"),
        ("GET", place.target("", "file", "&user=nobody-here"), 400, "invalid_request"),
        ("GET", place.target("", "file", "&user=a:b:c"), 400, "invalid_request"),
    ] {
        let words = to(method, &target, status, code);
        assert!(!words.is_empty() && !words.contains('\n'), "{words}");
    }
    for body in ["", "{", r#"{"mode":4096}"#, r#"{"mode":-1}"#, r#"{"uid":"root"}"#, r#"{"owner":1}"#] {
        refused(home, "POST", &place.target("/change", "file", ""), body, 400, "invalid_request");
    }
    refused(
        home,
        "POST",
        &place.target("/change", "file", ""),
        r#"{"size":9223372036854775808}"#,
        400,
        "invalid_request",
    );
    refused(home, "POST", &place.target("/change", "file", ""), r#"{"uid":4294967295}"#, 409, "file_failed");
    // A full file system, which this one always is; and the old content stays of one that becomes it.
    refused(home, "POST", &format!("{FILES}/append?path=/dev/full"), "x", 409, "files_full");
    assert_eq!(fs::read(place.at("file")).unwrap(), b"old");
    // Sandboxes that are not there, and one that does not run.
    to("GET", &FILES.replace("/a/", "/b/").replace("files", "files?path=/"), 404, "not_found");
    home.ok(&["stop", "a"]);
    to("GET", &place.target("/watch", "", ""), 409, "not_live");
    place.fails(&["watch", "a", &place.path("file")], "is not running");
    // Of one that has ended a helper has the files.
    assert_eq!(place.ok(&["read", "a", &place.path("file")], b""), b"old");
}

#[test]
fn files_by_the_command_line() {
    let place = Place::new();
    let path = |name: &str| place.path(name);
    let content: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    place.ok(&["mkdir", "-p", "-m", "750", "a", &path("d/e"), &path("d/f")], b"");
    place.ok(&["write", "-m", "600", "a", &path("d/file")], &content);
    assert!(place.ok(&["read", "a", &path("d/file")], b"") == content);
    assert!(place.ok(&["read", "-o", "999990", "-l", "5", "a", &path("d/file")], b"") == content[999_990..999_995]);
    assert!(place.ok(&["read", "-o", "999990", "a", &path("d/file")], b"") == content[999_990..]);
    assert!(place.ok(&["read", "-l", "0", "a", &path("d/file")], b"").is_empty());
    place.ok(&["append", "a", &path("d/file")], b"end");
    assert_eq!(fs::metadata(place.at("d/file")).unwrap().len(), 1_000_003);
    place.ok(&["write", "a", &path("empty")], b"");
    assert!(place.ok(&["read", "a", &path("empty")], b"").is_empty());
    place.ok(&["chmod", "a", "1777", &path("d/e"), &path("empty")], b"");
    place.ok(&["chown", "a", ":0", &path("empty")], b"");
    place.ok(&["mv", "a", &path("d/file"), &path("d/moved")], b"");
    symlink("moved", place.at("d/link\x1b[2J")).unwrap();
    let list = String::from_utf8(place.ok(&["ls", "a", &path("d")], b"")).unwrap();
    let lines: Vec<_> = list.lines().collect();
    assert!(lines[0].starts_with("MODE") && lines[1].starts_with("drwxrwxrwt") && lines[1].ends_with("  e"), "{list}");
    assert!(
        lines[2].starts_with("drwxr-x---") && lines[4].starts_with("-rw-------") && lines[4].contains("1000003"),
        "{list}"
    );
    assert!(lines[3].ends_with("link\\u{1b}[2J -> moved"), "{list}");
    let json: Value =
        serde_json::from_slice(&place.ok(&["stat", "--json", "a", &path("empty"), &path("d")], b"")).unwrap();
    assert_eq!((&json[0]["mode"], &json[1]["kind"]), (&json!(0o1777), &json!("directory")), "{json}");
    place.fails(&["mv", "-n", "a", &path("empty"), &path("d/moved")], "it exists already");
    place.fails(&["rm", "a", &path("d")], "is a directory");
    place.fails(&["read", "-o", "1000003", "a", &path("d/moved")], "byte 1000003 is wanted, and it has 1000003");
    place.fails(&["read", "a", &path("no\x1b[2J\nne")], "no\\u{1b}[2J\\nne: no such file or directory");
    place.fails(&["ls", "a", "relative"], "relative: no such path can be");
    place.fails(&["ls", "-u", "nobody-here", "a", "/"], "there is no user \"nobody-here\"");
    place.ok(&["rm", "-r", "a", &path("d"), &path("empty")], b"");
    assert_eq!(fs::read_dir(place.at("")).unwrap().count(), 0);
    place.done();
}

/// What was announced and is not there any more is no whole answer.
#[test]
fn a_file_that_becomes_shorter_while_it_is_read_breaks_off() {
    let place = Place::new();
    fs::write(place.at("a"), vec![7; 64 << 20]).unwrap();
    let mut stream = UnixStream::connect(place.home.state().join("sandpen.sock")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let target = place.target("/content", "a", "");
    stream.write_all(format!("GET {target} HTTP/1.1\r\nhost: x\r\nrange: bytes=0-\r\n\r\n").as_bytes()).unwrap();
    let mut begin = [0; 4096];
    stream.read_exact(&mut begin).unwrap();
    assert!(begin.starts_with(b"HTTP/1.1 206"));
    fs::write(place.at("a"), b"short").unwrap();
    let mut rest = Vec::new();
    // Some systems say so by an error.
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < 64 << 20 && !rest.ends_with(b"\r\n0\r\n\r\n"), "{} bytes", rest.len());
    // Without a range it has its end where that is.
    let (status, _, body) = place.read("a", "");
    assert_eq!((status, body.as_slice()), (200, &b"short"[..]));
    place.done();
}
