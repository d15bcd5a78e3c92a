//! Which message of a guest is allowed when, and what it means: pure, no I/O, no clock.
//!
//! ```text
//!   launched ──▶ Booting ──Ready──▶ Starting ──Started──▶ Running ──Exit──▶ Ended
//!                                      └───────NotStarted──────────────────▶ │
//!   restored ─────────────────────▶ Starting
//!   adopting ──▶ Adopting ──our Status──▶ Starting, Running or Ended         │
//!                  ↻ whatever an earlier daemon had asked for                ▼
//!                                                       Faulted from anywhere, nothing after
//! ```

use std::time::Duration;

use sandpen_guest::protocol::{
    ExitReport, GuestMessage, GuestState, HostMessage, PROBE_OUTPUT_MAX, PROTOCOL_VERSION, ProbeEnd, StartFailure,
    Usage, WorkloadEnd, cut_message,
};
use sandpen_types::state::{ExitStatus, FailureReason};
use sandpen_vmm::driver::{ProbeOutcome, ProbeStatus, VmmEvent};

use super::broken;

/// Messages from before that may still lie in the pipe when a guest is adopted: each message once,
/// and answers to an earlier daemon's queries.
const LEFTOVERS: u32 = 64;

/// How far a guest is, as far as it told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    phase: Phase,
    /// Our query, in an adopted guest.
    nonce: Option<u64>,
    /// Queries that were sent and not answered.
    unanswered: u32,
    /// Whether an adopted guest that waits for its start message can have it.
    can_start: bool,
    /// How often it may still say how much it understands.
    announcements: u32,
    /// Whether it has said so.
    files_limit_met: bool,
    out_of_memory: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Booting,
    Starting,
    Running,
    Ended,
    Adopting { leftovers: u32 },
}

/// What to do because of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    SendStart,
    Tell(VmmEvent),
    /// It knows the first so many variants of [`HostMessage`].
    Understands(u32),
    /// How it is; whether somebody asked for it is yet to be seen.
    Usage {
        nonce: u64,
        usage: Usage,
    },
    /// A command beside the workload ended; whether somebody asked for it is yet to be seen.
    ProbeEnded {
        id: u64,
        outcome: ProbeOutcome,
    },
}

/// Most characters of a process's name: the kernel keeps 15 bytes (`TASK_COMM_LEN`).
const PROCESS_NAME_MAX: usize = 15;

impl Progress {
    /// A guest that boots.
    pub(super) fn launched() -> Self {
        Self {
            phase: Phase::Booting,
            nonce: None,
            unanswered: 0,
            can_start: true,
            announcements: 1,
            files_limit_met: false,
            out_of_memory: false,
        }
    }

    /// A guest that has said [`GuestMessage::Ready`] before it was saved, and waits since.
    pub(super) fn restored() -> Self {
        Self { phase: Phase::Starting, ..Self::launched() }
    }

    /// Whether the start message is to be sent before anything is heard. To be asked once, at first.
    pub(super) fn starts_at_once(&self) -> bool {
        self.phase == Phase::Starting
    }

    /// A guest that somebody else started; `can_start` where its start message was kept.
    pub(super) fn adopting(nonce: u64, can_start: bool) -> Self {
        let phase = Phase::Adopting { leftovers: LEFTOVERS };
        // What an earlier daemon's queries made it say may still come, and once more for each of ours.
        Self { phase, nonce: Some(nonce), can_start, announcements: LEFTOVERS, ..Self::launched() }
    }

    /// Whether the guest owes an answer.
    pub(super) fn awaits_guest(&self) -> bool {
        !matches!(self.phase, Phase::Running | Phase::Ended)
    }

    /// Whether the workload runs.
    pub(super) fn runs(&self) -> bool {
        self.phase == Phase::Running
    }

    /// The query to send now, if one is needed.
    pub(super) fn query(&mut self) -> Option<HostMessage> {
        let (Phase::Adopting { .. }, Some(nonce)) = (self.phase, self.nonce) else { return None };
        self.unanswered = self.unanswered.saturating_add(1);
        self.announcements = self.announcements.saturating_add(1);
        Some(HostMessage::Query { nonce })
    }

    /// Why a guest that did not answer within `limit` is given up.
    pub(super) fn timed_out(&self, limit: Duration) -> FailureReason {
        match self.phase {
            Phase::Adopting { .. } => broken(format!(
                "it did not answer a query within {} s after the daemon was started again",
                limit.as_secs()
            )),
            _ => FailureReason::BootTimedOut { limit },
        }
    }

