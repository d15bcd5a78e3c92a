//! Sessions: commands beside the workload of a running sandbox, each with streams of its own.
//!
//! ```text
//!   (asked for) ──▶ Running ──▶ Ended(SessionEnd) ──its client has taken all──▶ forgotten
//!        └── refused: there never was one
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::guest_tool::GuestTool;
use crate::output_stream::OutputStream;
use crate::spec::{ByteString, SpecError, TerminalSize, WORKLOAD_MAX_BYTES, WorkloadUser, command};
use crate::state::ExitStatus;

/// Most sessions of one sandbox, those included whose end nobody has taken yet.
pub const SESSIONS_MAX: usize = 256;
/// How long a session runs on without a client before it is hung up, unless it is detached.
pub const CLIENT_LIMIT: Duration = Duration::from_secs(30);
/// How long what is hung up may take before it is killed.
pub const HANG_UP_GRACE: Duration = Duration::from_secs(2);
/// The exit code of a session whose time was up, as that of timeout(1).
pub const TIMED_OUT_CODE: i32 = 124;
/// Longest time a session can be given: a year.
pub const TIMEOUT_MAX: Duration = Duration::from_hours(24 * 365);

/// Names one session of a sandbox. Who asks for a session makes it, at random: asked again with the same number, a sandbox
/// runs nothing twice. As text 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(u64);

impl SessionId {
    /// From a number other than 0, which means none.
    pub fn new(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.to_string()
    }
}

/// Text that is no [`SessionId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no session: they are named by 16 hexadecimal digits, not all of them 0")]
pub struct NoSessionId(String);

impl FromStr for SessionId {
    type Err = NoSessionId;

    fn from_str(text: &str) -> Result<Self, NoSessionId> {
        let is_number = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = is_number.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.and_then(Self::new).ok_or_else(|| NoSessionId(text.to_owned()))
    }
}

impl TryFrom<String> for SessionId {
    type Error = NoSessionId;

    fn try_from(text: String) -> Result<Self, NoSessionId> {
        text.parse()
    }
}

/// What a session runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionProgram {
    /// A program, looked up as the workload's is, with its arguments.
    Command(Vec<ByteString>),
    /// The login shell of its user, by the root's `/etc/passwd`; `/bin/sh` where that names none.
    Shell,
    /// A list of the sandbox's processes, see [`ProcessEntry`](crate::process_entry::ProcessEntry): one in JSON a line.
    Processes,
    /// Something that the guest does itself.
    Tool(GuestTool),
}

impl SessionProgram {
    /// Whether it can be had of a sandbox that has ended: a helper with its root and disk runs it.
    pub fn is_for_ended(&self) -> bool {
        matches!(self, Self::Tool(tool) if tool.is_for_ended())
    }
}

/// A session as it is asked for. What it does not say is as the workload of the sandbox has it: environment, user, limits,
/// working directory. `Debug` shows the names of the environment only: its values may be secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSpec {
    /// What it runs.
    pub program: SessionProgram,
    /// Set besides the workload's environment.
    pub env: Vec<(ByteString, ByteString)>,
    /// Whom it runs as.
    pub user: Option<WorkloadUser>,
    /// Where it runs.
    pub workdir: Option<ByteString>,
    /// A terminal of this size instead of pipes.
    pub terminal: Option<TerminalSize>,
    /// Whether its client feeds its standard input; if not, it reads from `/dev/null`, or a terminal on which nobody types.
    pub stdin: bool,
    /// Whether it runs on without a client.
    pub detached: bool,
    /// How long it may run before it is killed; at most [`TIMEOUT_MAX`].
    pub timeout: Option<Duration>,
}

impl SessionSpec {
    /// A session of `program` without anything special.
    pub fn new(program: SessionProgram) -> Self {
        let (env, user, workdir, terminal, timeout) = (Vec::new(), None, None, None, None);
        Self { program, env, user, workdir, terminal, stdin: false, detached: false, timeout }
    }

