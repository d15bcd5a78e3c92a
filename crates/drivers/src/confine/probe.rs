//! For tests: a process that confines itself as one of a microVM's does, by the same functions, and then tries what one
//! that was taken over would.
//!
//! ```text
//!   a test: probe() ──▶ process, confined: tries the table from number N on, a line for each
//!     ├─ it was ended by what it tried: noted, and another one goes on with N + 1
//!     └─ all is tried: it waits, and is looked at from outside (/proc) ──▶ ProbeReport
//! ```
//!
//! The process is `__confine_probe N` with a [`ProbeRequest`] as standard input, which confines itself as libkrun's
//! and virtiofsd do; or `__confine PROGRAM __confine_probe N TARGETS`, which is in QEMU's place.

mod attempts;
mod outside;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use sandpen_types::error_chain::error_chain;
use serde::{Deserialize, Serialize};
use virtiofsd::seccomp::{SeccompAction, enable_seccomp};

pub use attempts::Targets;
pub use outside::Outside;

use super::{ConfineError, Policy, SystemCalls, steps};
use crate::standard_input;
use attempts::Attempt;

/// The hidden subcommand's name. The number of the first attempt follows, and [`Targets`] as JSON where it shall not
/// confine itself; else standard input is a [`ProbeRequest`].
pub const SUBCOMMAND: &str = "__confine_probe";

/// The process's lines that are no attempt's: it is confined; there is nothing left to try.
pub(crate) const CONFINED: &str = "confined";
const TRIED_ALL: &str = "tried all";
/// How often the process looks whether it is still wanted.
const WAIT: Duration = Duration::from_millis(20);

/// What to try, and as whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// How the process confines itself.
    pub policy: Policy,
    /// What it tries to reach.
    pub targets: Targets,
}

/// What came of it. The words for attempts are `done`, the name of an error, or of the signal that ended the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The attempts by their names.
    pub attempts: BTreeMap<String, String>,
    /// The process as the host sees it.
    pub outside: Outside,
}

impl ProbeReport {
    /// Whether an attempt succeeded.
    ///
    /// # Panics
    /// If there was none of this name.
    pub fn reached(&self, attempt: &str) -> bool {
        self.word(attempt) == "done"
    }

    /// Whether the kernel looked at a system call at all: it succeeded or failed for its arguments.
    ///
    /// # Panics
    /// If there was none of this name.
    pub fn answers(&self, attempt: &str) -> bool {
        !["EPERM", "EACCES", "ENOSYS", "SIGSYS"].contains(&self.word(attempt))
    }

    /// What came of an attempt.
    ///
    /// # Panics
    /// If there was none of this name.
    pub fn word(&self, attempt: &str) -> &str {
        self.attempts.get(attempt).unwrap_or_else(|| panic!("nobody tried {attempt:?}:\n{self}"))
    }
}

/// A table for people.
impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attempts.iter().try_for_each(|(name, word)| writeln!(f, "{name:<44} {word}"))?;
        self.outside.fmt(f)
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No process, or nothing to be read of it.
    #[error("speaking with the process")]
    Io(#[from] io::Error),
    /// Not understood.
    #[error("the request cannot be understood")]
    Malformed(#[from] serde_json::Error),
    /// A step failed.
    #[error("confining the process")]
    Confine(#[from] ConfineError),
    /// It ended before the first attempt.
    #[error("the process did not confine itself ({0}); its own words are on standard error")]
    NotConfined(ExitStatus),
}

/// Lets processes try everything, each from the attempt on whose number `command` gets, with `document` as standard
/// input. `names` are those of the attempts, in their order. Blocking, for seconds.
///
/// # Errors
/// [`ProbeError`].
pub fn probe(command: impl Fn(usize) -> Command, document: &[u8], names: &[String]) -> Result<ProbeReport, ProbeError> {
    let mut words = BTreeMap::new();
    loop {
        let mut child = start(command(words.len()), document)?;
        let mut lines = BufReader::new(child.stdout.take().ok_or_else(|| io::Error::other("no output"))?).lines();
        let mut confined = false;
        let mut outside = None;
        for line in lines.by_ref() {
            let line = line?;
            match line.split_once('\t') {
                Some((name, word)) => drop(words.insert(name.to_owned(), word.to_owned())),
                None if line == TRIED_ALL => {
                    outside = Some(Outside::of(child.id()));
                    break;
                }
                None => confined |= line == CONFINED,
            }
        }
        // It notices that nobody listens.
        drop(lines);
        let status = child.wait()?;
        if let Some(outside) = outside {
            return Ok(ProbeReport { attempts: words, outside });
        }
        let Some(deadly) = names.get(words.len()).filter(|_| confined) else {
            return Err(ProbeError::NotConfined(status));
        };
        words.insert(deadly.clone(), end(status));
    }
}

fn start(mut command: Command, document: &[u8]) -> io::Result<Child> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(document)?;
    }
    Ok(child)
}

/// The word for what ended the process that tried something.
fn end(status: ExitStatus) -> String {
    // Processes between tell a signal by an exit code.
    let code = status.code().map(|code| if code > 128 { 256 - code } else { code });
    match status.signal().or(code).map(nix::sys::signal::Signal::try_from) {
        Some(Ok(signal)) => signal.as_str().to_owned(),
        _ => status.to_string(),
    }
}

/// Runs the subcommand. Answers an exit code.
pub fn run(arguments: impl Iterator<Item = OsString>) -> i32 {
    match attempt_all(arguments) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("probe: {}", error_chain(&error));
            1
        }
    }
}

fn attempt_all(mut arguments: impl Iterator<Item = OsString>) -> Result<(), ProbeError> {
    let from = arguments.next().and_then(|from| from.to_str()?.parse().ok()).unwrap_or(0);
    let all = if let Some(targets) = arguments.next() {
        attempts::all(&serde_json::from_slice(targets.as_encoded_bytes())?)
    } else {
        let ProbeRequest { policy, targets } = serde_json::from_slice(&standard_input::take_document()?)?;
        let all = attempts::all(&targets);
        let begun = steps::begin(&policy)?;
        steps::enforce(&policy, begun)?;
        if policy.system_calls == SystemCalls::FileServer {
            // Its library's list of what it may do, under which all else is the end.
            enable_seccomp(SeccompAction::Kill, false).map_err(|error| io::Error::other(error.to_string()))?;
        }
        all
    };
    println!("{CONFINED}");
    for Attempt { name, run } in all.iter().skip(from) {
        let word = run().map_or_else(|errno: Errno| format!("{errno:?}"), |()| "done".to_owned());
        println!("{name}\t{word}");
    }
    wait_while_wanted();
    Ok(())
}

/// Says that all is tried, and returns when nobody listens any more: the process may be out of the reach of signals.
pub(crate) fn wait_while_wanted() {
    println!("{TRIED_ALL}");
    while writeln!(io::stdout(), ".").is_ok() {
        std::thread::park_timeout(WAIT);
    }
}

/// The names of all attempts, in their order.
pub fn names(targets: &Targets) -> Vec<String> {
    attempts::all(targets).into_iter().map(|attempt| attempt.name).collect()
}
