//! A session in the foreground, as `exec`, `shell` and `attach --session` show it.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use sandpen::client::{ClientError, Input, OnSessionSignal, SessionClient, SessionForeground, SessionForegroundEnd};
use sandpen_types::session::SessionSpec;
use sandpen_types::spec::ByteString;

use super::detach_keys::DetachKeys;
use super::foreground::UNREAD;
use super::print::{Controls, SessionPrinter};
use super::{CliError, print, signals, stdin, terminal, typing};

/// How long the daemon may take to hear that a session's end is had; without it the session is forgotten later.
const FORGET_LIMIT: Duration = Duration::from_secs(5);

/// What is passed on to it, and what of it.
#[derive(Debug)]
pub struct Wanted {
    /// What users call its sandbox.
    pub name: String,
    /// Standard input.
    pub input: bool,
    /// It was begun for this: its input ends with ours, and signals are its own.
    pub is_begun: bool,
    /// What leaves it.
    pub keys: DetachKeys,
    /// A terminal of ours gets control characters even if the session has none.
    pub raw: bool,
}

/// Refuses input that is no terminal for a session that has one.
pub fn check_input(input: bool, is_terminal: bool) -> Result<(), CliError> {
    if input && is_terminal && !io::stdin().is_terminal() { Err(CliError::NoTerminal) } else { Ok(()) }
}

/// Gives it a terminal like this one.
pub fn on_this_terminal(spec: &mut SessionSpec) {
    spec.terminal = Some(terminal::size().unwrap_or_default());
    // Programs have to know whom they write to, unless the user knows better.
    let name = ByteString::from("TERM");
    if let Some(value) = std::env::var_os("TERM").filter(|value| !value.is_empty())
        && spec.env.iter().all(|(other, _)| *other != name)
    {
        spec.env.push((name, value.into()));
    }
}

/// Shows it until it has ended or is left; the exit code.
pub async fn show(mut session: SessionClient, wanted: Wanted) -> Result<u8, CliError> {
    let (id, is_terminal) = (session.id(), session.info().terminal);
    let (mut signals, hang_up) = signals::numbered()?;
    // Whatever comes: the terminal is given back before the first word about it.
    let guard = terminal::Guard::new();
    let controls = if is_terminal { Controls::OfItsTerminal } else { Controls::of_raw(wanted.raw) };
    let printer = SessionPrinter::start(controls).map_err(CliError::Thread)?;
    let is_begun = wanted.is_begun;
    let input = match (wanted.input, is_terminal) {
        (true, true) => Input::Terminal(Box::new(move || typing::open(Some((wanted.keys, hang_up))))),
        // Its size is passed on even so, but only by the client that the terminal was made for.
        (false, true) if is_begun => Input::Terminal(Box::new(|| typing::open(None))),
        (true, false) => Input::Pipe { open: Box::new(stdin::open), close: is_begun },
        (false, is_terminal) => {
            if is_terminal {
                terminal::take(false).map_err(CliError::Terminal)?;
            }
            Input::None
        }
    };
    let foreground = SessionForeground {
        session: &mut session,
        input,
        on_signal: if is_begun { OnSessionSignal::Forward } else { OnSessionSignal::Leave },
        signals: &mut signals,
        notices: printer.notices(),
        written: printer.written(),
    };
    let result = foreground.run().await;
    let written = if matches!(result, Ok(SessionForegroundEnd::GivenUp)) {
        printer.written().borrow().to_owned()
    } else {
        printer.finish(&mut signals).await
    };
    session.taken(written);
    drop(guard);
    let name = &wanted.name;
    match result {
        Ok(SessionForegroundEnd::Ended(end)) => {
            // A daemon that does not hear it keeps what it need not, for a while.
            let _ = tokio::time::timeout(FORGET_LIMIT, session.forget()).await;
            Ok(print::session_ended(&end))
        }
        Ok(SessionForegroundEnd::Left) => {
            session.detach().await?;
            Ok(print::left(&format!(
                "left session {id} of sandbox {name}, which runs on; `sandpen attach --session {id} {name}` comes back"
            )))
        }
        Ok(SessionForegroundEnd::GivenUp) => Err(CliError::SessionGivenUp { id, name: wanted.name }),
        Ok(SessionForegroundEnd::Unread) => {
            if is_begun {
                // It was for this output alone.
                session.hang_up_now().await?;
            } else {
                session.detach().await?;
            }
            Ok(UNREAD)
        }
        Err(source) => {
            let is_out_of_sight = source.is_away() || matches!(source, ClientError::NoSuccessor(_));
            Err(match is_out_of_sight {
                true => CliError::SessionOutOfSight { id, name: wanted.name, source },
                false => source.into(),
            })
        }
    }
}
