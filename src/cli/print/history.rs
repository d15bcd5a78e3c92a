//! A transition in one line, and the latest ones beside their sandbox.

use chrono::SecondsFormat;
use sandpen::api::{Sandbox, Transition};
use sandpen_types::visible::visible;
use serde::Serialize;

use super::{CliError, json, line};

#[derive(Serialize)]
struct Inspected<'a> {
    #[serde(flatten)]
    sandbox: &'a Sandbox,
    history: &'a [Transition],
}

/// A sandbox with its latest transitions.
pub fn inspected(sandbox: &Sandbox, history: &[Transition]) -> Result<u8, CliError> {
    json(&Inspected { sandbox, history })
}

/// Prints a transition; false when nobody reads any more.
pub fn transition(transition: &Transition, as_json: bool) -> Result<bool, CliError> {
    line(transition, as_json, text)
}

/// Number, time, start, state, what and why.
fn text(step: &Transition) -> String {
    let at = step.at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let exit = match (step.exit_code, step.exit_signal) {
        (Some(code), _) => Some(format!("exit code {code}")),
        (None, Some(signal)) => Some(format!("signal {signal}")),
        (None, None) => None,
    };
    let why =
        [Some(step.event.clone()), step.failure.clone(), exit].into_iter().flatten().collect::<Vec<_>>().join(": ");
    let (state, why) = (visible(&step.state.to_string()), visible(&why).replace('\n', "\\n"));
    format!("{:>6}  {at}  start {:<4}  {state:<9}  {why}", step.seq, step.generation)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use sandpen_types::state::Status;

    use super::*;

    #[test]
    fn a_transition_is_one_line_whatever_is_in_it() {
        let step = Transition {
            seq: 12,
            generation: 3,
            event: "Faulted".into(),
            state: Status::Failed.into(),
            exit_code: Some(1),
            exit_signal: None,
            failure: Some("a\n\u{1b}[2Jb".into()),
            at: DateTime::from_timestamp_millis(1_700_000_000_123).unwrap_or_default(),
            microvm_pid: None,
            driver: None,
        };
        assert_eq!(
            text(&step),
            "    12  2023-11-14T22:13:20.123Z  start 3     FAILED     Faulted: a\\n\\u{1b}[2Jb: exit code 1"
        );
    }
}
