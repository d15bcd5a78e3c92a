//! The host's side of the control protocol: one link with the PID 1 of one guest.
//!
//! ```text
//!   ControlLink (handle, any task) ──frames──▶ control.in, stdin.in
//!   task: control.out ──▶ FrameReader ──▶ Progress (pure) ──VmmEvent──▶ events
//! ```
//!
//! The guest is hostile: what it sends is bounded in size by the reader and in number by
//! [`progress`], which allows every message once and in its order; anything else ends the link
//! with [`FailureReason::ProtocolBroken`].

mod link;
mod port;
mod probes;
mod progress;
mod start_frame;
#[cfg(test)]
mod tests;
mod turn;
mod usage;

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sandpen_guest::protocol::{FrameReader, Garbage, GuestMessage, HostMessage, TerminalSize, encode};
use sandpen_types::start_step::StartStep;
use sandpen_types::state::FailureReason;
use sandpen_vmm::driver::VmmEvent;
use sandpen_vmm::start_timings::StartTimings;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

pub use self::link::ControlLink;
use self::link::Handle;
use self::port::{ReadPort, WritePort};
use self::probes::Probes;
use self::progress::{Progress, Step};
#[cfg(feature = "krun-driver")]
pub(super) use self::start_frame::settings;
pub use self::start_frame::{StartFrame, start_message};
use self::turn::Turn;
use self::usage::UsageQuestions;

/// How long a guest may take to make room for a short message. Its PID 1 reads whenever it can.
const SEND_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long to wait for the answer to a query before it is sent again.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// The host's ends of the ports, non-blocking.
#[derive(Debug)]
pub struct ControlFifos {
    /// Read end of `control.out`.
    pub control_out: OwnedFd,
    /// Write end of `control.in`.
    pub control_in: OwnedFd,
    /// Write end of `stdin.in`.
    pub stdin_in: OwnedFd,
}

/// How a link begins.
#[derive(Debug)]
pub enum LinkMode {
    /// The guest boots: wait for it and send this. Its wall clock is set when it is sent.
    Launch(Box<StartFrame>),
    /// The guest was restored from one that had booted: send this at once.
    Restored(Box<StartFrame>),
    /// The guest of an earlier daemon: ask it for its state, and send this if it still waits for it.
    Adopt(Option<Box<StartFrame>>),
}

/// Begins a link: the handle, and the task that listens to the guest and tells `events` what it says (somebody
/// must poll it and see to its end). The task is over after a fault, or when nobody holds the other end of
/// `control.out` any more. Call it inside of a tokio runtime.
///
/// `boot_limit` is the time until the guest must have executed its workload or, with
/// [`LinkMode::Adopt`], must have answered.
///
/// # Errors
/// When a descriptor cannot be registered with the runtime.
pub fn open(
    fifos: ControlFifos,
    mode: LinkMode,
    boot_limit: Duration,
    timings: StartTimings,
    events: mpsc::Sender<VmmEvent>,
) -> io::Result<(ControlLink, impl Future<Output = ()> + Send + 'static)> {
    let link = ControlLink(Arc::new(Handle {
        control: WritePort::new(fifos.control_in)?,
        stdin: WritePort::new(fifos.stdin_in)?,
        probes: Mutex::new(Probes::new(RandomState::new().build_hasher().finish(), matches!(mode, LinkMode::Adopt(_)))),
        usage: Mutex::new(UsageQuestions::new(RandomState::new().build_hasher().finish())),
        understood: AtomicU32::new(match mode {
            // Saved by this very program: its digest is part of the template's name.
            LinkMode::Restored(_) => HostMessage::VARIANTS,
            LinkMode::Launch(_) | LinkMode::Adopt(_) => HostMessage::UNDERSTOOD_BY_ALL,
        }),
        over: CancellationToken::new(),
    }));
    // An earlier daemon may have read the first part of a frame: at most one is cut.
    let (garbage, start, progress) = match mode {
        LinkMode::Launch(start) => (Garbage::Refuse, Some(start), Progress::launched()),
        LinkMode::Restored(start) => (Garbage::Refuse, Some(start), Progress::restored()),
        LinkMode::Adopt(start) => {
            let limit = FrameReader::<GuestMessage>::CAPACITY;
            let progress = Progress::adopting(RandomState::new().build_hasher().finish(), start.is_some());
            (Garbage::SkipFirst(limit), start, progress)
        }
    };
    let task = Task {
        link: link.clone(),
        port: ReadPort::new(fifos.control_out)?,
        reader: FrameReader::new(garbage),
        progress,
        start,
        boot_limit,
        events,
        timings,
    };
    Ok((link, task.run()))
}

