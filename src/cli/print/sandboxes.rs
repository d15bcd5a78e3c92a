//! Sandboxes as `ps` shows them.

use std::io::{self, IsTerminal as _};

use chrono::{DateTime, Utc};
use sandpen::api::Sandbox;
use sandpen_types::health::{HealthState, HealthStatus};
use sandpen_types::spec::ByteString;
use sandpen_types::state::Status;
use sandpen_types::visible::visible;
use serde::Serialize;

use super::super::CliError;
use super::super::args::short_name;
use super::super::template::Template;
use super::super::terminal;
use super::{aligned, bytes, lines};

/// Most characters of a command in the table, off a terminal.
pub(super) const COMMAND_CHARS: usize = 40;

/// The names of sandboxes, as one would type them.
pub fn names(sandboxes: &[Sandbox]) -> Result<u8, CliError> {
    let names: Vec<_> = sandboxes.iter().map(|sandbox| short_name(&sandbox.config_file, &sandbox.name)).collect();
    lines(names.iter().map(String::as_str))
}

/// Things by a template, a line each.
pub fn formatted(all: &[impl Serialize], template: &Template) -> Result<u8, CliError> {
    let mut text = String::new();
    for one in all {
        let object = serde_json::to_value(one).map_err(|error| CliError::Output(error.into()))?;
        text.push_str(&template.apply(&object));
        text.push('\n');
    }
    bytes(text.as_bytes())
}

/// Sandboxes as a table.
pub fn table(sandboxes: &[Sandbox]) -> Result<u8, CliError> {
    let heading = ["NAME", "STATE", "EXIT", "DRIVER", "PID", "RESTARTS", "CREATED", "COMMAND"].map(str::to_owned);
    let now = Utc::now();
    // A terminal takes what has room beside the other columns.
    let columns = terminal::size().filter(|_| io::stdout().is_terminal()).map(|size| usize::from(size.cols.get()));
    let most = columns.unwrap_or(COMMAND_CHARS);
    let rows = sandboxes.iter().map(|sandbox| {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        [
            short_name(&sandbox.config_file, &sandbox.name),
            state(sandbox, now),
            or_dash(sandbox.shell_code().map(|code| code.to_string())),
            or_dash(sandbox.driver.as_deref().map(visible)),
            or_dash(sandbox.microvm_pid.map(|pid| pid.to_string())),
            sandbox.restarts.to_string(),
            age(now, sandbox.created_at),
            if sandbox.idle { "(idle)".to_owned() } else { command(&sandbox.command, most) },
        ]
    });
    let mut rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    if let Some(columns) = columns {
        fit_last(&mut rows, columns);
    }
    bytes(aligned(rows.into_iter()).as_bytes())
}

/// The state's word, in BACKOFF with the time to the next start, with a health check what that says.
pub(super) fn state(sandbox: &Sandbox, now: DateTime<Utc>) -> String {
    let health = sandbox.health.as_ref().filter(|_| sandbox.state == Status::Running);
    if let Some(HealthState { status, failures, .. }) = health {
        return match status {
            HealthStatus::Starting => format!("{} (starting)", sandbox.state),
            HealthStatus::Healthy => format!("{} (healthy)", sandbox.state),
            HealthStatus::Failing => format!("{} (failing, {failures} in a row)", sandbox.state),
        };
    }
    match sandbox.restart_at {
        Some(at) => format!("{} (next in {}s)", sandbox.state, (at - now).num_seconds().max(0)),
        None => sandbox.state.to_string(),
    }
}

/// Cuts the last column so that no line is longer than `columns`, as far as the others leave room.
pub(super) fn fit_last<const N: usize>(rows: &mut [[String; N]], columns: usize) {
    /// What is left of it in any case.
    const LEAST: usize = 12;
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let others: usize = (0..N - 1).map(|column| width(column) + 2).sum();
    let room = columns.saturating_sub(others).max(LEAST);
    for row in rows {
        if let Some((at, _)) = row[N - 1].char_indices().nth(room) {
            let kept = row[N - 1].char_indices().nth(room - 1).map_or(at, |(at, _)| at);
            row[N - 1].replace_range(kept.., "…");
        }
    }
}

/// How long ago, in its largest unit.
pub(super) fn age(now: DateTime<Utc>, then: DateTime<Utc>) -> String {
    // A clock that was set back makes it negative.
    let seconds = (now - then).num_seconds().max(0);
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86400),
    }
}

/// A command in one line of at most `most` characters.
pub(super) fn command(parts: &[ByteString], most: usize) -> String {
    let parts: Vec<_> = parts.iter().map(|part| String::from_utf8_lossy(part.as_bytes())).collect();
    let text = visible(&parts.join(" ")).replace('\n', "\\n");
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
