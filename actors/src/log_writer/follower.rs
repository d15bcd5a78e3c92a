//! Reading a log: to its end, or on while it is written.
//!
//! A follower owns a queue of segments (open files). The writer pushes a segment when it begins one
//! and publishes positions; it never waits for a reader. A reader that is far behind still holds the
//! files it has to read, even when their names were rotated out of existence.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use sandpen_types::output_stream::OutputStream;
use sandpen_vmm::blocking::blocking;
use tokio::sync::watch;

use super::generation::position_of_generation;
use super::segment::{self, Chain, Cursor, Hold, SEGMENTS_HELD, Segment};
use super::{FollowFrom, LogError, StreamTotals};

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChunk {
    /// Bytes of one stream that were written at one time.
    Bytes {
        /// Which stream.
        stream: OutputStream,
        /// When they were written.
        at: DateTime<Utc>,
        /// Position of the first byte.
        position: u64,
        /// 1 to 65,536 bytes.
        bytes: Vec<u8>,
    },
    /// Bytes that were never written: they were dropped while the log could not be written.
    Dropped {
        /// Which stream.
        stream: OutputStream,
        /// Where they would have been.
        position: u64,
        /// How many.
        bytes: u64,
    },
    /// Bytes that are no longer there.
    Gap {
        /// Position of the first one.
        position: u64,
        /// How many.
        bytes: u64,
    },
}

/// What a writer tells its followers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Published {
    /// Everything before `totals.position` is on file and in the index.
    pub totals: StreamTotals,
    /// Nothing more comes.
    pub ended: bool,
    /// Bytes wait in a pipe for the log to become writable again.
    pub stuck: bool,
}

/// The segments that one follower still has to read, oldest first.
#[derive(Debug)]
pub(super) struct Queue(Mutex<VecDeque<Arc<Segment>>>);

impl Queue {
    /// A queue that begins with these.
    pub fn new(segments: Vec<Arc<Segment>>) -> Self {
        Self(Mutex::new(segments.into()))
    }

    /// Adds the newest; beyond [`SEGMENTS_HELD`] the oldest is dropped, and its reader gets a gap.
    pub fn push(&self, segment: Arc<Segment>) -> bool {
        let dropped = {
            let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            queue.push_back(segment);
            if queue.len() > SEGMENTS_HELD { queue.pop_front() } else { None }
        };
        drop(dropped);
        true
    }

    fn pop(&self) -> Option<Arc<Segment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

#[derive(Debug)]
enum Source {
    Live(watch::Receiver<Published>),
    Files { log: PathBuf, end: u64 },
}

/// A reader of a log. `Send`, and usable from any tokio runtime.
#[derive(Debug)]
pub struct LogFollower {
    queue: Arc<Queue>,
    reading: Option<(Arc<Segment>, Cursor)>,
    position: u64,
    ready: VecDeque<LogChunk>,
    source: Source,
    /// Whether the marks after the last byte of what is being read were told.
    tail_told: bool,
    /// Marks at this position that were told already, by this follower or the one before it.
    marks_told: u64,
    /// Marks that are yet to be passed over.
    marks_known: u64,
}

enum Step {
    Read { segment: Arc<Segment>, cursor: Cursor, limit: u64 },
    GapTo(u64),
    Tail { segment: Arc<Segment>, cursor: Cursor },
    Wait,
}

impl LogFollower {
    /// A follower of a live writer.
    pub(super) fn live(queue: Arc<Queue>, position: u64, published: watch::Receiver<Published>) -> Self {
        Self::new(queue, position, Source::Live(published))
    }

    fn new(queue: Arc<Queue>, position: u64, source: Source) -> Self {
        let ready = VecDeque::new();
        Self { queue, reading: None, position, ready, source, tail_told: false, marks_told: 0, marks_known: 0 }
    }

    /// How many [`LogChunk::Dropped`] were told at [`LogFollower::position`]: for another follower that goes
    /// on there.
    pub fn marks_told(&self) -> u64 {
        self.marks_told
    }

    /// Passes over so many [`LogChunk::Dropped`] at the position where this follower begins.
    #[must_use]
    pub fn passing_over(mut self, marks: u64) -> Self {
        self.marks_known = marks;
        self
    }

    /// Whether this piece was told by the follower before; counts marks.
    fn was_told(&mut self, chunk: &LogChunk) -> bool {
        if !matches!(chunk, LogChunk::Dropped { .. }) {
            (self.marks_told, self.marks_known) = (0, 0);
            return false;
        }
        self.marks_told += 1;
        let known = self.marks_known > 0;
        self.marks_known = self.marks_known.saturating_sub(1);
        known
    }

    /// Reads the files of a log that nobody writes any more, up to where they end now. A log without
    /// any file is empty. Blocks for opening the files.
    ///
    /// # Errors
    /// [`LogError::File`] if a file cannot be opened or read.
    pub fn of_files(log: &Path, from: FollowFrom) -> Result<Self, LogError> {
        let start = match from {
            FollowFrom::Oldest => 0,
            FollowFrom::LatestGeneration => segment::newest_end(log)?.map_or(0, |end| end.generation_start),
            FollowFrom::Generation(number) => position_of_generation(log, number)?,
            FollowFrom::Position(position) => position,
        };
        let Chain { segments, end } = segment::open_chain(log, start, u64::MAX, Hold::Oldest)?;
        let end = end.map_or(0, |end| end.position);
        let position = match (from, segments.first()) {
            (FollowFrom::Oldest, Some(oldest)) => oldest.header.base,
            _ => start,
        };
        let source = Source::Files { log: log.to_owned(), end };
        Ok(Self::new(Arc::new(Queue::new(segments)), position, source))
    }

