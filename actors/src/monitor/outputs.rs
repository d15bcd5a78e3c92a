//! The workload's output on its way to the log: attached first, complete before its end counts, closed last; and beside it
//! the end of the jobs, which are on record before that of the sandbox.

use std::time::Duration;

use actix::MailboxError;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all, try_join};
use sandpen_types::backoff::Pauses;
use sandpen_types::error_chain::error_chain;
use sandpen_types::start_step::StartStep;
use sandpen_types::state::{Event, FailureReason};
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::driver::{Vmm, VmmEvent};
use tokio::sync::mpsc;

use super::deadlines::DRAIN_LIMIT;
use super::edges::{After, Ending};
use super::life::{ExitReport, Interrupted, Life};
use crate::host::clock::process_age;
use crate::jobs::CloseJobs;
use crate::log_writer::{AttachStream, AwaitBytes, Close, LogError, StreamTotals};

/// How long the pipes may bring nothing while bytes that the guest reported are missing. They are in
/// QEMU's or libkrun's hands then, which takes microseconds; seconds mean that the guest lied.
const MISSING_BYTES_LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of one stream that can be on their way: a pipe (1 MiB, the most that an ordinary user gets) and a
/// virtio queue (256 descriptors; PID 1 writes 4 KiB each, the largest that any guest of ours has are 32 KiB), doubled.
const IN_FLIGHT_MAX: u64 = 16 << 20;

/// A microVM whose outputs go to the log.
pub(super) struct Attached {
    pub(super) events: mpsc::Receiver<VmmEvent>,
    /// Why an output does not.
    pub(super) failed: Option<String>,
    /// For how long its process runs.
    pub(super) age: Option<Duration>,
}

/// How much of the workload's output is on file.
pub(super) type Draining = BoxFuture<'static, Result<Result<StreamTotals, LogError>, MailboxError>>;

impl Life {
    pub(super) fn attach(&self, vmm: Vmm) -> BoxFuture<'static, Result<Attached, MailboxError>> {
        let (log, pid) = (self.config.log.clone(), vmm.process.pid());
        let Vmm { outputs, events, .. } = vmm;
        async move {
            let mut failed = None;
            // All before any answer: what waits in one is looked at together with what waits in the others.
            let asked: Vec<_> =
                outputs.into_iter().map(|(stream, pipe)| log.send(AttachStream { stream, pipe })).collect();
            for answer in join_all(asked).await {
                if let Err(error) = answer? {
                    failed = Some(error_chain(&error));
                }
            }
            let age = match pid {
                Some(pid) => blocking(move || process_age(pid)).await.unwrap_or(None),
                None => None,
            };
            Ok(Attached { events, failed, age })
        }
        .boxed()
    }

    /// Waits for all that the workload wrote, as the guest reports it.
    pub(super) fn drain(&self, report: ExitReport) -> Draining {
        let wanted = AwaitBytes {
            stdout: report.stdout,
            stderr: report.stderr,
            missing_max: IN_FLIGHT_MAX,
            idle_limit: MISSING_BYTES_LIMIT,
            limit: DRAIN_LIMIT,
        };
        self.config.log.send(wanted).boxed()
    }

    /// The workload's last byte is on file: its end is made durable, then the guest may power off.
    pub(super) fn on_drained(&mut self, totals: Result<StreamTotals, LogError>) -> Result<(), Interrupted> {
        let Some(report) = self.report else { return Ok(()) };
        self.mark(StartStep::OutputComplete);
        match totals {
            Ok(totals) if !totals.reaches(report.stdout, report.stderr) => tracing::warn!(
                reported_stdout = report.stdout,
                reported_stderr = report.stderr,
                ?totals,
                "the guest reported more output than ever arrived"
            ),
            Ok(_) => {}
            Err(error @ LogError::TooManyMissing { .. }) => {
                // What it says of its exit is worth no more.
                self.report = None;
                let reason = FailureReason::ProtocolBroken { message: error.to_string() };
                self.end_with(Event::Faulted(reason), Ending::Kill, None);
                return Ok(());
            }
            // The guest may power off when its bytes are on file, and nobody knows that now: whoever finds the
            // microVM again asks it anew.
            Err(error) => {
                tracing::warn!(%error, "waiting for the last output failed");
                return Err(Interrupted);
            }
        }
        self.edges.push(Event::WorkloadExited(report.exit), After::Acknowledge);
        Ok(())
    }

    /// Tries until it works: with a full disk the bytes wait in the pipes, which the waiter holds.
    pub(super) fn close_log<T: Send + 'static>(&self, end: T) -> BoxFuture<'static, Result<T, MailboxError>> {
        let (log, jobs) = (self.config.log.clone(), self.config.jobs.clone());
        let closed = async move {
            let mut failures = 0;
            loop {
                match log.send(Close).await? {
                    // All is on file in the latter case too, and the writer has ended: it has told why.
                    Ok(_) | Err(LogError::NotWrittenOut(_)) => return Ok(()),
                    Err(error) => tracing::warn!(%error, "the log cannot be completed yet"),
                }
                failures += 1;
                tokio::time::sleep(Pauses::STORAGE.after(failures)).await;
            }
        };
        async move {
            let ((), ()) = try_join(closed, jobs.send(CloseJobs)).await?;
            Ok(end)
        }
        .boxed()
    }
}
