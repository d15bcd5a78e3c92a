//! The handle of a link: what can be said to one guest.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sandpen_guest::protocol::{Bytes, HostMessage, Message, Probe, STDIN_CHUNK, StdinMessage, Usage, encode};
use sandpen_types::spec::{ByteString, TerminalSize};
use sandpen_vmm::driver::{DriverError, ProbeOutcome};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::port::WritePort;
use super::probes::Probes;
use super::usage::{Asked, UsageQuestions};
use super::{SEND_LIMIT, terminal_size, wall_clock};

/// Acts on a guest. Any task may use it; it stays valid after the guest's end and answers errors then.
#[derive(Debug, Clone)]
pub struct ControlLink(pub(super) Arc<Handle>);

#[derive(Debug)]
pub(super) struct Handle {
    pub(super) control: WritePort,
    pub(super) stdin: WritePort,
    pub(super) probes: Mutex<Probes>,
    pub(super) usage: Mutex<UsageQuestions>,
    /// How many variants of [`HostMessage`] the guest knows, as far as it told.
    pub(super) understood: AtomicU32,
    /// Cancelled when the task is over or the workload has ended.
    pub(super) over: CancellationToken,
}

/// How long a question waits for a guest that has not read all before.
const OFFER_PAUSE: Duration = Duration::from_millis(20);

/// A question that is taken back unless it was sent: nothing would ever answer it.
struct Unsent<'a> {
    link: &'a ControlLink,
    nonce: Option<u64>,
}

impl Unsent<'_> {
    fn sent(mut self) {
        self.nonce = None;
    }
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if let Some(nonce) = self.nonce {
            self.link.questions().take_back(nonce);
        }
    }
}

fn unreachable(reason: impl std::fmt::Display) -> DriverError {
    DriverError::Unreachable(reason.to_string())
}

impl ControlLink {
    /// Sends a signal to the workload's main process. Before the workload runs, one that would end
    /// it makes the guest report it as not started.
    ///
    /// # Errors
    /// [`DriverError::Unreachable`] when the guest takes no message for 10 s, or is gone.
    pub async fn signal(&self, signal: i32) -> Result<(), DriverError> {
        self.send(&HostMessage::Signal(signal)).await
    }

    /// Lets the guest power off: its workload's end is recorded and all output is on file.
    ///
    /// # Errors
    /// As for [`ControlLink::signal`].
    pub async fn acknowledge_exit(&self) -> Result<(), DriverError> {
        self.send(&HostMessage::AcknowledgeExit).await
    }

    /// Runs a command beside the workload, for at most `limit`; one that an earlier call waits for is
    /// killed, and that call fails. Dropping the future leaves the command to its limit.
    ///
    /// # Errors
    /// [`DriverError::Unreachable`] when the guest takes no message, does not answer in time, or the
    /// workload has ended; a command of more than [`PROBE_COMMAND_MAX`](sandpen_guest::protocol::PROBE_COMMAND_MAX) bytes.
    pub async fn probe(&self, command: &[ByteString], limit: Duration) -> Result<ProbeOutcome, DriverError> {
        let (id, answer) = self.0.probes.lock().unwrap_or_else(PoisonError::into_inner).ask();
        let command = command.iter().map(|part| Bytes::from(part.as_bytes())).collect();
        self.send(&HostMessage::Probe(Probe { id, command, limit })).await?;
        tokio::select! {
            // An answer that came is one, also when the link ended right after it.
            biased;
            answer = answer => answer.map_err(|_| unreachable("another command took its place")),
            () = self.0.over.cancelled() => Err(unreachable("the workload has ended")),
            () = tokio::time::sleep(limit.saturating_add(SEND_LIMIT)) => {
                Err(unreachable(format!("it did not answer within {} s of the limit", SEND_LIMIT.as_secs())))
            }
        }
    }

