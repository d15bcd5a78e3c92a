//! Sessions on the wire.

use std::num::NonZeroU16;

use sandpen_types::guest_tool::GuestTool;
use sandpen_types::session::{SessionEnd, SessionId, SessionInfo, SessionOffsets, SessionProgram, SessionSpec};

use super::*;
use crate::session::{OpenSession, SessionNews, SessionPiece, SessionSignal, SessionStream, SessionWish};

/// The values are the lines.
macro_rules! golden {
    ($file:literal, $values:expr) => {
        golden($file, include_str!($file), $values)
    };
}

fn id() -> SessionId {
    SessionId::new(0x0123_4567_89ab_cdef).unwrap()
}

fn info(end: Option<SessionEnd>) -> SessionInfo {
    SessionInfo {
        id: id(),
        label: "sh -c ü\u{1b}".into(),
        asked_at: at(0),
        terminal: false,
        detached: true,
        attached: end.is_none(),
        stdin: 7,
        kept_from: SessionOffsets { stdout: 8, stderr: 9 },
        end,
    }
}

fn ends() -> [SessionEnd; 6] {
    [
        SessionEnd::Exited(ExitStatus::Code(3)),
        SessionEnd::Exited(ExitStatus::Signal(9)),
        SessionEnd::Exited(ExitStatus::Unknown),
        SessionEnd::NotStarted { code: 127, message: "why\nnot".into() },
        SessionEnd::TimedOut,
        SessionEnd::Gone,
    ]
}

#[test]
fn sessions_that_are_asked_for() {
    let odd = ByteString::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(vec![0xff, b'a']));
    let full = SessionSpec {
        program: SessionProgram::Command(vec!["sh".into(), odd.clone()]),
        env: vec![("ODD".into(), odd.clone())],
        user: Some("web:logs".parse().unwrap()),
        workdir: Some("/srv".into()),
        terminal: TerminalSize::new(24, 80),
        stdin: true,
        detached: true,
        timeout: Some(Duration::from_millis(1500)),
    };
    let specs = [
        SessionSpec::command(["true"]),
        SessionSpec::new(SessionProgram::Shell),
        SessionSpec::new(SessionProgram::Processes),
        SessionSpec::new(SessionProgram::Tool(GuestTool::Connect { port: NonZeroU16::MIN })),
        SessionSpec::new(SessionProgram::Tool(GuestTool::Changes)),
        SessionSpec::new(SessionProgram::Tool(GuestTool::Files)),
        SessionSpec::new(SessionProgram::Tool(GuestTool::Watch { path: "/srv".into(), recursive: true })),
        SessionSpec::new(SessionProgram::Tool(GuestTool::Pack { path: odd.clone(), follow: true, archive: false })),
        SessionSpec::new(SessionProgram::Tool(GuestTool::Unpack {
            path: "/a".into(),
            directory: true,
            archive: false,
        })),
        full,
    ];
    golden!("session_open.jsonl", &specs.map(|spec| OpenSession::new(id(), spec)));
    golden!("session_signal.jsonl", &[SessionSignal { signal: 15 }]);
    let infos: Vec<_> = [None].into_iter().chain(ends().map(Some)).map(info).collect();
    golden!("session_info.jsonl", &infos);
}

#[test]
fn what_goes_through_a_sessions_socket() {
    let mut news = vec![
        SessionNews::Info(info(None)),
        SessionNews::InputWindow { received: 1, limit: u64::MAX },
        SessionNews::InputClosed {},
        SessionNews::StreamEnded { stream: OutputStream::Stderr, total: 7 },
        SessionNews::Replaced {},
        SessionNews::Error { code: ErrorCode::SessionNotKept.into(), message: "m".into() },
    ];
    news.extend(ends().map(|end| SessionNews::Ended { end }));
    golden!("session_news.jsonl", &news);
    let wishes = [
        SessionWish::Taken { stdout: 1, stderr: u64::MAX },
        SessionWish::EndInput { total: 7 },
        SessionWish::Resize(TerminalSize::new(24, 80).unwrap()),
        SessionWish::Signal(SessionSignal { signal: 2 }),
        SessionWish::HangUp {},
        SessionWish::Detach {},
        SessionWish::TakenEnd {},
    ];
    golden!("session_wishes.jsonl", &wishes);
    let streams = [
        SessionStream::Stdin,
        SessionStream::Output(OutputStream::Stdout),
        SessionStream::Output(OutputStream::Stderr),
    ];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let pieces = streams.into_iter().flat_map(|stream| SessionPiece::encode(stream, 258, b"ab\n"));
    let lines: String = pieces.map(|piece| hex(&piece) + "\n").collect();
    assert_eq!(lines, include_str!("session_pieces.hex"));
}
