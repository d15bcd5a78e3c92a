//! Sessions as people ask for them and as guests know them: one translated into the other.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sandpen_guest::protocol::session::{
    RunSession, SessionEnd as GuestEnd, SessionNotes, SessionProgram as GuestProgram, SessionRefusal, SessionReport,
    SessionStart, SessionStream, Tool,
};
use sandpen_guest::protocol::{Bytes, TerminalSize, WorkloadEnd, cut_message};
use sandpen_types::guest_tool::GuestTool;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{SESSIONS_MAX, SessionEnd, SessionProgram, SessionSpec};
use sandpen_types::spec::{ByteString, TerminalSize as SpecTerminalSize};
use sandpen_types::state::ExitStatus;
use sandpen_vmm::sessions::SessionError;

use super::broken::Broken;

/// A session to be opened.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// The encoded [`SessionStart`]; may hold secrets.
    pub(super) start: Vec<u8>,
    pub(super) label: String,
    pub(super) at: DateTime<Utc>,
    pub(super) terminal: bool,
    pub(super) stdin: bool,
    pub(super) detached: bool,
}

impl Asked {
    /// # Errors
    /// [`SessionError::Spec`], or that it cannot be encoded.
    pub(super) fn new(spec: &SessionSpec, at: DateTime<Utc>) -> Result<Self, SessionError> {
        spec.check()?;
        let bytes = |text: &ByteString| Bytes::from(text.as_bytes());
        let label = spec.label();
        let since = at.signed_duration_since(DateTime::UNIX_EPOCH).to_std().unwrap_or_default();
        let start = SessionStart::Run(RunSession {
            program: match &spec.program {
                SessionProgram::Command(command) => GuestProgram::Command(command.iter().map(bytes).collect()),
                SessionProgram::Shell => GuestProgram::Shell,
                SessionProgram::Processes => GuestProgram::Processes,
                SessionProgram::Tool(tool) => GuestProgram::Tool(guest_tool(tool)),
            },
            env: spec.env.iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
            user: spec.user.as_ref().map(|user| user.as_str().to_owned()),
            workdir: spec.workdir.as_ref().map(bytes),
            terminal: spec.terminal.map(terminal_size),
            stdin: spec.stdin,
            limit: spec.timeout,
            notes: SessionNotes { label: label.clone(), asked_at: since, detached: spec.detached },
        });
        let start = postcard::to_stdvec(&start)
            .map_err(|error| SessionError::Unreachable(format!("encoding what is asked for: {error}")))?;
        let (terminal, stdin, detached) = (spec.terminal.is_some(), spec.stdin, spec.detached);
        Ok(Self { start, label, at, terminal, stdin, detached })
    }
}

/// A tool in the guest's words.
fn guest_tool(tool: &GuestTool) -> Tool {
    match tool {
        GuestTool::Connect { port } => Tool::Connect { port: *port },
        GuestTool::Changes => Tool::Changes,
        GuestTool::Files => Tool::Files,
        GuestTool::Watch { path, recursive } => {
            Tool::Watch { path: Bytes::from(path.as_bytes()), recursive: *recursive }
        }
        GuestTool::Pack { path, follow, archive } => {
            Tool::Pack { path: Bytes::from(path.as_bytes()), follow: *follow, archive: *archive }
        }
        GuestTool::Unpack { path, directory, archive } => {
            Tool::Unpack { path: Bytes::from(path.as_bytes()), directory: *directory, archive: *archive }
        }
    }
}

/// A terminal's size in the guest's words.
pub(super) fn terminal_size(size: SpecTerminalSize) -> TerminalSize {
    TerminalSize { rows: size.rows.get(), cols: size.cols.get() }
}

/// A stream of output in people's words.
pub(super) fn output(stream: SessionStream) -> Option<OutputStream> {
    match stream {
        SessionStream::Stdout => Some(OutputStream::Stdout),
        SessionStream::Stderr => Some(OutputStream::Stderr),
        SessionStream::Stdin | SessionStream::Spec => None,
    }
}

/// And in the guest's.
pub(super) fn session_stream(stream: OutputStream) -> SessionStream {
    match stream {
        OutputStream::Stdout => SessionStream::Stdout,
        OutputStream::Stderr => SessionStream::Stderr,
    }
}

/// How a session ended, as a guest says.
pub(super) fn end(end: GuestEnd) -> Result<SessionEnd, Broken> {
    match end {
        GuestEnd::Exited(WorkloadEnd::Code(code)) => Ok(SessionEnd::Exited(ExitStatus::Code(code.into()))),
        GuestEnd::Exited(WorkloadEnd::Signal(signal @ 1..=64)) => {
            Ok(SessionEnd::Exited(ExitStatus::Signal(signal.into())))
        }
        GuestEnd::Exited(WorkloadEnd::Signal(signal)) => Err(Broken::Signal(signal)),
        GuestEnd::NotStarted(failure) => {
            let (code, message) = (failure.code.code(), cut_message(clean(&failure.message)));
            Ok(SessionEnd::NotStarted { code, message })
        }
        GuestEnd::TimedOut => Ok(SessionEnd::TimedOut),
    }
}

/// Why there is no session, as a guest says.
pub(super) fn refusal(refusal: SessionRefusal) -> SessionError {
    match refusal {
        SessionRefusal::TooMany => SessionError::TooMany { max: SESSIONS_MAX },
        SessionRefusal::NotRunning | SessionRefusal::Closing => SessionError::NotRunning,
        SessionRefusal::Malformed => {
            SessionError::Unreachable("it does not understand what is asked for; start the sandbox again".to_owned())
        }
    }
}

/// When a session was asked for, as a guest keeps it: any number.
pub(super) fn moment(since: Duration) -> DateTime<Utc> {
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    DateTime::from_timestamp(seconds, since.subsec_nanos()).unwrap_or(DateTime::UNIX_EPOCH)
}

/// A guest's words as they may be shown: no control characters.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A report's name.
pub(super) fn name(report: &SessionReport) -> &'static str {
    match report {
        SessionReport::Resumed { .. } => "Resumed",
        SessionReport::State(_) => "State",
        SessionReport::Refused(_) => "Refused",
        SessionReport::Started => "Started",
        SessionReport::InputWindow { .. } => "InputWindow",
        SessionReport::InputClosed => "InputClosed",
        SessionReport::StreamEnded { .. } => "StreamEnded",
        SessionReport::Ended(_) => "Ended",
        SessionReport::Closing => "Closing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest of before is told a tool that came later, and does not know it.
    #[test]
    fn what_an_older_guest_does_not_understand_is_said_with_what_to_do() {
        let error = refusal(SessionRefusal::Malformed);
        assert!(error.to_string().contains("start the sandbox again"), "{error}");
    }

    #[test]
    fn a_tool_is_the_same_in_both_words() {
        let path = ByteString::from("/a\n");
        let watch = guest_tool(&GuestTool::Watch { path, recursive: true });
        assert_eq!(watch, Tool::Watch { path: Bytes::from(&b"/a\n"[..]), recursive: true });
        assert_eq!(guest_tool(&GuestTool::Files), Tool::Files);
    }
}
