//! The files that a log writer writes: where the next byte goes, and the state over restarts.
//!
//! ```text
//!            recover                 prepare                 full: rotate
//!   [new] ───────────▶ [closed] ───────────────▶ [open] ───────────────────▶ [open]
//!                          ▲                       │
//!                          └───────────────────────┘
//!                             idle, Reopen, Close, the file was changed from outside
//! ```
//!
//! No actor and no pipe in here; every call blocks for a few file operations.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use super::backoff::Backoff;
use super::dropping::Dropping;
use super::files::{Unlock, create_index, lock, open_existing, options};
use super::follower::Queue;
use super::generation::position_of_generation;
use super::index::{HEADER_LEN, Header, RECORD_LEN, Record, Walk};
use super::names::{self, index_name};
use super::open_logs::OpenLog;
use super::segment::{self, Hold, Segment, header_after, unknown_header};
use super::{FollowFrom, LogConfig, LogError, StreamTotals};
use crate::driver::OutputStream;

/// An index may grow to this size before its log is rotated, if that is more than the log's own
/// limit: a workload that writes single bytes must not fill the disk with index records.
const INDEX_MAX_LEAST: u64 = 64 << 10;

/// What we know of the current file, open or not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) base: u64,
    pub(super) len: u64,
    pub(super) index_len: u64,
    pub(super) last: Option<LastChunk>,
    pub(super) identity: (u64, u64),
}

/// The newest chunk record.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastChunk {
    stream: OutputStream,
    at_us: u64,
    /// No byte came after it yet: it may be replaced.
    empty: bool,
}

/// The current files while they are open.
#[derive(Debug)]
pub(super) struct Current {
    segment: Arc<Segment>,
    pub(super) index: Arc<File>,
    _counted: OpenLog,
}

impl Drop for Current {
    fn drop(&mut self) {
        // A follower may hold the same open file for long: the lock must not stay with it.
        drop(Unlock(&self.index));
    }
}

/// Where the next bytes go.
#[derive(Debug)]
pub(super) struct Room {
    /// The file.
    pub segment: Arc<Segment>,
    /// The offset in it.
    pub offset: u64,
    /// How many bytes fit.
    pub free: u64,
}

/// Something to be told that does not stop the log.
#[derive(Debug)]
pub(super) enum Note {
    /// The log grows beyond its limit.
    RotationFailed(LogError),
    /// A rotation worked again.
    RotationWorks,
    /// Bytes are gone: somebody truncated the file or the machine lost them.
    Lost(u64),
}

/// The files of one log, for writing.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) config: LogConfig,
    pub(super) recovered: bool,
    /// Whether the files could not say how much of each stream this generation has written.
    pub(super) lost_count: bool,
    /// The state after the last byte, in this writer's generation once `marked`.
    pub(super) end: Walk,
    /// Whether the files say that our generation has begun.
    pub(super) marked: bool,
    pub(super) place: Option<Place>,
    pub(super) current: Option<Current>,
    /// The current segment, which followers may hold while we have closed it.
    pub(super) last_segment: Weak<Segment>,
    pub(super) rotated: Vec<Weak<Segment>>,
    pub(super) followers: Vec<Weak<Queue>>,
    pub(super) rotation: Backoff,
    pub(super) notes: Vec<Note>,
    /// Gaps, with `LogBacklog::Drop`.
    pub(super) dropping: Dropping,
}

impl Store {
    /// Touches no file yet.
    pub fn new(config: LogConfig) -> Self {
        Self {
            config,
            recovered: false,
            lost_count: false,
            end: Walk::new(&unknown_header(0)),
            marked: false,
            place: None,
            current: None,
            last_segment: Weak::new(),
            rotated: Vec::new(),
            followers: Vec::new(),
            rotation: Backoff::default(),
            notes: Vec::new(),
            dropping: Dropping::default(),
        }
    }

    /// What this writer's generation has on file.
    pub fn totals(&self) -> StreamTotals {
        let mut totals = if self.marked { self.end.totals() } else { StreamTotals::default() };
        totals.position = self.end.position;
        let (stdout, stderr) = self.dropping.unmarked();
        totals.dropped_stdout += stdout;
        totals.dropped_stderr += stderr;
        totals
    }

    /// Whether [`Store::totals`] may lack bytes that this generation has written: its index was lost.
    pub fn has_lost_count(&self) -> bool {
        self.lost_count && !self.config.begins_generation
    }

