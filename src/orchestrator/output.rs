//! The output of a sandbox, or of a job of it, as a stream of chunks, read from its log.

use std::path::{Path, PathBuf};

use actix::Addr;
use chrono::{DateTime, Utc};
use sandpen_actors::log_writer::{
    Follow, FollowFrom, LogChunk, LogError, LogFollower, LogWriter, position_of_generation, position_of_tail_before,
};
use sandpen_actors::runtime::actor_ref::ActorRef;
use sandpen_actors::supervisor::{AwaitRestart, OpenJobLog, OpenLog, RemovalHold, Supervisor};
use sandpen_types::log_start::LogStart;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::SessionId;
use sandpen_types::spec::SandboxKey;
use sandpen_vmm::blocking::blocking;

use super::error::SandpenError;
use super::window::{Part, Window};

/// What of the output is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputOptions {
    /// Where to begin.
    pub from: LogStart,
    /// Whether to go on until the sandbox ends.
    pub follow: bool,
    /// Only this stream.
    pub stream: Option<OutputStream>,
    /// Nothing before the first byte that was written at this time or later, by the host's clock.
    pub since: Option<DateTime<Utc>>,
    /// Nothing after the last byte that was written before this time; with `follow` it goes on until then.
    pub until: Option<DateTime<Utc>>,
}

/// The output of one sandbox, or of one of its jobs. Bounded: it reads on only when it is asked for the next chunk.
#[derive(Debug)]
pub struct Output {
    follower: LogFollower,
    stream: Option<OutputStream>,
    log: PathBuf,
    /// Where its log writer is found; `None` for files alone.
    live: Option<Live>,
    /// The latest start that is known.
    generation: u64,
    window: Window,
    /// Keeps what is read from being removed.
    _hold: RemovalHold,
}

/// Whose output it is.
#[derive(Debug, Clone)]
pub(super) enum OutputOf {
    /// A sandbox's workload.
    Workload(SandboxKey),
    /// A job of a sandbox.
    Job(SandboxKey, SessionId),
}

/// The way to a log writer.
#[derive(Debug, Clone)]
struct Live {
    supervisor: ActorRef<Supervisor>,
    of: OutputOf,
}

impl Live {
    /// The log writer of the moment; `None` when all that there will be is on file.
    async fn log(&self) -> Result<Option<Addr<LogWriter>>, SandpenError> {
        Ok(match self.of.clone() {
            OutputOf::Workload(key) => self.supervisor.send(OpenLog { key }).await??,
            OutputOf::Job(key, id) => self.supervisor.send(OpenJobLog { key, id }).await??,
        })
    }

    /// The next start by the restart policy, once there is one.
    async fn next_generation(&self, after: u64) -> Result<Option<u64>, SandpenError> {
        match self.of.clone() {
            OutputOf::Workload(key) => Ok(self.supervisor.send(AwaitRestart { key, after }).await??),
            OutputOf::Job(..) => Ok(None),
        }
    }
}

/// Where reading begins, `latest` being the latest start. Blocks.
fn begin(log: &Path, options: &OutputOptions, latest: u64) -> Result<(FollowFrom, Window), LogError> {
    let (window, since) = Window::find(log, options.since, options.until)?;
    let tail = |lines| position_of_tail_before(log, lines, options.stream, window.cut().unwrap_or(u64::MAX));
    let from = match options.from {
        LogStart::Oldest => FollowFrom::Oldest,
        LogStart::LatestGeneration => FollowFrom::LatestGeneration,
        LogStart::Generation(number) => FollowFrom::Generation(number),
        LogStart::Position(position) => FollowFrom::Position(position),
        LogStart::Tail(lines) => FollowFrom::Position(tail(lines)?),
        // Not those of an earlier start than this one.
        LogStart::TailOf { lines, generation } => {
            FollowFrom::Position(tail(lines)?.max(position_of_generation(log, generation)?))
        }
    };
    let Some(since) = since else { return Ok((from, window)) };
    let from = match from {
        FollowFrom::Oldest => 0,
        FollowFrom::LatestGeneration => position_of_generation(log, latest)?,
        FollowFrom::Generation(number) => position_of_generation(log, number)?,
        FollowFrom::Position(position) => position,
    };
    Ok((FollowFrom::Position(from.max(since)), window))
}

