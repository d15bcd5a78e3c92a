//! Everything that the command line writes: tables, JSON, messages. Output of sandboxes is in
//! `stream`.
//!
//! Text that a guest or another process made must not speak to the terminal: it is shown with its control
//! characters escaped, and so is whatever else a terminal gets here. A sandbox's own output goes byte for byte
//! to whatever is no terminal, and to one where it was asked for.

mod copy_progress;
mod defaults;
mod each;
mod end;
mod event;
mod files;
mod history;
mod image_progress;
mod images;
mod log;
mod login;
mod sandboxes;
mod session;
mod stats;
mod stream;
mod timings;
mod usage;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use sandpen::api::{DiskEntry, ErrorDetail, LeftoverEntry, ReconcileReply, Sandbox, VolumeEntry};
use sandpen::client::ClientError;
use sandpen::client::daemon_log::DaemonLog;
use sandpen::doctor::{CheckStatus, Report};
use sandpen_types::error_chain::error_chain;
use sandpen_types::spec::{DiskName, SandboxKey, VolumeName};
use sandpen_types::state::Status;
use sandpen_types::visible::{Charset, Returns, Visible, is_visible, visible};
use serde::Serialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

pub use each::{each, each_started};

use super::args::short_name;
use super::{CliError, stdio, terminal};
pub use copy_progress::CopyBar;
pub use defaults::defaults;
pub use end::{ended, exit_code};
pub use event::event;
pub use files::{file_event, files};
pub use history::{inspected, transition};
pub use image_progress::ImageBars;
pub use images::{asked_images, images, images_loaded, images_pruned, images_removed};
pub use log::LogPrinter;
pub use login::{logged_in, logged_out, question};
pub use sandboxes::{formatted, names, table};
pub use session::{SessionPrinter, jobs, processes, session_ended, sessions};
pub use stats::StatsPrinter;
pub use stream::{Controls, Foreground, Output};
pub use timings::Timings;
pub use usage::{asked_volumes, planned, planned_volumes, pruned, usage, usage_items};

/// Environment variable with the daemon's log filter.
const LOG_FILTER: &str = "SANDPEN_LOG";
/// Its default: actix_server tells of each of its threads at level info.
const DEFAULT_FILTER: &str = "info,actix_server=warn";

/// A message on stderr.
fn message(text: &str) {
    let line = format!("sandpen: {}\n", visible(text));
    // While a sandbox has the terminal, nobody else adds the carriage return, and the cursor is anywhere.
    let line = if terminal::is_raw() { format!("\r\n{}", line.replace('\n', "\r\n")) } else { line };
    to_stderr(&line);
}

/// Text on stderr. There is nobody to tell when that is closed.
fn to_stderr(text: &str) {
    let mut stderr = stdio::stderr();
    let text = for_terminal(text.as_bytes(), terminal::charset(&io::stderr()));
    let _ = stderr.write_all(&text);
}

/// A message that is no error; the exit code that goes with it.
pub fn note(text: &str) -> u8 {
    message(text);
    0
}

/// A sandbox was left in the middle of its output, which need not have been the end of a line.
pub fn left(text: &str) -> u8 {
    if io::stderr().is_terminal() {
        let _ = io::stderr().lock().write_all(b"\n");
    }
    note(text)
}

/// A failure: in one line, or with `debug` each cause on its own.
pub fn error(error: &CliError, debug: bool) {
    if !debug {
        return message(&error_chain(error));
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let _ = write!(text, "\n  caused by: {cause}");
        source = cause.source();
    }
    if let CliError::Client(ClientError::Api { status, error }) = error {
        let ErrorDetail { code, message, chain } = error;
        text = format!("{message}\n  code: {code} (HTTP status {status})");
        for cause in chain {
            let _ = write!(text, "\n  caused by: {cause}");
        }
    }
    message(&text);
}

/// What a terminal of this kind may get of it; the same bytes where it is none.
fn for_terminal(bytes: &[u8], charset: Option<Charset>) -> Cow<'_, [u8]> {
    let Some(charset) = charset else { return Cow::Borrowed(bytes) };
    let (mut shower, mut shown) = (Visible::new(charset, Returns::All), Vec::with_capacity(bytes.len()));
    shower.push(bytes, &mut shown);
    shower.settle(&mut shown);
    Cow::Owned(shown)
}

/// Bytes on stdout. A reader that has seen enough is no failure.
pub fn bytes(bytes: &[u8]) -> Result<u8, CliError> {
    bytes_wanted(bytes).map(|_| 0)
}

/// Bytes on stdout; false when nobody reads any more.
pub fn bytes_wanted(bytes: &[u8]) -> Result<bool, CliError> {
    let mut stdout = stdio::stdout();
    let bytes = for_terminal(bytes, terminal::charset(&io::stdout()));
    is_wanted(stdout.write_all(&bytes).and_then(|()| stdout.flush()))
}