    /// A session of a command.
    pub fn command<S: Into<ByteString>>(command: impl IntoIterator<Item = S>) -> Self {
        Self::new(SessionProgram::Command(command.into_iter().map(Into::into).collect()))
    }

    /// Looks for what no guest could run.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), SpecError> {
        let command: &[ByteString] = match &self.program {
            SessionProgram::Command(command) if command.first().is_none_or(|name| name.as_bytes().is_empty()) => {
                return Err(SpecError::NoCommand);
            }
            SessionProgram::Command(command) => command,
            SessionProgram::Tool(tool) => tool.path().map_or(&[], std::slice::from_ref),
            SessionProgram::Shell | SessionProgram::Processes => &[],
        };
        // The kernel wants a NUL behind the working directory as well.
        let bytes = command::check(command, &self.env, self.workdir.as_ref())? + usize::from(self.workdir.is_some());
        if bytes > WORKLOAD_MAX_BYTES {
            return Err(SpecError::TooLarge { bytes, max: WORKLOAD_MAX_BYTES });
        }
        match self.timeout {
            Some(timeout) if timeout.is_zero() || timeout > TIMEOUT_MAX => Err(SpecError::SessionTimeout(timeout)),
            _ => Ok(()),
        }
    }

    /// What it runs, for lists: at most 256 bytes.
    pub fn label(&self) -> String {
        let mut label = match &self.program {
            SessionProgram::Shell => "(login shell)".to_owned(),
            SessionProgram::Processes => "(processes)".to_owned(),
            SessionProgram::Tool(tool) => format!("({tool})"),
            SessionProgram::Command(command) => {
                let words = command.iter().map(|word| String::from_utf8_lossy(word.as_bytes()));
                words.collect::<Vec<_>>().join(" ")
            }
        };
        label.truncate(label.floor_char_boundary(LABEL_MAX));
        label
    }
}

/// Most bytes of a session's [`SessionSpec::label`].
pub const LABEL_MAX: usize = 256;

impl fmt::Debug for SessionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionSpec")
            .field("program", &self.program)
            .field("env", &self.env.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("user", &self.user)
            .field("workdir", &self.workdir)
            .finish_non_exhaustive()
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionEnd {
    /// By itself or by a signal, also one of ours.
    Exited(ExitStatus),
    /// Its program was not executed.
    NotStarted {
        /// 126 (not executable) or 127 (not found).
        code: i32,
        /// What the guest says.
        message: String,
    },
    /// It was killed when its time was up.
    TimedOut,
    /// Its microVM was lost, or ended without telling how.
    Gone,
}

impl SessionEnd {
    /// What a shell would report; `None` where nobody knows.
    pub fn shell_code(&self) -> Option<i32> {
        match self {
            Self::Exited(exit) => exit.shell_code(),
            Self::NotStarted { code, .. } => Some(*code),
            Self::TimedOut => Some(TIMED_OUT_CODE),
            Self::Gone => None,
        }
    }
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(exit) => exit.fmt(f),
            Self::NotStarted { message, .. } => write!(f, "not started: {message}"),
            Self::TimedOut => f.write_str("out of time"),
            Self::Gone => f.write_str("gone with its microVM"),
        }
    }
}

/// How many bytes of each stream somebody has; a stream's bytes are counted from its session's begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOffsets {
    /// Of its standard output, or of all that its terminal shows.
    pub stdout: u64,
    /// Of its standard error.
    pub stderr: u64,
}

impl SessionOffsets {
    /// That of a stream.
    pub fn of(&mut self, stream: OutputStream) -> &mut u64 {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }
}

