//! Sessions: what they write, how they ended, lists of them and of processes.

use std::io::{self, IsTerminal as _};

use chrono::Utc;
use sandpen::client::{SessionBytes, SessionNotice};
use sandpen_types::error_chain::error_chain;
use sandpen_types::job::JobInfo;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::process_entry::ProcessEntry;
use sandpen_types::session::{SessionEnd, SessionInfo, SessionOffsets};
use sandpen_types::signal::Signal;
use sandpen_types::visible::visible;
use tokio::sync::{mpsc, oneshot, watch};

use super::super::terminal;
use super::super::{FAILED, RUN_FAILED};
use super::sandboxes::{age, fit_last};
use super::stream::Output;
use super::{CliError, Controls, aligned, amount, bytes, message};

/// Pieces that may wait for the writer; each has at most 64 KiB.
const NOTICES: usize = 8;

/// The writing thread of a session in the foreground: whoever takes nothing holds up no signal.
pub struct SessionPrinter {
    notices: mpsc::Sender<SessionNotice>,
    written: watch::Receiver<SessionOffsets>,
    done: oneshot::Receiver<()>,
}

impl SessionPrinter {
    /// Starts it.
    pub fn start(controls: Controls) -> io::Result<Self> {
        let (notices, mut receiver) = mpsc::channel(NOTICES);
        let (tell_done, done) = oneshot::channel();
        let (tell_written, written) = watch::channel(SessionOffsets::default());
        let mut writer = Writer { output: Output::of_run(controls), closed: [false; 2] };
        std::thread::Builder::new().name("print".to_owned()).spawn(move || {
            while let Some(notice) = receiver.blocking_recv() {
                let (is_read, bytes) = writer.notice(notice);
                if let Some(bytes) = bytes {
                    tell_written.send_modify(|written| bytes.pass(written));
                }
                if !is_read {
                    // Whoever sends notices sees that nobody takes them.
                    break;
                }
            }
            // A reader that is gone, or a full disk, was told of before.
            let _ = writer.output.finish();
            // Nobody waits after a signal.
            let _ = tell_done.send(());
        })?;
        Ok(Self { notices, written, done })
    }

    /// Where notices go.
    pub fn notices(&self) -> mpsc::Sender<SessionNotice> {
        self.notices.clone()
    }

    /// How much of the output is written.
    pub fn written(&self) -> watch::Receiver<SessionOffsets> {
        self.written.clone()
    }

    /// Waits until all is written, or for a signal when a reader does not take it; how much that is.
    pub async fn finish(self, signals: &mut mpsc::Receiver<i32>) -> SessionOffsets {
        let Self { notices, written, done } = self;
        drop(notices);
        tokio::select! {
            _ = done => {}
            _ = signals.recv() => {}
        }
        *written.borrow()
    }
}

struct Writer {
    output: Output,
    /// Whether stdout and stderr can no longer be written.
    closed: [bool; 2],
}

impl Writer {
    /// Whether there is somebody left who reads, and what is done with for good.
    fn notice(&mut self, notice: SessionNotice) -> (bool, Option<SessionBytes>) {
        match notice {
            SessionNotice::Output(bytes) => {
                let (is_read, is_done) = self.write(bytes.stream, &bytes.bytes);
                return (is_read, is_done.then_some(bytes));
            }
            SessionNotice::Signal(signal) => {
                let name = Signal::new(signal).map_or_else(|_| signal.to_string(), |signal| format!("SIG{signal}"));
                message(&format!("{name} is passed on; interrupt again to end the session"));
            }
            SessionNotice::HangingUp => {
                message(
                    "the session is hung up, and killed if that does not end it; interrupt again not to wait for it",
                );
            }
            SessionNotice::InputLost(error) => {
                message(&format!("the session gets no more standard input: {}", error_chain(&error)));
            }
            SessionNotice::DaemonEnds => {
                message("the daemon ends; the session runs on, and another daemon is waited for");
            }
            SessionNotice::Reconnected => message("the daemon ended; the session goes on with a new one"),
        }
        (true, None)
    }

