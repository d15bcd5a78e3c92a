//! The process that becomes a VMM which is a program of its own, behind a hidden subcommand: it
//! confines itself and executes that program.
//!
//! ```text
//!   policy from fd 0, fd 0 := /dev/null, or as an argument ─▶ limits ─▶ files that it gets opened ─▶ jail ─▶ all other steps ─▶ execve
//! ```

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use sandpen_types::error_chain::error_chain;

use super::steps::{self, ConfineError};
use super::{POLICY, Policy};
use crate::standard_input;

/// The hidden subcommand's name. The program and its arguments follow it.
pub const SUBCOMMAND: &str = "__confine";

/// Why the program does not run.
#[derive(Debug, thiserror::Error)]
enum HelperError {
    #[error("usage: {SUBCOMMAND} [{POLICY} JSON] PROGRAM [ARGUMENT…], else with a policy as standard input")]
    Usage,
    #[error("reading the policy from standard input, which only sandpen itself writes")]
    Policy(#[source] std::io::Error),
    #[error("the policy on standard input cannot be understood")]
    Malformed(#[from] serde_json::Error),
    #[error("confining the process")]
    Confine(#[from] ConfineError),
    #[error("executing {program:?}")]
    Execute {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Runs the subcommand; answers an exit code only if the program was not executed. `arguments` are
/// those after its name. Must be called while the process has one thread.
pub fn run(arguments: impl Iterator<Item = OsString>) -> i32 {
    match become_program(arguments) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("confine: {}", error_chain(&error));
            1
        }
    }
}

fn become_program(mut arguments: impl Iterator<Item = OsString>) -> Result<Infallible, HelperError> {
    let first = arguments.next().ok_or(HelperError::Usage)?;
    let (policy, program) = if first == POLICY {
        let json = arguments.next().ok_or(HelperError::Usage)?;
        (serde_json::from_slice(json.as_encoded_bytes())?, arguments.next().ok_or(HelperError::Usage)?)
    } else {
        (read_policy()?, first)
    };
    let program = PathBuf::from(program);
    let begun = steps::begin(&policy)?;
    steps::enforce(&policy, begun)?;
    let source = Command::new(&program).args(arguments).exec();
    Err(HelperError::Execute { program, source })
}

fn read_policy() -> Result<Policy, HelperError> {
    Ok(serde_json::from_slice(&standard_input::take_document().map_err(HelperError::Policy)?)?)
}