    /// What happened since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Whether files are open.
    pub fn is_open(&self) -> bool {
        self.current.is_some()
    }

    /// Closes the files, if more logs than are comfortable have theirs open.
    pub fn make_room(&mut self) {
        if self.config.open_logs.are_crowded() {
            self.current = None;
        }
    }

    /// Closes the files; followers keep theirs.
    pub fn close_files(&mut self) {
        self.current = None;
    }

    /// Opens the files again, by name; makes them if somebody moved them away.
    pub fn reopen(&mut self, now_us: u64) -> Result<(), LogError> {
        self.recover()?;
        self.current = None;
        if self.place.is_some() { self.ensure_open(now_us) } else { Ok(()) }
    }

    /// The open files, to be written out to the disk.
    pub fn files(&mut self) -> Result<Option<Arc<Segment>>, LogError> {
        self.open_known()?;
        Ok(self.current.as_ref().map(|current| Arc::clone(&current.segment)))
    }

    pub(super) fn note_lost(&mut self, bytes: u64) {
        if bytes > 0 {
            self.notes.push(Note::Lost(bytes));
        }
    }

    /// Makes room for `need` bytes of `stream` and says where they go. The index knows of them when
    /// this answers; [`Store::advance`] must follow for what was written.
    pub fn prepare(&mut self, stream: OutputStream, now_us: u64, need: u64) -> Result<Room, LogError> {
        self.recover()?;
        self.ensure_open(now_us)?;
        let max = self.config.limits.max_bytes.max(1);
        if self.place.is_some_and(|place| place.is_full(max, need)) && self.rotation.is_ready(Instant::now()) {
            match self.room_to_begin().and_then(|()| names::shift(&self.config.path, self.config.limits.keep)) {
                Ok(()) => {
                    if self.rotation.succeeded() {
                        self.notes.push(Note::RotationWorks);
                    }
                    self.seal();
                    self.begin_file(now_us)?;
                }
                Err(e) => {
                    if self.rotation.failed(Instant::now()) {
                        self.notes.push(Note::RotationFailed(e));
                    }
                }
            }
        }
        self.mark()?;
        self.reserve_marks()?;
        self.flush_marks();
        self.mark_chunk(stream, now_us)?;
        let (Some(current), Some(place)) = (&self.current, &self.place) else { return Err(LogError::Closed) };
        // A file that could not be rotated goes on beyond its limit.
        let free = if place.len < max { max - place.len } else { u64::MAX };
        Ok(Room { segment: Arc::clone(&current.segment), offset: place.len, free })
    }

    /// Counts `bytes` that were written where [`Store::prepare`] said; answers their position.
    pub fn advance(&mut self, stream: OutputStream, bytes: u64) -> u64 {
        let position = self.end.position;
        if bytes > 0 {
            self.dropping.gap_ends();
        }
        if let Some(place) = &mut self.place {
            place.len += bytes;
            if let Some(last) = &mut place.last {
                last.empty &= bytes == 0;
            }
        }
        self.end.stream = stream;
        self.end.advance_to(position + bytes);
        position
    }

    /// Has the generation in the index even if it wrote nothing, unless there is no log at all.
    pub fn mark_generation(&mut self) -> Result<(), LogError> {
        self.recover()?;
        self.open_known()?;
        if self.current.is_some() {
            self.mark()?;
            self.flush_marks();
        }
        Ok(())
    }

    pub(super) fn mark(&mut self) -> Result<(), LogError> {
        if self.marked {
            return Ok(());
        }
        let generation = self.config.generation;
        self.write_record(&Record::Generation { position: self.end.position, generation })?;
        if let Some(place) = &mut self.place {
            // The record before is not the last one any more: it must not be replaced.
            place.last = None;
        }
        self.end.generation = self.config.generation;
        self.end.generation_start = self.end.position;
        self.end.stdout = 0;
        self.end.stderr = 0;
        (self.end.dropped_stdout, self.end.dropped_stderr) = (0, 0);
        self.marked = true;
        Ok(())
    }

    fn mark_chunk(&mut self, stream: OutputStream, at_us: u64) -> Result<(), LogError> {
        let Some(place) = &mut self.place else { return Ok(()) };
        if let Some(last) = place.last {
            if last.stream == stream && last.at_us / 1000 == at_us / 1000 {
                return Ok(());
            }
            if last.empty {
                place.index_len -= RECORD_LEN;
                place.last = None;
            }
        }
        self.write_record(&Record::Chunk { position: self.end.position, stream, at_us })?;
        if let Some(place) = &mut self.place {
            place.last = Some(LastChunk { stream, at_us, empty: true });
        }
        Ok(())
    }

