//! An event in one line.

use std::time::Duration;

use chrono::SecondsFormat;
use sandpen::api::EventEntry;
use sandpen_types::event::EventKind;
use sandpen_types::health::HealthStatus;
use sandpen_types::state::{SandboxState, StopCause};
use sandpen_types::visible::visible;

use super::{CliError, line, short_name};

/// Prints an event; false when nobody reads any more.
pub fn event(event: &EventEntry, json: bool) -> Result<bool, CliError> {
    line(event, json, text)
}

/// Number, time, sandbox, what, why.
fn text(event: &EventEntry) -> String {
    let at = event.at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let sandbox = match (&event.config_file, &event.name) {
        (Some(config), Some(name)) => short_name(config, name),
        _ => "-".to_owned(),
    };
    let (what, why) = match event.known_kind() {
        Some(known) => words(&known, &event.kind),
        None => (event.kind.clone(), event.detail.to_string()),
    };
    let why = visible(&why).replace('\n', "\\n");
    format!("{:>6}  {at}  {:<12}  {:<9}  {why}", event.seq, visible(&sandbox), visible(&what)).trim_end().to_owned()
}

fn words(known: &EventKind, kind: &str) -> (String, String) {
    let what = match known {
        EventKind::Transition { state, .. } => state.status().to_string(),
        _ => kind.to_owned(),
    };
    let why = match known {
        EventKind::Transition { state, generation, microvm_pid, restarts, .. } => match state {
            SandboxState::Created => String::new(),
            SandboxState::Starting if *restarts > 0 => format!("start {generation}, restart {restarts} by the policy"),
            SandboxState::Starting => format!("start {generation}"),
            SandboxState::Running => {
                microvm_pid.map_or_else(String::new, |pid| format!("the microVM is process {pid}"))
            }
            SandboxState::Stopping { cause, exit } => {
                let cause = match cause {
                    StopCause::WorkloadEnded => "the workload ended".to_owned(),
                    StopCause::Requested => "a stop was asked for".to_owned(),
                    StopCause::OrchestratorEnds => "stopped with sandpen itself".to_owned(),
                    StopCause::Killed { signal } => format!("a kill with signal {signal} was asked for"),
                    StopCause::Faulted { reason } => reason.to_string(),
                };
                exit.map_or_else(|| cause.clone(), |exit| format!("{cause}: {exit}"))
            }
            SandboxState::Stopped { exit } => exit.to_string(),
            SandboxState::Failed { reason, exit: None } => reason.to_string(),
            SandboxState::Failed { reason, exit: Some(exit) } => format!("{reason} ({exit})"),
            SandboxState::Backoff { until } => {
                format!("the next start is at {}", until.to_rfc3339_opts(SecondsFormat::Millis, true))
            }
        },
        EventKind::HealthChanged { status: HealthStatus::Starting, output, .. } => format!("starting: {output}"),
        EventKind::HealthChanged { status: HealthStatus::Healthy, .. } => "healthy".to_owned(),
        EventKind::HealthChanged { failures, output, .. } => format!("failing, {failures} in a row: {output}"),
        EventKind::VmmSuspended { pid } => format!("process {pid} does not answer: a signal has suspended it"),
        EventKind::FilesLimitMet {} => "more files at once than the limit of open files allows".to_owned(),
        EventKind::OutOfMemory { process, .. } if process.is_empty() => "the guest's kernel ended a process".to_owned(),
        EventKind::OutOfMemory { process, .. } => format!("the guest's kernel ended {process}"),
        EventKind::Renamed { from, to } => format!("{from} is {to} from now on"),
        EventKind::Removed { generation } => format!("after {generation} starts"),
        EventKind::OrchestratorStarted { pid, version } => format!("sandpen {version}, process {pid}"),
        EventKind::OrchestratorStopped { pid, sandboxes_ended: true } => format!("process {pid}, with all sandboxes"),
        EventKind::OrchestratorStopped { pid, .. } => format!("process {pid}; the microVMs run on"),
        EventKind::Reconciled { adopted, resolved, removed } => {
            format!("{adopted} taken over, {resolved} had ended, {removed} leftovers removed")
        }
        EventKind::ActorRestarted { actor, reason } => format!("{actor}: {reason}"),
        EventKind::LogFailed { message } => message.clone(),
        EventKind::LogDropped { stdout, stderr } => format!("{stdout} bytes of stdout, {stderr} of stderr"),
        EventKind::LogRecovered {} => String::new(),
        EventKind::FaultBegan { fault, message } => format!("{fault}: {message}"),
        EventKind::FaultEnded { fault, lasted_ms } => {
            format!("{fault}, after {} s", Duration::from_millis(*lasted_ms).as_secs_f64())
        }
        EventKind::ClockJumped { by_ms } => match u64::try_from(*by_ms) {
            Ok(forward) => format!("{} s forward", Duration::from_millis(forward).as_secs_f64()),
            Err(_) => format!("{} s back", Duration::from_millis(by_ms.unsigned_abs()).as_secs_f64()),
        },
    };
    (what, why)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let entry = |kind: &str, detail| EventEntry {
            seq: 12,
            at: DateTime::from_timestamp_millis(1_700_000_000_123).unwrap_or_default(),
            config_file: Some("default".into()),
            name: Some("web".into()),
            kind: kind.into(),
            detail,
        };
        let failed = json!({"transition": 3, "generation": 1, "event": "SpawnFailed", "restarts": 0, "state":
            {"status": "FAILED", "reason": {"kind": "spawn_failed", "message": "a\n\u{1b}[2Jb"}, "exit": null}});
        assert_eq!(
            text(&entry("transition", failed)),
            "    12  2023-11-14T22:13:20.123Z  web           FAILED     the microVM could not be started: a\\n\\u{1b}[2Jb"
        );
        assert_eq!(
            text(&EventEntry { name: None, ..entry("of_the_future", json!({"a": 1})) }),
            "    12  2023-11-14T22:13:20.123Z  -             of_the_future  {\"a\":1}"
        );
    }
}