/// Whether somebody reads on.
fn is_wanted(written: io::Result<()>) -> Result<bool, CliError> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::Output(error)),
    }
}

/// What the doctor found.
pub fn report(report: &Report) -> Result<u8, CliError> {
    let rows = report.checks.iter().map(|check| {
        let status = match check.status {
            CheckStatus::Ok => "ok",
            CheckStatus::Warn => "warn",
            CheckStatus::Fail => "FAIL",
        };
        let advice = check.advice.as_ref().filter(|advice| !check.detail.contains(advice.as_str()));
        let advice = advice.map_or_else(String::new, |advice| format!(" (do: {advice})"));
        [status.to_owned(), visible(&check.name), visible(&format!("{}{advice}", check.detail))]
    });
    let driver = report.auto.as_deref().unwrap_or("none");
    bytes(format!("{}\ndriver: {driver}; {}\n", aligned(rows), visible(&report.reason)).as_bytes())
}

/// An installed guest kernel.
pub fn kernel(version: &str, directory: &Path) -> Result<u8, CliError> {
    bytes(format!("kernel {} is installed in {}\n", visible(version), directory.display()).as_bytes())
}

/// An installed libkrunfw.
pub fn krunfw(path: &Path) -> Result<u8, CliError> {
    bytes(format!("{} is installed\n", path.display()).as_bytes())
}

/// A value as JSON, for programs and people.
pub fn json(value: &impl Serialize) -> Result<u8, CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| CliError::Output(e.into()))?;
    bytes(format!("{}\n", json_text(text)).as_bytes())
}

/// One thing of several as JSON in one line; false when nobody reads any more.
pub fn json_line(value: &impl Serialize) -> Result<bool, CliError> {
    line(value, true, |_| String::new())
}

/// One thing of several in one line, as JSON or as text; false when nobody reads any more.
fn line<T: Serialize>(value: &T, as_json: bool, text: impl FnOnce(&T) -> String) -> Result<bool, CliError> {
    let mut line = match as_json {
        true => json_text(serde_json::to_string(value).map_err(|error| CliError::Output(error.into()))?),
        false => text(value),
    };
    line.push('\n');
    bytes_wanted(line.as_bytes())
}

/// JSON with the escapes of its own for what a terminal must not get; the same text where there is none.
fn json_text(text: String) -> String {
    match terminal::charset(&io::stdout()) {
        Some(charset) => visible_json(&text, charset),
        None => text,
    }
}

fn visible_json(text: &str, charset: Charset) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Outside of strings, where an escape would be none, JSON has only these.
        if c == '\n' || is_visible(c) && (c.is_ascii() || charset == Charset::Utf8) {
            shown.push(c);
        } else {
            shown.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    shown
}

/// A sandbox that was started in the background: its name, and why it failed if it did already.
pub fn detached(sandbox: &Sandbox) -> Result<u8, CliError> {
    if sandbox.state == Status::Failed {
        return Ok(ended(sandbox, !sandbox.remove_on_end));
    }
    bytes(format!("{}\n", short_name(&sandbox.config_file, &sandbox.name)).as_bytes())
}

/// What is called by a name on the command line.
pub trait Named {
    /// The name as one would type it.
    fn shown(&self) -> String;
}

impl Named for SandboxKey {
    fn shown(&self) -> String {
        short_name(self.config.as_str(), self.name.as_str())
    }
}

impl Named for DiskName {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Named for VolumeName {
    fn shown(&self) -> String {
        self.to_string()
    }
}

/// Named volumes as a table.
pub fn volumes(volumes: &[VolumeEntry]) -> Result<u8, CliError> {
    let heading = ["NAME", "USED BY", "DIRECTORY"].map(str::to_owned);
    let rows = volumes.iter().map(|volume| {
        let users = if volume.used_by.is_empty() { "-".to_owned() } else { visible(&volume.used_by.join(", ")) };
        [volume.name.to_string(), users, visible(&volume.path.display().to_string())]
    });
    bytes(aligned(std::iter::once(heading).chain(rows)).as_bytes())
}

/// Something on a line each.
pub fn lines<'a>(lines: impl Iterator<Item = &'a str>) -> Result<u8, CliError> {
    bytes(lines.map(|line| format!("{}\n", visible(line))).collect::<String>().as_bytes())
}

/// Named disks as a table.
pub fn disks(disks: &[DiskEntry]) -> Result<u8, CliError> {
    let heading = ["NAME", "SIZE", "ON HOST", "USED BY"].map(str::to_owned);
    let mebibytes = |bytes: u64| format!("{}M", bytes.div_ceil(1 << 20));
    let rows = disks.iter().map(|disk| {
        let user = disk.used_by.as_deref().map_or_else(|| "-".to_owned(), visible);
        [disk.name.to_string(), mebibytes(disk.bytes), mebibytes(disk.used_bytes), user]
    });
    bytes(aligned(std::iter::once(heading).chain(rows)).as_bytes())
}

