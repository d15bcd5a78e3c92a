//! A server without a daemon's sessions, and a client that is played here.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use sandpen_types::spec::SandboxName;

use super::*;
use crate::transport::tests::{Client as Peer, key};
use crate::wire::Reader;

/// A daemon that says who it is, and knows nothing else.
async fn daemon(dir: &std::path::Path) -> Client {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let listener = UnixListener::bind(dir.join("sandpen.sock")).unwrap();
    let shown = dir.display().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut request) = (stream.unwrap(), [0; 4096]);
            let _ = stream.read(&mut request);
            let body = format!(r#"{{"name":"sandpen","version":"0.1.0","api":1,"pid":1,"state_dir":"{shown}"}}"#);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
            let _ = write!(stream, "{head}\r\n\r\n{body}");
        }
    });
    let options = ClientOptions { state_dir: dir.to_owned(), daemon: None };
    tokio::time::timeout(Duration::from_secs(20), Client::connect(&options)).await.unwrap().unwrap()
}

struct Talk {
    server: Server,
    peer: Peer,
    from: FromChannels,
    _dir: tempfile::TempDir,
}

impl Talk {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let client = daemon(dir.path()).await;
        let options = ClientOptions { state_dir: dir.path().to_owned(), daemon: None };
        let key_of = SandboxKey::from(SandboxName::new("a").unwrap());
        let target = Target { client, options, key: key_of, user: None, note: |_| {} };
        let mut peer = Peer::ready();
        let transport = std::mem::replace(&mut peer.server, Transport::new(key()));
        // That one is not spoken with.
        peer.server.take_output();
        let (server, from) = Server::new(target, transport);
        Self { server, peer, from, _dir: dir }
    }

    /// One that was let in.
    async fn open() -> Self {
        let mut talk = Self::new().await;
        assert_eq!(talk.ask(hello("root")).unwrap()[0], message::USERAUTH_SUCCESS);
        talk
    }

    fn say(&mut self, message: Writer) -> Result<(), ServeError> {
        let packet = self.peer.sealed(&message.done());
        self.server.take(&packet)
    }

    /// The answer to a message.
    fn ask(&mut self, message: Writer) -> Result<Vec<u8>, ServeError> {
        self.say(message)?;
        let answer = self.server.transport.take_output();
        self.peer.came(&answer);
        Ok(if self.peer.has_all() { Vec::new() } else { self.peer.receive() })
    }

    /// Opens a channel; the server's number of it.
    fn channel(&mut self, theirs: u32) -> u32 {
        let answer = self.ask(session(theirs)).unwrap();
        let mut reader = Reader::new(&answer);
        assert_eq!((reader.u8(), reader.u32()), (Ok(message::CHANNEL_OPEN_CONFIRMATION), Ok(theirs)));
        reader.u32().unwrap()
    }
}

fn hello(user: &str) -> Writer {
    let message = Writer::message(message::USERAUTH_REQUEST).bytes(user.as_bytes());
    message.bytes(b"ssh-connection").bytes(b"none")
}

fn session(theirs: u32) -> Writer {
    Writer::message(message::CHANNEL_OPEN).bytes(b"session").u32(theirs).u32(1 << 20).u32(1 << 15)
}

fn request(channel: u32, kind: &str) -> Writer {
    Writer::message(message::CHANNEL_REQUEST).u32(channel).bytes(kind.as_bytes()).bool(true)
}

