//! A sandbox's output as a stream of chunks, read from its log.

use std::path::PathBuf;

use actix::Addr;
use sandpen_actors::driver::OutputStream;
use sandpen_actors::log_writer::{Follow, FollowFrom, LogChunk, LogFollower, LogWriter, position_of_tail};

use super::handle::SandpenError;

/// Where the output begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputFrom {
    /// At the oldest kept byte.
    #[default]
    Oldest,
    /// At the first byte of the latest start.
    Generation,
    /// This many lines before the end.
    Tail(usize),
}

/// What of the output is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputOptions {
    /// Where to begin.
    pub from: OutputFrom,
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
}

impl Output {
    pub(super) async fn open(
        log: PathBuf,
        writer: Option<Addr<LogWriter>>,
        options: OutputOptions,
    ) -> Result<Self, SandpenError> {
        let stream = options.stream;
        let from = match options.from {
            OutputFrom::Oldest => FollowFrom::Oldest,
            OutputFrom::Generation => FollowFrom::Generation,
            OutputFrom::Tail(lines) => {
                let log = log.clone();
                let position = tokio::task::spawn_blocking(move || position_of_tail(&log, lines, stream)).await;
                FollowFrom::Position(position.map_err(|_| SandpenError::Gone)??)
            }
        };
        if let Some(writer) = writer
            && let Ok(follower) = writer.send(Follow { from }).await
        {
            return Ok(Self { follower: follower?, stream });
        }
        let follower = tokio::task::spawn_blocking(move || LogFollower::of_files(&log, from)).await;
        Ok(Self { follower: follower.map_err(|_| SandpenError::Gone)??, stream })
    }

    /// The next chunk; `None` at the end. Gaps are told whatever stream is wanted.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn next(&mut self) -> Result<Option<LogChunk>, SandpenError> {
        loop {
            match self.follower.next().await? {
                Some(LogChunk::Bytes { stream, .. }) if self.stream.is_some_and(|wanted| wanted != stream) => {}
                chunk => return Ok(chunk),
            }
        }
    }
}
