//! What PID 1 does itself in a session.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::thread;

use sandpen_guest::protocol::session::Tool;

use super::*;

fn connect(listener: &TcpListener) -> RunSession {
    let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
    RunSession { stdin: true, ..session(SessionProgram::Tool(Tool::Connect { port })) }
}

/// Answers one connection.
fn serve(listener: TcpListener, answer: impl FnOnce(TcpStream) + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || answer(listener.accept().unwrap().0))
}

#[test]
fn a_connection_is_input_and_output() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    // Who has said all still gets the whole answer.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    link.open(1, connect(&listener));
    let server = serve(listener, |mut stream| {
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).unwrap();
        stream.write_all(&asked.repeat(3)).unwrap();
    });
    let question: Vec<u8> = (0..100_000_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    link.feed(1, &question);
    link.tell(1, SessionCommand::EndInput { total: question.len() as u64 });
    let (end, stdout, stderr) = link.end(1);
    server.join().unwrap();
    assert_eq!((end, stderr), (code(0), vec![]));
    assert!(stdout == question.repeat(3));
    // And who has been answered may still say more; over IPv6 as well.
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    link.open(2, connect(&listener));
    let server = serve(listener, |mut stream| {
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "and bye");
    });
    link.until(|link| link.seen[&2].stdout.total == Some(5));
    link.feed(2, b"and bye");
    link.tell(2, SessionCommand::EndInput { total: 7 });
    assert_eq!(link.end(2), (code(0), b"hello".to_vec(), vec![]));
    server.join().unwrap();
    host.done();
}

#[test]
fn nobody_listens() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = connect(&listener);
    drop(listener);
    let (end, stdout, stderr) = link.run(1, asked);
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!((end, stdout), (code(1), vec![]));
    assert!(
        said.starts_with(&format!("nothing in the sandbox listens on port {port}: ")) && said.ends_with('\n'),
        "{said}"
    );
    host.done();
}

#[test]
fn a_root_without_a_disk_has_no_changes() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let (code, message) = link.failure(1, session(SessionProgram::Tool(Tool::Changes)));
    assert_eq!((code, message.as_str()), (126, "the root has no disk of its own over an image"));
    host.done();
}
