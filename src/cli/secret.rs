//! What is typed on the terminal and not shown there, and what comes in its place from standard input.
//!
//! A terminal without echo is given back on every way out: at the end, at an error, and at a signal, which is waited for
//! beside the line. Half of a password is no input for the shell: it is thrown away.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};

use super::{CliError, signals, stdio};

/// Most bytes of a password or a token.
const LEN_MAX: usize = 64 << 10;

/// Whether what is typed is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    On,
    Off,
}

/// Echo is off until this goes.
struct Unseen(Termios);

impl Unseen {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut settings = before.clone();
        settings.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHOE | LocalFlags::ECHOK | LocalFlags::ECHONL);
        // Who comes back after a Ctrl-Z may find echo on again.
        settings.control_chars[SpecialCharacterIndices::VSUSP as usize] = 0;
        let unseen = Self(before);
        // What was typed before the question was no answer.
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &settings)?;
        Ok(unseen)
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0);
        // The one that was typed was not shown either.
        let _ = io::stderr().write_all(b"\n");
    }
}

/// Asks for a line on the terminal.
///
/// # Errors
/// There is no terminal; nothing was typed; a signal came.
pub async fn ask(what: &str, echo: Echo) -> Result<String, CliError> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(CliError::NobodyToAsk);
    }
    let (mut signals, _) = signals::channel()?;
    let unseen = (echo == Echo::Off).then(Unseen::new).transpose().map_err(CliError::Terminal)?;
    // Behind the change, so that whoever answers a question is not seen.
    super::print::question(&format!("{what}: "));
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = tokio::select! {
        line = line => line,
        _ = signals.recv() => return Err(CliError::NothingTyped),
    };
    drop(unseen);
    // The reader cannot panic.
    let line = line.map_err(io::Error::other).and_then(|line| line).map_err(CliError::Terminal)?;
    let line = line.trim_end_matches(['\n', '\r']);
    if line.is_empty() { Err(CliError::NothingTyped) } else { Ok(line.to_owned()) }
}

/// A password from standard input: all of it, but for one end of a line.
///
/// # Errors
/// Standard input is a terminal, or has something else.
pub fn read_stdin() -> Result<String, CliError> {
    if io::stdin().is_terminal() {
        return Err(CliError::PasswordTyped);
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(LEN_MAX + 2).unwrap_or(u64::MAX);
    stdio::stdin().take(limit).read_to_end(&mut bytes).map_err(CliError::PasswordRead)?;
    let refused = |problem| Err(CliError::Password(problem));
    let Ok(text) = String::from_utf8(bytes) else { return refused("is no text in UTF-8") };
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match text {
        "" => refused("is empty"),
        text if text.len() > LEN_MAX => refused("has more than 65536 bytes"),
        text if text.contains(['\n', '\r', '\0']) => refused("has more than one line, or a zero byte"),
        text => Ok(text.to_owned()),
    }
}