    /// Takes a message.
    ///
    /// # Errors
    /// Why the link is over.
    pub(super) fn take(&mut self, message: GuestMessage) -> Result<Vec<Step>, FailureReason> {
        match (self.phase, message) {
            (_, GuestMessage::Faulted { message }) => {
                Err(FailureReason::Internal { message: format!("in the guest: {}", clean(&message)) })
            }
            // Whenever it says so: with `Ready`, of which a restored guest's may come late, or before an answer.
            (_, GuestMessage::Understands { messages }) if self.announcements > 0 => {
                self.announcements -= 1;
                Ok(vec![Step::Understands(messages)])
            }
            // Queries that were sent again and are all answered: the first answer counted.
            (_, GuestMessage::Status { nonce, state }) if self.nonce == Some(nonce) && self.unanswered > 0 => {
                self.unanswered -= 1;
                match self.phase {
                    Phase::Adopting { .. } => self.adopt(state),
                    _ => Ok(Vec::new()),
                }
            }
            (Phase::Adopting { leftovers: 0 }, _) => Err(broken("it floods its control port".to_owned())),
            // The status that is still to come says all of this again.
            (Phase::Adopting { leftovers }, _) => {
                self.phase = Phase::Adopting { leftovers: leftovers - 1 };
                Ok(Vec::new())
            }
            (Phase::Booting, GuestMessage::Ready { version: PROTOCOL_VERSION }) => {
                self.phase = Phase::Starting;
                Ok(vec![Step::SendStart])
            }
            (Phase::Booting, GuestMessage::Ready { version }) => {
                Err(broken(format!("it speaks version {version}, this daemon version {PROTOCOL_VERSION}")))
            }
            (Phase::Starting, GuestMessage::Started) => Ok(self.started()),
            (Phase::Starting, GuestMessage::NotStarted(failure)) => Ok(self.not_started(&failure)),
            (Phase::Running, GuestMessage::Exit(report)) => self.exited(report),
            (Phase::Running, GuestMessage::ProbeEnded { id, end, output }) => {
                Ok(vec![Step::ProbeEnded { id, outcome: outcome(end, &output)? }])
            }
            // The answer to a question that was under way may come behind the end, and before a restored guest's start.
            (Phase::Starting | Phase::Running | Phase::Ended, GuestMessage::Usage { nonce, usage }) => {
                Ok(vec![Step::Usage { nonce, usage }])
            }
            // A guest says so once, or could fill the events of all.
            (Phase::Running, GuestMessage::FilesLimitMet) if !self.files_limit_met => {
                self.files_limit_met = true;
                Ok(vec![Step::Tell(VmmEvent::FilesLimitMet)])
            }
            (Phase::Running, GuestMessage::OutOfMemory { process }) if !self.out_of_memory => {
                self.out_of_memory = true;
                let process = clean(&process).chars().take(PROCESS_NAME_MAX).collect();
                Ok(vec![Step::Tell(VmmEvent::OutOfMemory { process })])
            }
            (phase, message) => Err(broken(format!("{} where it is {phase:?}", name(&message)))),
        }
    }

    fn adopt(&mut self, state: GuestState) -> Result<Vec<Step>, FailureReason> {
        match state {
            // The message before our query would have been taken first, so it was never sent.
            GuestState::AwaitingStart if self.can_start => {
                self.phase = Phase::Starting;
                Ok(vec![Step::SendStart])
            }
            GuestState::AwaitingStart => Err(FailureReason::Internal {
                message: "the guest never got its start message: the daemon ended before it was sent".to_owned(),
            }),
            GuestState::Running => Ok(self.started()),
            GuestState::NotStarted(failure) => Ok(self.not_started(&failure)),
            GuestState::Ended(report) => {
                let mut steps = self.started();
                steps.extend(self.exited(report)?);
                Ok(steps)
            }
        }
    }

    fn started(&mut self) -> Vec<Step> {
        self.phase = Phase::Running;
        vec![Step::Tell(VmmEvent::WorkloadStarted)]
    }

    fn not_started(&mut self, failure: &StartFailure) -> Vec<Step> {
        self.phase = Phase::Ended;
        let message = clean(&failure.message);
        vec![Step::Tell(VmmEvent::WorkloadNotStarted { code: failure.code.code(), message })]
    }

    fn exited(&mut self, report: ExitReport) -> Result<Vec<Step>, FailureReason> {
        let exit = exit_status(report.end)?;
        self.phase = Phase::Ended;
        Ok(vec![Step::Tell(VmmEvent::WorkloadExited {
            exit,
            stdout_bytes: Some(report.stdout_bytes),
            stderr_bytes: Some(report.stderr_bytes),
        })])
    }
}

fn exit_status(end: WorkloadEnd) -> Result<ExitStatus, FailureReason> {
    match end {
        WorkloadEnd::Code(code) => Ok(ExitStatus::Code(code.into())),
        WorkloadEnd::Signal(signal @ 1..=64) => Ok(ExitStatus::Signal(signal.into())),
        WorkloadEnd::Signal(signal) => Err(broken(format!("an end by signal {signal}, which is none"))),
    }
}

fn outcome(end: ProbeEnd, output: &[u8]) -> Result<ProbeOutcome, FailureReason> {
    if output.len() > PROBE_OUTPUT_MAX {
        return Err(broken(format!("{} bytes of a command's output", output.len())));
    }
    let output = clean(&String::from_utf8_lossy(output));
    Ok(match end {
        ProbeEnd::Ended(end) => ProbeOutcome { end: ProbeStatus::Ended(exit_status(end)?), output },
        ProbeEnd::TimedOut => ProbeOutcome { end: ProbeStatus::TimedOut, output },
        ProbeEnd::NotStarted(failure) => ProbeOutcome { end: ProbeStatus::NotStarted, output: clean(&failure.message) },
    })
}

fn name(message: &GuestMessage) -> &'static str {
    match message {
        GuestMessage::Ready { .. } => "Ready",
        GuestMessage::Started => "Started",
        GuestMessage::NotStarted(_) => "NotStarted",
        GuestMessage::Exit(_) => "Exit",
        GuestMessage::Status { .. } => "Status",
        GuestMessage::Faulted { .. } => "Faulted",
        GuestMessage::ProbeEnded { .. } => "ProbeEnded",
        GuestMessage::FilesLimitMet => "FilesLimitMet",
        GuestMessage::OutOfMemory { .. } => "OutOfMemory",
        GuestMessage::Understands { .. } => "Understands",
        GuestMessage::Usage { .. } => "Usage",
    }
}

/// A guest's words as they may be shown on a terminal and kept: no control characters, not too long.
fn clean(message: &str) -> String {
    cut_message(message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

#[cfg(test)]
mod tests;
