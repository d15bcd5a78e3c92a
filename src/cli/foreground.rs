//! A sandbox in the foreground, as `run` and `attach` show it.

use std::io::{self, IsTerminal};
use std::time::Duration;

use sandpen::api::Sandbox;
use sandpen::client::{Beginning, Client, ClientError, ClientOptions, Foreground, ForegroundEnd, Input, OnSignal};
use sandpen_types::spec::SandboxKey;

use super::args::short_name;
use super::detach_keys::DetachKeys;
use super::print::Controls;
use super::{CliError, print, signals, stdin, terminal, typing};

/// What the shell says of a program that a closed pipe has ended (128 and SIGPIPE).
pub const UNREAD: u8 = 141;
/// Grace of the first Ctrl-C.
pub const GRACE: Duration = Duration::from_secs(10);

/// What is passed on to it.
#[derive(Debug)]
pub struct Wanted {
    /// Standard input.
    pub input: bool,
    /// The sandbox has a terminal: ours is to be like it.
    pub terminal: bool,
    /// What leaves it.
    pub keys: DetachKeys,
    /// A terminal of ours gets control characters even if the sandbox has none.
    pub raw: bool,
}

impl Wanted {
    /// Refuses input that is no terminal for a sandbox that has one.
    pub fn check(&self) -> Result<(), CliError> {
        if self.input && self.terminal && !io::stdin().is_terminal() {
            return Err(CliError::NoTerminal);
        }
        Ok(())
    }
}

/// Shows it until it has ended or is left.
pub async fn show(
    client: &Client,
    options: &ClientOptions,
    key: &SandboxKey,
    beginning: Beginning<'_>,
    wanted: Wanted,
) -> Result<Shown, CliError> {
    let name = short_name(key.config.as_str(), key.name.as_str());
    let (mut signals, hang_up) = signals::channel()?;
    // Whatever comes: the terminal is given back before the first word about it.
    let guard = terminal::Guard::new();
    let controls = if wanted.terminal { Controls::OfItsTerminal } else { Controls::of_raw(wanted.raw) };
    let printer = print::Foreground::start(format!("sandbox {name}"), controls).map_err(CliError::Thread)?;
    let is_attached = matches!(beginning, Beginning::Attach(_));
    if wanted.terminal && !wanted.input && is_attached {
        // Who only watches passes neither keys nor sizes on.
        terminal::take(false).map_err(CliError::Terminal)?;
    }
    let is_interactive = wanted.input && wanted.terminal;
    let on_signal = match is_attached {
        true => OnSignal::Detach,
        false => OnSignal::Stop { grace: GRACE, hang_up: is_interactive },
    };
    let input = match (wanted.input, wanted.terminal) {
        (true, true) => Input::Terminal(Box::new(move || typing::open(Some((wanted.keys, hang_up))))),
        // Its size is passed on even so, but only by the client that the terminal was made for.
        (false, true) if !is_attached => Input::Terminal(Box::new(|| typing::open(None))),
        (true, false) => Input::Pipe { open: Box::new(stdin::open), close: !is_attached },
        (false, _) => Input::None,
    };
    let shown = Foreground {
        client,
        options,
        key,
        beginning,
        input,
        on_signal,
        signals: &mut signals,
        notices: printer.notices(),
    };
    let result = shown.run().await;
    if !matches!(result, Ok(ForegroundEnd::GivenUp(_))) {
        printer.finish(&mut signals).await;
    }
    drop(guard);
    match result {
        Ok(ForegroundEnd::Ended(sandbox)) => Ok(Shown::Ended(Box::new(sandbox))),
        Ok(ForegroundEnd::GivenUp(Some(sandbox))) if sandbox.is_ended() => Ok(Shown::Ended(Box::new(sandbox))),
        Ok(ForegroundEnd::GivenUp(_)) => Err(CliError::GivenUp(name)),
        Ok(ForegroundEnd::Detached) => Ok(Shown::Detached(name)),
        Ok(ForegroundEnd::Unread) => Ok(Shown::Unread),
        Err(source) => {
            let out_of_sight = source.is_away() || matches!(source, ClientError::NoSuccessor(_));
            Err(if out_of_sight { CliError::OutOfSight { name, source } } else { source.into() })
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub enum Shown {
    /// It has ended, like this.
    Ended(Box<Sandbox>),
    /// It was left; what users call it.
    Detached(String),
    /// Nobody reads its output any more: this ends as a filter does.
    Unread,
}
