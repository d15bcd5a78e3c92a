//! A sandbox's output as a stream of chunks, read from its log.

use std::path::{Path, PathBuf};

use sandpen_actors::log_writer::{
    Follow, FollowFrom, LogChunk, LogError, LogFollower, position_of_generation, position_of_tail,
};
use sandpen_actors::runtime::actor_ref::ActorRef;
use sandpen_actors::supervisor::{AwaitRestart, OpenLog, RemovalHold, Supervisor};
use sandpen_types::log_start::LogStart;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::spec::SandboxKey;
use sandpen_vmm::blocking::blocking;

use super::error::SandpenError;

/// What of the output is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputOptions {
    /// Where to begin.
    pub from: LogStart,
    /// Whether to go on until the sandbox ends.
    pub follow: bool,
    /// Only this stream.
    pub stream: Option<OutputStream>,
}

/// The output of one sandbox. Bounded: it reads on only when it is asked for the next chunk.
#[derive(Debug)]
pub struct Output {
    follower: LogFollower,
    stream: Option<OutputStream>,
    log: PathBuf,
    /// Where a live sandbox's log writer is found; `None` for files alone.
    live: Option<(ActorRef<Supervisor>, SandboxKey)>,
    /// The latest start that is known.
    generation: u64,
    /// Keeps what is read from being removed.
    _hold: RemovalHold,
}

/// Where the last lines begin, which are not those of an earlier start than this one.
async fn tail(log: &Path, lines: usize, stream: Option<OutputStream>, since: Option<u64>) -> Result<u64, SandpenError> {
    let log = log.to_owned();
    let look = move || {
        let tail = position_of_tail(&log, lines, stream)?;
        let begin = since.map_or(Ok(0), |generation| position_of_generation(&log, generation))?;
        Ok::<_, LogError>(tail.max(begin))
    };
    Ok(blocking(look).await.map_err(|_| SandpenError::Gone)??)
}

impl Output {
    pub(super) async fn open(
        log: PathBuf,
        supervisor: ActorRef<Supervisor>,
        hold: RemovalHold,
        (key, generation): (SandboxKey, u64),
        options: OutputOptions,
    ) -> Result<Self, SandpenError> {
        let stream = options.stream;
        let from = match options.from {
            LogStart::Oldest => FollowFrom::Oldest,
            LogStart::LatestGeneration => FollowFrom::LatestGeneration,
            LogStart::Generation(number) => FollowFrom::Generation(number),
            LogStart::Position(position) => FollowFrom::Position(position),
            LogStart::Tail(lines) => FollowFrom::Position(tail(&log, lines, stream, None).await?),
            LogStart::TailOf { lines, generation } => {
                FollowFrom::Position(tail(&log, lines, stream, Some(generation)).await?)
            }
        };
        let live = options.follow.then_some((supervisor, key));
        Ok(Self { follower: follow(&log, live.as_ref(), from).await?, stream, log, live, generation, _hold: hold })
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
        match self.live.clone() {
            Some((supervisor, key)) => Ok(supervisor.send(AwaitRestart { key, after: self.generation }).await??),
            None => Ok(None),
        }
    }
}

/// The live log's follower, or one of its files where no writer is (any more).
async fn follow(
    log: &Path,
    live: Option<&(ActorRef<Supervisor>, SandboxKey)>,
    from: FollowFrom,
) -> Result<LogFollower, SandpenError> {
    if let Some((supervisor, key)) = live {
        while let Some(log) = supervisor.send(OpenLog { key: key.clone() }).await?? {
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