    /// Whether somebody reads on, and whether this is done with. When standard output's reader has seen enough
    /// (`| head`), we are done, as a filter.
    fn write(&mut self, stream: OutputStream, bytes: &[u8]) -> (bool, bool) {
        let index = usize::from(stream == OutputStream::Stderr);
        if self.closed[index] {
            return (true, true);
        }
        match self.output.piece(stream, bytes) {
            Ok(()) => (true, true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed[index] = true;
                (index != 0, index != 0)
            }
            Err(error) => {
                self.closed[index] = true;
                message(&format!("cannot write the {stream} of the session, which goes on without: {error}"));
                (true, true)
            }
        }
    }
}

/// The end of a session in the foreground: says what is not its program's doing, answers the exit code.
pub fn session_ended(end: &SessionEnd) -> u8 {
    match end {
        SessionEnd::NotStarted { message: text, .. } => message(text),
        SessionEnd::TimedOut => message("the session's time was up, and it was killed"),
        SessionEnd::Gone => message("the session ended with its microVM; nobody knows how"),
        SessionEnd::Exited(_) => {}
    }
    let code = end.shell_code().map_or(RUN_FAILED, |code| u8::try_from(code).unwrap_or(FAILED));
    if matches!(end, SessionEnd::Exited(_)) && end.shell_code().is_none() {
        message("the session's exit status is unknown");
    }
    code
}

/// Sessions as a table.
pub fn sessions(sessions: &[SessionInfo]) -> Result<u8, CliError> {
    let heading = ["SESSION", "STATE", "CLIENT", "TTY", "CREATED", "COMMAND"].map(str::to_owned);
    let now = Utc::now();
    let rows = sessions.iter().map(|session| {
        let state = session.end.as_ref().map_or_else(|| "running".to_owned(), |end| visible(&end.to_string()));
        let client = match (session.attached, session.detached) {
            (true, _) => "attached",
            (false, true) => "detached",
            (false, false) => "gone",
        };
        let tty = if session.terminal { "yes" } else { "no" };
        let label = visible(&session.label).replace('\n', "\\n");
        [session.id.to_string(), state, client.to_owned(), tty.to_owned(), age(now, session.asked_at), label]
    });
    table(std::iter::once(heading).chain(rows))
}

/// Jobs as a table.
pub fn jobs(jobs: &[JobInfo]) -> Result<u8, CliError> {
    let heading = ["JOB", "STATE", "STARTED", "ENDED", "OUTPUT", "COMMAND"].map(str::to_owned);
    let now = Utc::now();
    let rows = jobs.iter().map(|job| {
        let state = job.end.as_ref().map_or_else(|| "running".to_owned(), |end| visible(&end.to_string()));
        let ended = job.ended_at.map_or_else(|| "-".to_owned(), |at| age(now, at));
        let label = visible(&job.label).replace('\n', "\\n");
        [job.id.to_string(), state, age(now, job.asked_at), ended, amount(job.bytes), label]
    });
    table(std::iter::once(heading).chain(rows))
}

/// The processes of a sandbox as a table.
pub fn processes(processes: &[ProcessEntry]) -> Result<u8, CliError> {
    let heading = ["PID", "PPID", "USER", "CPU", "MEM", "STAT", "AGE", "COMMAND"].map(str::to_owned);
    let rows = processes.iter().map(|process| {
        [
            process.pid.to_string(),
            process.ppid.to_string(),
            visible(&process.user),
            cpu(process.cpu_ms),
            amount(process.memory),
            visible(&process.state.to_string()),
            span(process.age_ms),
            visible(&process.command).replace('\n', "\\n"),
        ]
    });
    table(std::iter::once(heading).chain(rows))
}

fn table<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> Result<u8, CliError> {
    let mut rows: Vec<_> = rows.collect();
    if let Some(size) = terminal::size().filter(|_| io::stdout().is_terminal()) {
        fit_last(&mut rows, usize::from(size.cols.get()));
    }
    bytes(aligned(rows.into_iter()).as_bytes())
}

/// Processor time as top(1) has it.
fn cpu(ms: u64) -> String {
    format!("{}:{:02}.{:02}", ms / 60_000, ms / 1000 % 60, ms / 10 % 100)
}

/// A time in its largest unit.
fn span(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!([0, 10, 61_230, 6_000_000].map(cpu), ["0:00.00", "0:00.01", "1:01.23", "100:00.00"]);
        assert_eq!([999, 60_000, 7_200_000, u64::MAX].map(span), ["0s", "1m", "2h", "213503982334d"]);
    }
}