/// What a reconciliation found, one line each.
pub fn reconciled(reply: &ReconcileReply) -> Result<u8, CliError> {
    let adopted = reply.adopted.iter().map(|name| format!("{}: goes on\n", visible(name)));
    let resolved = reply.resolved.iter().map(|name| format!("{}: had ended\n", visible(name)));
    let leftovers = reply.leftovers.iter().map(|LeftoverEntry { kind, what, sandbox, error }| {
        let of = sandbox.as_deref().map_or_else(String::new, |name| format!(" of {}", visible(name)));
        let done =
            error.as_deref().map_or_else(|| "removed".to_owned(), |error| format!("still there: {}", visible(error)));
        format!("{kind}{of}, {}: {done}\n", visible(what))
    });
    let mut text: String = adopted.chain(resolved).chain(leftovers).collect();
    if text.is_empty() {
        text.push_str("nothing was left over\n");
    }
    bytes(text.as_bytes())
}

/// Rows with their columns aligned, two spaces between them.
fn aligned<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<_> = rows.collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let line: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A number of bytes in the largest unit of which there is one, with up to three digits.
fn amount(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    if bytes < 1000 {
        return format!("{bytes}B");
    }
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = "B";
    for next in UNITS {
        if tenths < 9995 {
            break;
        }
        tenths = (tenths + 512) / 1024;
        unit = next;
    }
    match tenths {
        0..100 => format!("{}.{}{unit}", tenths / 10, tenths % 10),
        _ => format!("{}{unit}", (tenths + 5) / 10),
    }
}

/// Sends the daemon's own messages to stderr, which may be the log that is given.
pub fn start_tracing(log: Option<DaemonLog>) {
    let filter = EnvFilter::try_from_env(LOG_FILTER).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let writer = match log {
        Some(log) => BoxMakeWriter::new(Arc::new(log)),
        None => BoxMakeWriter::new(io::stderr),
    };
    // A message that cannot be written is dropped: told of, it would panic where stderr is a full disk.
    let subscriber = tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter);
    // Fails only if there is one already, which then does the same.
    let _ = subscriber.with_writer(writer).with_ansi(io::stderr().is_terminal()).try_init();
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use sandpen_types::spec::ByteString;

    use super::sandboxes::{COMMAND_CHARS, age, command};
    use super::*;

    #[test]
    fn a_guests_words_cannot_speak_to_the_terminal() {
        let stdout = for_terminal(b"a\x1b[2J\xff\n", Some(Charset::Utf8));
        assert_eq!(&*stdout, b"a\\u{1b}[2J\\xff\n");
        assert!(matches!(for_terminal(b"\x1b", None), Cow::Borrowed(b"\x1b")));
        assert_eq!(command(&[ByteString::from("a\u{1b}]0;x\u{7}"), ByteString::from("b")], 40), "a\\u{1b}]0;x\\u{7} b");
    }

    #[test]
    fn json_for_a_terminal_is_the_same_json() {
        let value = serde_json::json!({"a": "b\n\t\u{1b}\u{7f}\u{9b}6n\u{202e}\u{e0041}日"});
        let text = serde_json::to_string_pretty(&value).unwrap();
        for charset in [Charset::Utf8, Charset::Ascii] {
            let shown = visible_json(&text, charset);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
            assert_eq!(&*for_terminal(shown.as_bytes(), Some(charset)), shown.as_bytes());
        }
    }

    #[test]
    fn columns_are_aligned_and_long_commands_cut() {
        let rows = [["A", "LONG"], ["BB", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(rows.into_iter()), "A   LONG\nBB  x\n");
        assert_eq!(command(&[ByteString::from("x".repeat(99))], COMMAND_CHARS).chars().count(), COMMAND_CHARS);
    }

    #[test]
    fn amounts_are_short() {
        let shown = [0, 999, 1000, 1024, 1536, 10 << 10, 999 << 10, 1000 << 10, 5 << 30, u64::MAX].map(amount);
        assert_eq!(shown, ["0B", "999B", "1.0K", "1.0K", "1.5K", "10K", "999K", "1.0M", "5.0G", "16384P"]);
    }

    #[test]
    fn ages_have_one_unit() {
        let now = Utc::now();
        let ago = |seconds| age(now, now - chrono::Duration::seconds(seconds));
        assert_eq!(
            [ago(-5), ago(59), ago(60), ago(7200), ago(90_000)],
            ["0s ago", "59s ago", "1m ago", "2h ago", "1d ago"]
        );
    }
}