/// A session as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Which.
    pub id: SessionId,
    /// What it runs, at most [`LABEL_MAX`] bytes, of any content.
    pub label: String,
    /// When it was asked for.
    pub asked_at: DateTime<Utc>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether it runs on without a client.
    pub detached: bool,
    /// Whether a client has it now.
    pub attached: bool,
    /// Bytes of its standard input that it has got: a client goes on from there.
    pub stdin: u64,
    /// From where on its output can still be had.
    pub kept_from: SessionOffsets,
    /// Its end; none while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<SessionEnd>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> ByteString {
        ByteString::from(text)
    }

    #[test]
    fn a_session_is_named_by_sixteen_digits() {
        let id = SessionId::new(0x00ab_cdef_0123_4567).unwrap();
        assert_eq!(id.to_string(), "00abcdef01234567");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(serde_json::to_value(id).unwrap(), "00abcdef01234567");
        for text in [
            "",
            "0",
            "0000000000000000",
            "00ABCDEF01234567",
            "+0abcdef01234567",
            "00abcdef012345670",
            "../..aaaaaaaaaa",
        ] {
            assert!(text.parse::<SessionId>().is_err(), "{text:?}");
            assert!(serde_json::from_value::<SessionId>(text.into()).is_err(), "{text:?}");
        }
        assert_eq!(SessionId::new(0), None);
    }

    #[test]
    fn what_no_guest_could_run_is_refused() {
        let spec = || SessionSpec::command(["sh"]);
        assert_eq!(spec().check(), Ok(()));
        assert_eq!(SessionSpec::new(SessionProgram::Shell).check(), Ok(()));
        for command in [vec![], vec![text("")]] {
            assert_eq!(SessionSpec::new(SessionProgram::Command(command)).check(), Err(SpecError::NoCommand));
        }
        assert_eq!(SessionSpec::command(["a\0b"]).check(), Err(SpecError::Nul { what: "the command" }));
        let long = "x".repeat(WORKLOAD_MAX_BYTES - 4);
        assert_eq!(SessionSpec::command(["sh", &long[1..]]).check(), Ok(()));
        let too_long = SpecError::TooLarge { bytes: WORKLOAD_MAX_BYTES + 1, max: WORKLOAD_MAX_BYTES };
        assert_eq!(SessionSpec::command(["sh", &long, ""]).check(), Err(too_long));
        for name in ["", "a=b"] {
            let env = vec![(text(name), text(""))];
            assert_eq!(SessionSpec { env, ..spec() }.check(), Err(SpecError::Env(name.to_owned())), "{name:?}");
        }
        for dir in ["", "tmp", "../x"] {
            let workdir = Some(text(dir));
            assert_eq!(SessionSpec { workdir, ..spec() }.check(), Err(SpecError::Workdir(dir.to_owned())), "{dir:?}");
        }
        for timeout in [Duration::ZERO, TIMEOUT_MAX + Duration::from_nanos(1)] {
            assert_eq!(
                SessionSpec { timeout: Some(timeout), ..spec() }.check(),
                Err(SpecError::SessionTimeout(timeout))
            );
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let spec = SessionSpec { env: vec![(text("TOKEN"), text("s3cret"))], ..SessionSpec::command(["sh"]) };
        let shown = format!("{spec:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn an_end_has_the_code_that_a_shell_gives() {
        assert_eq!(SessionEnd::Exited(ExitStatus::Code(3)).shell_code(), Some(3));
        assert_eq!(SessionEnd::Exited(ExitStatus::Signal(9)).shell_code(), Some(137));
        assert_eq!(SessionEnd::TimedOut.shell_code(), Some(124));
        assert_eq!(SessionEnd::NotStarted { code: 127, message: String::new() }.shell_code(), Some(127));
        assert_eq!(SessionEnd::Gone.shell_code(), None);
    }

    #[test]
    fn a_label_is_short_and_whole_characters() {
        assert_eq!(SessionSpec::command(["echo", "ü"]).label(), "echo ü");
        let label = SessionSpec::command(["ü".repeat(300).as_str()]).label();
        assert_eq!(label.len(), LABEL_MAX);
        assert!(label.chars().all(|c| c == 'ü'));
    }
}