#[tokio::test]
async fn what_no_client_may_say_ends_it() {
    let mut talk = Talk::new().await;
    assert!(talk.say(session(0)).is_err(), "nobody was let in");
    let cases: [fn(u32) -> Writer; 6] = [
        |_| Writer::message(message::CHANNEL_DATA).u32(999).bytes(b"x"),
        |channel| Writer::message(message::CHANNEL_WINDOW_ADJUST).u32(channel).u32(u32::MAX),
        |channel| Writer::message(message::CHANNEL_DATA).u32(channel).u32(77),
        |channel| request(channel, "pty-req").bytes(b"xterm"),
        |_| Writer::message(message::CHANNEL_OPEN).bytes(b"session").u32(1),
        |_| hello("\u{0}").raw(&[0xff]),
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let mut talk = Talk::open().await;
        let channel = talk.channel(5);
        // What comes once more from somebody who is in says nothing.
        assert_eq!(talk.say(case(channel)).is_err(), number < 5, "{number}");
    }
    // More than the window, in pieces that each fit.
    let mut talk = Talk::open().await;
    let channel = talk.channel(5);
    let piece = vec![7; 1 << 15];
    let data = || Writer::message(message::CHANNEL_DATA).u32(channel).bytes(&piece);
    for _ in 0..channel::WINDOW >> 15 {
        talk.say(data()).unwrap();
    }
    assert!(talk.say(data()).is_err());
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_and_the_rest_goes_on() {
    let mut talk = Talk::new().await;
    assert_eq!(talk.ask(hello("a/b")).unwrap()[0], message::USERAUTH_BANNER);
    let mut talk = Talk::open().await;
    let all: Vec<_> = (0..128).map(|theirs| talk.channel(theirs)).collect();
    let answer = talk.ask(session(128)).unwrap();
    let mut reader = Reader::new(&answer);
    let refusal = (reader.u8(), reader.u32(), reader.u32());
    assert_eq!(refusal, (Ok(message::CHANNEL_OPEN_FAILURE), Ok(128), Ok(message::RESOURCE_SHORTAGE)));
    for channel in &all[1..] {
        assert_eq!(talk.ask(Writer::message(message::CHANNEL_CLOSE).u32(*channel)).unwrap()[0], message::CHANNEL_CLOSE);
    }
    let channel = all[0];
    for (kind, is_done) in [("x11-req", false), ("auth-agent-req@openssh.com", false), ("of-later", false)] {
        let number = if is_done { message::CHANNEL_SUCCESS } else { message::CHANNEL_FAILURE };
        assert_eq!(talk.ask(request(channel, kind)).unwrap()[0], number, "{kind}");
    }
    assert_eq!(talk.ask(request(channel, "subsystem").bytes(b"netconf")).unwrap()[0], message::CHANNEL_FAILURE);
    assert_eq!(talk.ask(request(channel, "env").bytes(b"A=B").bytes(b"")).unwrap()[0], message::CHANNEL_FAILURE);
    let refused = |talk: &mut Talk, kind: &str, host: &str, port: u32| {
        let open = Writer::message(message::CHANNEL_OPEN).bytes(kind.as_bytes()).u32(7).u32(0).u32(0);
        let answer = talk.ask(open.bytes(host.as_bytes()).u32(port).bytes(b"").u32(0)).unwrap();
        assert_eq!(answer[0], message::CHANNEL_OPEN_FAILURE, "{kind} {host} {port}");
        Reader::new(&answer[5..]).u32().unwrap()
    };
    assert_eq!(refused(&mut talk, "direct-tcpip", "example.com", 80), message::PROHIBITED);
    assert_eq!(refused(&mut talk, "direct-tcpip", "localhost", 0), message::CONNECT_FAILED);
    assert_eq!(refused(&mut talk, "direct-tcpip", "localhost", 65_536), message::CONNECT_FAILED);
    assert_eq!(refused(&mut talk, "x11", "", 0), message::UNKNOWN_CHANNEL_TYPE);
    let forward = Writer::message(message::GLOBAL_REQUEST).bytes(b"tcpip-forward").bool(true).bytes(b"").u32(80);
    assert_eq!(talk.ask(forward).unwrap(), [message::REQUEST_FAILURE]);
    let unasked = Writer::message(message::GLOBAL_REQUEST).bytes(b"no-more-sessions@openssh.com").bool(false);
    assert!(talk.ask(unasked).unwrap().is_empty());
    assert_eq!(talk.ask(Writer::message(200)).unwrap()[0], message::UNIMPLEMENTED);
}

/// RFC 4254 leaves it open; clients that have forgotten the channel take an answer for an error.
#[tokio::test]
async fn of_a_closed_channel_nothing_is_answered() {
    let mut talk = Talk::open().await;
    let channel = talk.channel(5);
    talk.server.say(Said::Done(ChannelId(channel))).unwrap();
    let answer = talk.server.transport.take_output();
    talk.peer.came(&answer);
    assert_eq!(talk.peer.receive()[0], message::CHANNEL_CLOSE);
    assert!(talk.ask(request(channel, "winadj@putty.projects.tartarus.org")).unwrap().is_empty());
}

/// With its channels' last words still unsaid, as it makes new keys and does not end that.
#[tokio::test]
async fn a_client_that_hears_no_goodbye_is_left() {
    let mut talk = Talk::open().await;
    let channel = ChannelId(talk.channel(5));
    talk.say(crate::transport::tests::renewal()).unwrap();
    talk.server.said.try_send(Said::Exit(channel, Exit::Status(0))).unwrap();
    let Talk { server, from, _dir, .. } = talk;
    let (output, mut taken) = mpsc::channel(1);
    let reads = tokio::spawn(async move { while taken.recv().await.is_some() {} });
    let begun = Instant::now();
    let ended = async { "the sandbox has ended".to_owned() };
    run(server, from, futures::stream::pending(), output, ended).await.unwrap();
    assert!(begun.elapsed() >= END_LIMIT);
    reads.await.unwrap();
}