    fn write_record(&mut self, record: &Record) -> Result<(), LogError> {
        let (Some(current), Some(place)) = (&self.current, &mut self.place) else { return Err(LogError::Closed) };
        if let Err(e) = current.index.write_all_at(&record.encode(), place.index_len) {
            // Half a record would be harmless to readers, but it is ours to tidy.
            let _ = current.index.set_len(place.index_len);
            return Err(LogError::file("writing", &index_name(&self.config.path, 0))(e));
        }
        place.index_len += RECORD_LEN;
        Ok(())
    }

    /// Nothing more is added to the current file.
    fn seal(&mut self) {
        if let Some(segment) = self.last_segment.upgrade() {
            let _ = segment.sealed.set(self.end.position);
            self.rotated.retain(|segment| segment.strong_count() > 0);
            self.rotated.push(Arc::downgrade(&segment));
        }
        self.last_segment = Weak::new();
        self.current = None;
        self.place = None;
    }

    /// Opens the current files, begins them if there are none, and sets aside what was changed from
    /// outside: truncated, moved away, deleted, written by somebody else.
    pub(super) fn ensure_open(&mut self, now_us: u64) -> Result<(), LogError> {
        self.open_known()?;
        if self.current.is_some() {
            return Ok(());
        }
        let log = self.config.path.clone();
        let meta = fs::symlink_metadata(&log);
        if let (Some(place), Ok(meta)) = (&self.place, &meta)
            && (meta.dev(), meta.ino()) == place.identity
        {
            self.note_lost(place.len.saturating_sub(meta.len()));
        }
        match meta {
            Ok(meta) if !meta.is_file() => return Err(LogError::NotRegular(log)),
            Ok(meta) if meta.len() == 0 => names::remove(&log)?,
            Ok(_) => names::shift(&log, self.config.limits.keep)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(LogError::file("looking at", &log)(e)),
        }
        self.seal();
        self.begin_file(now_us)
    }

    /// Opens the current files if they are as we left them; else nothing is open afterwards.
    fn open_known(&mut self) -> Result<(), LogError> {
        let Some(place) = self.place else {
            self.current = None;
            return Ok(());
        };
        let log = &self.config.path;
        if let Some(current) = &self.current {
            let meta = current.segment.log.metadata().map_err(LogError::file("looking at", log))?;
            if meta.nlink() > 0 && meta.len() == place.len {
                return Ok(());
            }
            self.current = None;
        }
        let Some(log_file) = open_existing(log)? else { return Ok(()) };
        let meta = log_file.metadata().map_err(LogError::file("looking at", log))?;
        if (meta.dev(), meta.ino()) != place.identity || meta.len() != place.len {
            return Ok(());
        }
        let held = self.last_segment.upgrade();
        let (segment, index) = if let Some(segment) = held
            && let Some(index) = segment.index.clone()
        {
            lock(&index, log)?;
            (segment, index)
        } else {
            let index_path = index_name(log, 0);
            let Some(index) = open_existing(&index_path)? else { return Ok(()) };
            lock(&index, log)?;
            let unlock = Unlock(&index);
            let read = LogError::file("reading", &index_path);
            let index_len = index.metadata().map_err(LogError::file("looking at", &index_path))?.len();
            let header = match Header::read(&index).map_err(read)? {
                Some(header) if header.base == place.base && index_len >= place.index_len => header,
                _ => return Ok(()),
            };
            // It stays: `Current` gives it back.
            std::mem::forget(unlock);
            let index = Arc::new(index);
            let segment = Segment { log: log_file, index: Some(Arc::clone(&index)), header, sealed: OnceLock::new() };
            (Arc::new(segment), index)
        };
        let index_path = index_name(log, 0);
        if index.metadata().map_err(LogError::file("looking at", &index_path))?.len() != place.index_len {
            // Only then: it would give back the room that was allocated for marks.
            index.set_len(place.index_len).map_err(LogError::file("shortening", &index_path))?;
        }
        self.use_segment(segment, index);
        Ok(())
    }