impl Output {
    pub(super) async fn open(
        log: PathBuf,
        supervisor: ActorRef<Supervisor>,
        hold: RemovalHold,
        (of, generation): (OutputOf, u64),
        options: OutputOptions,
    ) -> Result<Self, SandpenError> {
        let stream = options.stream;
        let look = {
            let log = log.clone();
            move || begin(&log, &options, generation)
        };
        let (from, window) = blocking(look).await.map_err(|_| SandpenError::Gone)??;
        let live = (options.follow && !window.is_over()).then_some(Live { supervisor, of });
        let follower = follow(&log, live.as_ref(), from).await?;
        Ok(Self { follower, stream, log, live, generation, window, _hold: hold })
    }

    /// Position in the whole log of what [`Output::next`] answers next.
    pub fn position(&self) -> u64 {
        self.follower.position()
    }

    /// The next chunk; `None` at the end. Gaps are told whatever stream is wanted.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn next(&mut self) -> Result<Option<LogChunk>, SandpenError> {
        loop {
            let next = if self.live.is_some() && self.window.has_end_ahead() {
                let window = self.window;
                tokio::select! {
                    biased;
                    () = window.over() => {
                        self.cut().await?;
                        continue;
                    }
                    next = self.read_on() => next?,
                }
            } else {
                self.read_on().await?
            };
            let Some(chunk) = next else { return Ok(None) };
            match self.window.pass(chunk) {
                Some(Part::Inside(chunk)) => return Ok(Some(chunk)),
                Some(Part::Outside) => {}
                None => return Ok(None),
            }
        }
    }
}

impl Output {
    /// The window is over: what is on file of it is the rest.
    async fn cut(&mut self) -> Result<(), SandpenError> {
        let (log, mut window) = (self.log.clone(), self.window);
        let look = move || window.find_cut(&log).map(|()| window);
        self.window = blocking(look).await.map_err(|_| SandpenError::Gone)??;
        self.live = None;
        self.go_on(self.position()).await
    }

    /// The next chunk of what is followed, whenever it was written.
    async fn read_on(&mut self) -> Result<Option<LogChunk>, SandpenError> {
        loop {
            match self.follower.next().await {
                Ok(Some(LogChunk::Bytes { stream, .. } | LogChunk::Dropped { stream, .. }))
                    if self.stream.is_some_and(|wanted| wanted != stream) => {}
                Ok(None) => match self.next_generation().await? {
                    Some(generation) => {
                        self.generation = generation;
                        self.go_on(self.position()).await?;
                    }
                    None => return Ok(None),
                },
                Ok(chunk) => return Ok(chunk),
                // A new log writer has taken over, or the sandbox has ended meanwhile.
                Err(LogError::WriterGone { position }) => {
                    self.go_on(position).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Output {
    /// With another writer, or the next start's, from where the one before ended.
    async fn go_on(&mut self, position: u64) -> Result<(), SandpenError> {
        let follower = follow(&self.log, self.live.as_ref(), FollowFrom::Position(position)).await?;
        self.follower = follower.passing_over(self.follower.marks_told());
        Ok(())
    }

    /// The next start by the restart policy, waited for where the output is followed.
    async fn next_generation(&self) -> Result<Option<u64>, SandpenError> {
        match &self.live {
            Some(live) => live.next_generation(self.generation).await,
            None => Ok(None),
        }
    }
}

/// The live log's follower, or one of its files where no writer is (any more).
async fn follow(log: &Path, live: Option<&Live>, from: FollowFrom) -> Result<LogFollower, SandpenError> {
    if let Some(live) = live {
        while let Some(log) = live.log().await? {
            // One that has just ended has a successor, or has closed the log: the next answer waits for that.
            if let Ok(follower) = log.send(Follow { from }).await {
                return Ok(follower?);
            }
        }
    }
    let log = log.to_owned();
    let follower = blocking(move || LogFollower::of_files(&log, from)).await;
    Ok(follower.map_err(|_| SandpenError::Gone)??)
}
