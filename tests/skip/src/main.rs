//! The list of skips for scripts: `clear` empties it, `report` prints it and fails where one was not
//! allowed, `skip WHO REASON DETAIL` adds to it and fails where that is not allowed.

use std::process::ExitCode;

use sandpen_skip::{Reason, Skips};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let skips = Skips::from_env();
    let done = match arguments[..] {
        ["clear"] => skips.clear().map(|()| true),
        ["report"] => skips.report().map(|(text, allowed)| {
            print!("{text}");
            allowed
        }),
        ["skip", who, reason, detail] => match Reason::named(reason) {
            Some(reason) => skips.note(who, reason, &detail),
            None => Err(std::io::Error::other(format!("{reason:?} is no reason"))),
        },
        _ => Err(std::io::Error::other("clear, report or skip WHO REASON DETAIL")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sandpen-skip: {}: {error}", skips.list().display());
            ExitCode::from(2)
        }
    }
}