    /// Makes new current files; their names are free.
    fn begin_file(&mut self, now_us: u64) -> Result<(), LogError> {
        let log = self.config.path.clone();
        if let Some(directory) = log.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(LogError::file("making the directory", directory))?;
        }
        let mut end = self.end;
        if !self.marked {
            (end.generation, end.generation_start) = (self.config.generation, end.position);
            (end.stdout, end.stderr) = (0, 0);
            (end.dropped_stdout, end.dropped_stderr) = (0, 0);
        }
        let header = header_after(&end, now_us);
        let before = dropped_before(&end);
        let index_len = HEADER_LEN + before.len() as u64 * RECORD_LEN;
        let index = Arc::new(create_index(&log, &header, &before)?);
        let log_file = options().create_new(true).open(&log).map_err(LogError::file("making", &log))?;
        let meta = log_file.metadata().map_err(LogError::file("looking at", &log))?;
        self.end = end;
        self.marked = true;
        let identity = (meta.dev(), meta.ino());
        self.place = Some(Place { base: header.base, len: 0, index_len, last: None, identity });
        let segment = Segment { log: log_file, index: Some(Arc::clone(&index)), header, sealed: OnceLock::new() };
        self.use_segment(Arc::new(segment), index);
        Ok(())
    }

    fn use_segment(&mut self, segment: Arc<Segment>, index: Arc<File>) {
        if !self.last_segment.upgrade().is_some_and(|last| Arc::ptr_eq(&last, &segment)) {
            self.last_segment = Arc::downgrade(&segment);
            self.followers.retain(|queue| queue.upgrade().is_some_and(|queue| queue.push(Arc::clone(&segment))));
        }
        self.current = Some(Current { segment, index, _counted: self.config.open_logs.count() });
        self.dropping.index_changed();
    }

    /// The segments that a new follower begins with, and its position.
    pub fn follow(&mut self, from: FollowFrom) -> Result<(Arc<Queue>, u64), LogError> {
        self.recover()?;
        self.open_known()?;
        let start = match from {
            FollowFrom::Oldest => 0,
            FollowFrom::Generation(number) if number < self.config.generation => {
                position_of_generation(&self.config.path, number)?
            }
            FollowFrom::Generation(number) if number > self.config.generation => self.end.position,
            FollowFrom::LatestGeneration | FollowFrom::Generation(_) if self.marked => self.end.generation_start,
            FollowFrom::LatestGeneration | FollowFrom::Generation(_) => self.end.position,
            FollowFrom::Position(position) => position,
        };
        let log = &self.config.path;
        let to = match &self.current {
            Some(current) => current.segment.header.base,
            None => self.end.position,
        };
        let mut segments = Vec::new();
        if start < to {
            for segment in segment::open_chain(log, start, to, Hold::Newest)?.segments {
                let mut known = self.rotated.iter().filter_map(Weak::upgrade);
                let shared = known.find(|known| {
                    known.header.base == segment.header.base && known.sealed.get() == segment.sealed.get()
                });
                segments.push(shared.unwrap_or_else(|| {
                    self.rotated.push(Arc::downgrade(&segment));
                    segment
                }));
            }
        }
        segments.extend(self.current.as_ref().map(|current| Arc::clone(&current.segment)));
        let oldest = segments.first().map_or(self.end.position, |segment| segment.header.base);
        let position = if from == FollowFrom::Oldest { oldest } else { start };
        let queue = Arc::new(Queue::new(segments));
        self.followers.retain(|queue| queue.strong_count() > 0);
        self.followers.push(Arc::downgrade(&queue));
        Ok((queue, position))
    }

    /// Takes back bytes after the last counted one; how many stayed if that cannot be done.
    pub fn take_back(room: &Room) -> u64 {
        match room.segment.log.set_len(room.offset) {
            Ok(()) => 0,
            Err(_) => room.segment.log.metadata().map_or(0, |meta| meta.len().saturating_sub(room.offset)),
        }
    }

    /// The current file's name.
    pub fn path(&self) -> &Path {
        &self.config.path
    }
}

impl Place {
    fn is_full(&self, max: u64, need: u64) -> bool {
        self.len > 0 && (self.len.saturating_add(need) > max || self.index_len >= max.max(INDEX_MAX_LEAST))
    }
}

/// What the files before this one say of dropped bytes, for its index.
fn dropped_before(end: &Walk) -> Vec<Record> {
    [(OutputStream::Stdout, end.dropped_stdout), (OutputStream::Stderr, end.dropped_stderr)]
        .into_iter()
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(stream, bytes)| Record::DroppedBefore { position: end.position, stream, bytes })
        .collect()
}

/// The time for records.
pub(super) fn now_us() -> u64 {
    u64::try_from(chrono::Utc::now().timestamp_micros()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