    /// Position after the last byte that [`LogFollower::next`] answered.
    pub fn position(&self) -> u64 {
        match self.ready.front() {
            Some(
                LogChunk::Bytes { position, .. } | LogChunk::Gap { position, .. } | LogChunk::Dropped { position, .. },
            ) => *position,
            None => self.position,
        }
    }

    /// The next piece; `None` at the end: the writer closed the log and all was read, or for files,
    /// the end of the files. Waits for the writer without polling. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`LogError::File`] if a read fails (it may be tried again), [`LogError::WriterGone`] if the
    /// writer ended without `Close` and all was read, [`LogError::ReadCutOff`] at a runtime's end.
    pub async fn next(&mut self) -> Result<Option<LogChunk>, LogError> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                if self.was_told(&chunk) {
                    continue;
                }
                return Ok(Some(chunk));
            }
            let (published, gone) = self.published();
            match self.step(published.totals.position, published.ended || gone) {
                Step::GapTo(to) => {
                    self.ready.push_back(LogChunk::Gap { position: self.position, bytes: to - self.position });
                    self.position = to;
                }
                Step::Read { segment, cursor, limit } => self.read(segment, cursor, limit).await?,
                Step::Tail { segment, cursor } => self.read_tail(segment, cursor).await?,
                Step::Wait => match &mut self.source {
                    _ if published.ended => {
                        let end = published.totals.position;
                        if self.position >= end {
                            return Ok(None);
                        }
                        if !self.find_more().await? {
                            self.ready.push_back(LogChunk::Gap { position: self.position, bytes: end - self.position });
                            self.position = end;
                        }
                    }
                    // Of one that nobody writes all has been published.
                    Source::Files { .. } => return Ok(None),
                    Source::Live(_) if gone => return Err(LogError::WriterGone { position: self.position }),
                    // Its error means that the writer is gone, which the next round finds.
                    Source::Live(receiver) => drop(receiver.changed().await),
                },
            }
        }
    }

    fn published(&mut self) -> (Published, bool) {
        match &mut self.source {
            Source::Live(receiver) => {
                let gone = receiver.has_changed().is_err();
                (*receiver.borrow_and_update(), gone)
            }
            Source::Files { end, .. } => {
                let totals = StreamTotals { position: *end, ..StreamTotals::default() };
                (Published { totals, ended: true, stuck: false }, false)
            }
        }
    }

    /// What to do with everything before `published` on file.
    fn step(&mut self, published: u64, is_over: bool) -> Step {
        loop {
            let (segment, cursor) = match &self.reading {
                Some((segment, cursor)) => (segment, *cursor),
                None => match self.queue.pop() {
                    Some(segment) => {
                        let cursor = segment.cursor();
                        self.tail_told = false;
                        let (segment, _) = &*self.reading.insert((segment, cursor));
                        (segment, cursor)
                    }
                    None => return Step::Wait,
                },
            };
            if self.position < segment.header.base {
                return Step::GapTo(segment.header.base);
            }
            // In this order: what was published before a seal was looked at is in this file.
            let sealed = segment.sealed.get().copied();
            let limit = sealed.unwrap_or(published);
            if self.position < limit {
                return Step::Read { segment: Arc::clone(segment), cursor, limit };
            }
            if (sealed.is_some() || is_over) && !self.tail_told {
                return Step::Tail { segment: Arc::clone(segment), cursor };
            }
            if sealed.is_none() {
                return Step::Wait;
            }
            self.reading = None;
        }
    }

    async fn read(&mut self, segment: Arc<Segment>, cursor: Cursor, limit: u64) -> Result<(), LogError> {
        let position = self.position;
        let read = blocking(move || {
            let result = segment.read(cursor, position, limit);
            (segment, result)
        });
        let (segment, result) = read.await.map_err(LogError::ReadCutOff)?;
        let (chunks, cursor) = result.map_err(|source| LogError::File {
            action: "reading the log's file that begins at",
            path: PathBuf::from(format!("position {}", segment.header.base)),
            source,
        })?;
        self.position = chunks.last().map_or(position, LogChunk::end);
        self.ready = chunks.into();
        self.reading = Some((segment, cursor));
        Ok(())
    }

    async fn read_tail(&mut self, segment: Arc<Segment>, cursor: Cursor) -> Result<(), LogError> {
        let position = self.position;
        let read = blocking(move || {
            let read = segment.tail_marks(cursor, position);
            (segment, read)
        });
        let (segment, (marks, cursor)) = read.await.map_err(LogError::ReadCutOff)?;
        self.ready = marks.into();
        self.reading = Some((segment, cursor));
        self.tail_told = true;
        Ok(())
    }

    /// Opens the next files when there were too many to hold at once; whether they are still there.
    async fn find_more(&mut self) -> Result<bool, LogError> {
        let Source::Files { log, end } = &self.source else { return Ok(false) };
        let (log, position, end) = (log.clone(), self.position, *end);
        let opened = blocking(move || segment::open_chain(&log, position, end, Hold::Oldest));
        let Chain { mut segments, .. } = opened.await.map_err(LogError::ReadCutOff)??;
        // One that was read to its end is no more.
        segments.retain(|segment| segment.sealed.get().is_none_or(|end| *end > position));
        let found = !segments.is_empty();
        self.queue = Arc::new(Queue::new(segments));
        Ok(found)
    }
}

impl LogChunk {
    /// Position after it.
    pub fn end(&self) -> u64 {
        match self {
            Self::Bytes { position, bytes, .. } => position + bytes.len() as u64,
            Self::Gap { position, bytes } => position + bytes,
            Self::Dropped { position, .. } => *position,
        }
    }
}