    /// How the guest is, as it says: bounded by nothing but the numbers' types. Waits at most a second; for a guest that has
    /// left an earlier question without an answer not even that.
    ///
    /// # Errors
    /// [`DriverError::Unreachable`] when it does not know the question, does not answer in time, or the workload has ended.
    pub async fn usage(&self) -> Result<Usage, DriverError> {
        if self.0.over.is_cancelled() {
            return Err(unreachable("the workload has ended"));
        }
        if !self.understands(&HostMessage::GetUsage { nonce: 0 }) {
            return Err(unreachable("it is of an older program, which does not tell how it is"));
        }
        let Asked { nonce, until, mut answer } = self.questions().ask(Instant::now());
        if let Some(nonce) = nonce {
            let question = Unsent { link: self, nonce: Some(nonce) };
            // What it has not read yet is for a guest that is busy a matter of moments.
            while !self.0.control.offer(|| encode(&HostMessage::GetUsage { nonce }).ok()) {
                if Instant::now() >= until {
                    return Err(unreachable("it reads no messages"));
                }
                tokio::time::sleep(OFFER_PAUSE).await;
            }
            question.sent();
        }
        tokio::select! {
            biased;
            answered = answer.wait_for(Option::is_some) => {
                let answered = answered.ok().and_then(|usage| *usage);
                answered.ok_or_else(|| unreachable("the question could not be sent"))
            }
            () = self.0.over.cancelled() => Err(unreachable("the workload has ended")),
            () = sleep_until(until) => Err(unreachable("it did not say how it is within a second")),
        }
    }

    fn questions(&self) -> MutexGuard<'_, UsageQuestions> {
        self.0.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the guest knows `message`: one that an older program started may not, and would fail of it. It is known
    /// from the moment when the guest waits for its start message or, if it was found, has answered; a guest that did
    /// not tell yet knows what each does.
    pub fn understands(&self, message: &HostMessage) -> bool {
        message.position() < self.0.understood.load(Ordering::Relaxed)
    }

    /// Tells the guest what the host's clock says, if it knows the message and has read all before: one that is stopped
    /// finds at most one when it goes on, not the times of all its pause.
    pub(super) fn tell_time(&self) {
        if self.can_tell_time() {
            self.0.control.offer(|| encode(&HostMessage::SetClock { wall_clock: wall_clock() }).ok());
        }
    }

    /// Whether the guest knows the message.
    pub(super) fn can_tell_time(&self) -> bool {
        self.understands(&HostMessage::SetClock { wall_clock: Duration::ZERO })
    }

    pub(super) async fn send(&self, message: &HostMessage) -> Result<(), DriverError> {
        let frame = encode(message).map_err(unreachable)?;
        match timeout(SEND_LIMIT, self.0.control.write(&frame)).await {
            Ok(written) => written.map_err(unreachable),
            Err(_) => Err(unreachable(format!("it took no message for {} s", SEND_LIMIT.as_secs()))),
        }
    }

    /// Tells the size of the workload's terminal, also before the workload runs.
    ///
    /// # Errors
    /// As for [`ControlLink::signal`].
    pub async fn resize(&self, size: TerminalSize) -> Result<(), DriverError> {
        self.send(&HostMessage::Resize(terminal_size(size))).await
    }

    /// Passes bytes to the workload's standard input. Resolves when all are in the pipe; waits for as
    /// long as the workload does not read. Dropping the future leaves out the rest, never half a
    /// frame.
    ///
    /// # Errors
    /// [`DriverError::Unreachable`] when the workload has ended or the guest is gone.
    pub async fn write_stdin(&self, bytes: &[u8]) -> Result<(), DriverError> {
        for chunk in bytes.chunks(STDIN_CHUNK) {
            self.send_stdin(&StdinMessage::Bytes(Bytes::from(chunk))).await?;
        }
        Ok(())
    }

    /// Ends the workload's standard input; on a terminal, types its end-of-file character.
    ///
    /// # Errors
    /// As for [`ControlLink::write_stdin`].
    pub async fn close_stdin(&self) -> Result<(), DriverError> {
        self.send_stdin(&StdinMessage::End).await
    }

    async fn send_stdin<M: Message + Sync>(&self, message: &M) -> Result<(), DriverError> {
        let frame = encode(message).map_err(unreachable)?;
        tokio::select! {
            biased;
            () = self.0.over.cancelled() => Err(unreachable("the workload has ended")),
            written = self.0.stdin.write(&frame) => written.map_err(unreachable),
        }
    }
}
