//! What a client asks of a channel before a program runs in it. Pure.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;

use sandpen_types::session::{SessionProgram, SessionSpec};
use sandpen_types::signal::Signal;
use sandpen_types::spec::{ByteString, TerminalSize, WorkloadUser};

use crate::wire::{Reader, WireError};

/// What runs a command, as sshd has it run by a shell.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// Most bytes of the environment of one channel.
const ENV_MAX: usize = 64 << 10;

/// What is wanted of a channel's program.
#[derive(Debug, Default)]
pub(super) struct Setup {
    env: Vec<(ByteString, ByteString)>,
    env_bytes: usize,
    terminal: Option<TerminalSize>,
}

/// What runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Program {
    Shell,
    Command(Vec<u8>),
    /// Files, which are no program's.
    Sftp,
}

fn text(bytes: &[u8]) -> ByteString {
    OsStr::from_bytes(bytes).into()
}

impl Setup {
    /// Sets a variable; whether that can be.
    pub(super) fn variable(&mut self, name: &[u8], value: &[u8]) -> bool {
        let is_name = !name.is_empty() && !name.contains(&b'=') && ![name, value].concat().contains(&0);
        let bytes = self.env_bytes.saturating_add(name.len() + value.len() + 2);
        let is_set = is_name && bytes <= ENV_MAX;
        if is_set {
            self.env_bytes = bytes;
            self.env.push((text(name), text(value)));
        }
        is_set
    }

    /// Gives it a terminal.
    pub(super) fn terminal(&mut self, reader: &mut Reader<'_>) -> Result<bool, WireError> {
        let kind = reader.bytes()?;
        self.terminal = Some(size(reader)?);
        Ok(kind.is_empty() || self.variable(b"TERM", kind))
    }

    /// The session of a program.
    pub(super) fn spec(self, program: Program, user: Option<WorkloadUser>) -> SessionSpec {
        let program = match program {
            Program::Command(command) if command.is_empty() => SessionProgram::Shell,
            Program::Shell | Program::Sftp => SessionProgram::Shell,
            Program::Command(command) => {
                SessionProgram::Command(SHELL.map(ByteString::from).into_iter().chain([text(&command)]).collect())
            }
        };
        let Self { env, terminal, .. } = self;
        SessionSpec { env, user, terminal, stdin: true, ..SessionSpec::new(program) }
    }
}

/// The size of a terminal, in characters and pixels; the usual one where the client knows none.
pub(super) fn size(reader: &mut Reader<'_>) -> Result<TerminalSize, WireError> {
    let (cols, rows, _, _) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    Ok(TerminalSize::new(small(rows), small(cols)).unwrap_or_default())
}

/// A signal by its name.
pub(super) fn signal(name: &str) -> Option<i32> {
    name.parse::<Signal>().ok().map(Signal::number)
}

/// Whether a host's name is the sandbox itself.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.is_empty() || host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Writer;

    #[test]
    fn a_command_is_run_by_a_shell_with_what_was_set() {
        let mut setup = Setup::default();
        assert!(setup.variable(b"LANG", b"C.UTF-8"));
        for (name, value) in [(&b""[..], &b"x"[..]), (b"A=B", b"x"), (b"A\0", b"x"), (b"A", b"\0")] {
            assert!(!setup.variable(name, value));
        }
        assert!(!setup.variable(b"LONG", &vec![b'x'; ENV_MAX]));
        let pty = Writer::default().bytes(b"xterm").u32(80).u32(24).u32(0).u32(0).bytes(b"").done();
        assert_eq!(setup.terminal(&mut Reader::new(&pty)), Ok(true));
        let spec = setup.spec(Program::Command(b"echo \xff".to_vec()), Some("web".parse().unwrap()));
        assert_eq!(spec.check(), Ok(()));
        let command = vec!["/bin/sh".into(), "-c".into(), text(b"echo \xff")];
        assert_eq!(spec.program, SessionProgram::Command(command));
        assert_eq!(spec.env, [("LANG".into(), "C.UTF-8".into()), ("TERM".into(), "xterm".into())]);
        assert_eq!((spec.terminal, spec.stdin), (TerminalSize::new(24, 80), true));
        let shell = Setup::default().spec(Program::Command(Vec::new()), None);
        assert_eq!(shell.program, SessionProgram::Shell);
    }

    #[test]
    fn sizes_that_cannot_be_are_the_usual_one() {
        for (cols, rows) in [(0, 0), (0, 24), (80, 0)] {
            let written = Writer::default().u32(cols).u32(rows).u32(0).u32(0).done();
            assert_eq!(size(&mut Reader::new(&written)), Ok(TerminalSize::default()));
        }
        assert_eq!(size(&mut Reader::new(&[0; 15])), Err(WireError::Short));
        assert_eq!((signal("TERM"), signal("HUP"), signal("NONE")), (Some(15), Some(1), None));
    }

    #[test]
    fn only_the_sandbox_itself_is_asked() {
        for host in ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]", ""] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["example.com", "10.0.0.1", "0.0.0.0", "localhost.example.com", "::2"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