fn terminal_size(size: sandpen_types::spec::TerminalSize) -> TerminalSize {
    TerminalSize { rows: size.rows.get(), cols: size.cols.get() }
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Listens to one guest.
struct Task {
    link: ControlLink,
    port: ReadPort,
    reader: FrameReader<GuestMessage>,
    progress: Progress,
    /// Until it is sent.
    start: Option<Box<StartFrame>>,
    boot_limit: Duration,
    events: mpsc::Sender<VmmEvent>,
    timings: StartTimings,
}

impl Task {
    async fn run(mut self) {
        // Also when this future is dropped: nobody may wait for a guest that nobody listens to.
        let _over = self.link.0.over.clone().drop_guard();
        if let Err(reason) = self.listen().await {
            tracing::warn!(%reason, "the link with a guest has failed");
            self.tell(VmmEvent::Faulted(reason)).await;
        }
    }

    async fn listen(&mut self) -> Result<(), FailureReason> {
        // A limit beyond what the clock can express is none that anybody lives to see.
        let deadline = Instant::now().checked_add(self.boot_limit);
        let limit = self.boot_limit;
        if self.progress.starts_at_once() {
            match deadline {
                Some(deadline) => match timeout_at(deadline, self.act(Step::SendStart)).await {
                    Ok(sent) => sent?,
                    Err(_) => return Err(self.progress.timed_out(limit)),
                },
                None => self.act(Step::SendStart).await?,
            }
        }
        while self.progress.awaits_guest() {
            let asked = match self.progress.query() {
                Some(query) => self.link.send(&query).await.map(|()| Some(Instant::now() + ASK_INTERVAL)),
                None => Ok(None),
            };
            // A control pipe that is full for long is as bad as no answer.
            let ask_again = asked.map_err(|error| broken(error.to_string()))?;
            let until = [deadline, ask_again].into_iter().flatten().min();
            let heard = match until {
                Some(until) => timeout_at(until, self.hear()).await,
                None => Ok(self.hear().await),
            };
            match heard {
                Ok(Ok(false)) => return Ok(()),
                Ok(Err(reason)) => return Err(reason),
                Err(_) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    return Err(self.progress.timed_out(limit));
                }
                Ok(Ok(true)) | Err(_) => {}
            }
        }
        let mut turn = Turn::take();
        loop {
            let mut chunk = [0; 4096];
            let read = tokio::select! {
                read = self.port.read(&mut chunk) => read,
                () = turn.comes(), if self.progress.runs() && self.link.can_tell_time() => {
                    self.link.tell_time();
                    continue;
                }
            };
            if !self.understand(read, &chunk).await? {
                return Ok(());
            }
        }
    }

    /// Takes what the guest sends next; `false` when nothing can come any more. May be dropped while
    /// it waits for bytes.
    async fn hear(&mut self) -> Result<bool, FailureReason> {
        let mut chunk = [0; 4096];
        let read = self.port.read(&mut chunk).await;
        self.understand(read, &chunk).await
    }

    /// Takes what was read into `chunk`.
    async fn understand(&mut self, read: io::Result<usize>, chunk: &[u8]) -> Result<bool, FailureReason> {
        let len = read.map_err(|error| broken(format!("reading its port: {error}")))?;
        let mut rest = &chunk[..len];
        while !rest.is_empty() {
            rest = &rest[self.reader.push(rest)..];
            while let Some(message) = self.reader.next().map_err(|error| broken(error.to_string()))? {
                for step in self.progress.take(message)? {
                    self.act(step).await?;
                }
            }
        }
        Ok(len > 0)
    }

    async fn act(&mut self, step: Step) -> Result<(), FailureReason> {
        match step {
            Step::SendStart => {
                let Some(mut start) = self.start.take() else { return Ok(()) };
                self.timings.mark(StartStep::GuestReady);
                start.begin.start.wall_clock = wall_clock();
                let frame = encode(&HostMessage::from(*start)).map_err(internal)?;
                self.link.0.control.write_at_once(&frame).await.map_err(internal)?;
                self.timings.mark(StartStep::StartSent);
                Ok(())
            }
            Step::Understands(messages) => {
                self.link.0.understood.store(messages, Ordering::Relaxed);
                Ok(())
            }
            Step::Usage { nonce, usage } => {
                let mut questions = self.link.0.usage.lock().unwrap_or_else(PoisonError::into_inner);
                match questions.answer(nonce, usage) {
                    true => Ok(()),
                    false => Err(broken("an answer that nobody asked for".to_owned())),
                }
            }
            Step::ProbeEnded { id, outcome } => {
                let mut probes = self.link.0.probes.lock().unwrap_or_else(PoisonError::into_inner);
                if probes.answer(id, outcome) {
                    Ok(())
                } else {
                    Err(broken("an answer that nobody asked for".to_owned()))
                }
            }
            Step::Tell(event) => {
                let is_end = matches!(event, VmmEvent::WorkloadExited { .. } | VmmEvent::WorkloadNotStarted { .. });
                if event == VmmEvent::WorkloadStarted {
                    self.timings.mark(StartStep::WorkloadStarted);
                    // That of `Start` was old when a busy guest took it; a guest that is found may have waited for days.
                    self.link.tell_time();
                }
                if is_end {
                    self.link.0.over.cancel();
                }
                self.tell(event).await;
                Ok(())
            }
        }
    }

    async fn tell(&self, event: VmmEvent) {
        // A driver that no longer listens has no use for it.
        let _ = self.events.send(event).await;
    }
}

fn broken(message: String) -> FailureReason {
    FailureReason::ProtocolBroken { message }
}

fn internal(error: impl std::error::Error) -> FailureReason {
    FailureReason::Internal { message: format!("sending the start message to the guest: {error}") }
}
