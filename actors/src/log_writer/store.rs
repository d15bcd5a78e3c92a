//! The files that a log writer writes: where the next byte goes, and when the next file begins.
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

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use sandpen_types::backoff::{Backoff, Pauses};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::spec::LogBacklog;

use super::files::{KnownFile, LockedIndex, check_room, open_existing, options};
use super::follower::Queue;
use super::generation::position_of_generation;
use super::index::Header;
use super::index_writer::{IndexWriter, RESERVE_BYTES};
use super::names::{self, index_name};
use super::open_logs::OpenLog;
use super::recover::recover;
use super::segment::Segment;
use super::shared_segments::SharedSegments;
use super::{FollowFrom, LogConfig, LogError, StreamTotals};

/// An index may grow to this size before its log is rotated, if that is more than the log's own
/// limit: a workload that writes single bytes must not fill the disk with index records.
const INDEX_MAX_LEAST: u64 = 64 << 10;

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
    config: LogConfig,
    recovered: bool,
    /// Whether the files could not say how much of each stream this generation has written.
    lost_count: bool,
    /// The current file, open or not.
    file: Option<KnownFile>,
    /// The same while it is open; its index is open too then.
    current: Option<(Arc<Segment>, OpenLog)>,
    index: IndexWriter,
    segments: SharedSegments,
    rotation: Backoff,
    notes: Vec<Note>,
}

impl Store {
    /// Touches no file yet.
    pub fn new(config: LogConfig) -> Self {
        Self {
            index: IndexWriter::new(&config),
            config,
            recovered: false,
            lost_count: false,
            file: None,
            current: None,
            segments: SharedSegments::default(),
            rotation: Backoff::new(Pauses::STORAGE),
            notes: Vec::new(),
        }
    }

    /// Finds out what earlier writers left. Does nothing the second time.
    pub fn recover(&mut self) -> Result<(), LogError> {
        if self.recovered {
            return Ok(());
        }
        let left = recover(&self.config.path)?;
        self.lost_count = left.lost_count;
        self.note_lost(left.missing);
        self.file = left.file.map(|(file, _)| file);
        if let Some(end) = left.end {
            let lost_count = end.lost_count && !self.config.begins_generation;
            self.index.take_over(end, left.file.map_or(0, |(_, index_len)| index_len), lost_count);
        }
        self.recovered = true;
        Ok(())
    }

    /// What this writer's generation has on file.
    pub fn totals(&self) -> StreamTotals {
        self.index.totals()
    }

    /// Whether it is known what earlier writers left.
    pub fn is_recovered(&self) -> bool {
        self.recovered
    }

    /// Whether [`Store::totals`] may lack bytes that this generation has written: its index was lost, or nobody has
    /// been able to look yet.
    pub fn has_lost_count(&self) -> bool {
        (self.lost_count || !self.recovered) && !self.config.begins_generation
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
            self.close_files();
        }
    }

    /// Closes the files; followers keep theirs.
    pub fn close_files(&mut self) {
        self.current = None;
        self.index.close();
    }

    /// Opens the files again, by name; makes them if somebody moved them away.
    pub fn reopen(&mut self, now_us: u64) -> Result<(), LogError> {
        self.recover()?;
        self.close_files();
        if self.file.is_some() { self.ensure_open(now_us) } else { Ok(()) }
    }

    /// The open files, to be written out to the disk.
    pub fn files(&mut self) -> Result<Option<Arc<Segment>>, LogError> {
        self.open_known()?;
        Ok(self.current.as_ref().map(|(segment, _)| Arc::clone(segment)))
    }

    fn note_lost(&mut self, bytes: u64) {
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
        let is_full = self.file.is_some_and(|file| is_full(file.len, self.index.len(), max, need));
        if is_full && self.rotation.is_ready(Instant::now()) {
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
        self.index.mark_generation()?;
        self.index.reserve_marks()?;
        self.index.flush_marks();
        self.index.mark_chunk(stream, now_us)?;
        let (Some((segment, _)), Some(file)) = (&self.current, &self.file) else { return Err(LogError::Closed) };
        // A file that could not be rotated goes on beyond its limit.
        let free = if file.len < max { max - file.len } else { u64::MAX };
        Ok(Room { segment: Arc::clone(segment), offset: file.len, free })
    }

    /// Counts `bytes` that were written where [`Store::prepare`] said; answers their position.
    pub fn advance(&mut self, stream: OutputStream, bytes: u64) -> u64 {
        if let Some(file) = &mut self.file {
            file.len += bytes;
        }
        self.index.advance(stream, bytes)
    }

    /// Has the generation in the index even if it wrote nothing, unless there is no log at all.
    pub fn mark_generation(&mut self) -> Result<(), LogError> {
        self.recover()?;
        self.open_known()?;
        if self.current.is_some() {
            self.index.mark_generation()?;
            self.index.flush_marks();
        }
        Ok(())
    }

    /// Makes sure that [`Store::drop_bytes`] can mark a gap on a full disk: files, generation and room for the marks.
    pub fn prepare_to_drop(&mut self, now_us: u64) -> Result<(), LogError> {
        self.recover()?;
        self.ensure_open(now_us)?;
        self.index.mark_generation()?;
        self.index.reserve_marks()
    }

    /// With `LogBacklog::Drop`: whether another file can be begun, with its index and room for marks. Without, the
    /// current one stays, which has room for a mark.
    fn room_to_begin(&self) -> Result<(), LogError> {
        match self.config.path.parent() {
            Some(directory) if self.config.limits.backlog == LogBacklog::Drop => {
                check_room(directory, 2 * RESERVE_BYTES)
            }
            _ => Ok(()),
        }
    }

    /// Counts and marks bytes that are about to be dropped.
    pub fn drop_bytes(&mut self, stream: OutputStream, bytes: u64) {
        self.index.drop_bytes(stream, bytes);
    }

    /// Takes back what was counted and then not dropped.
    pub fn undrop_bytes(&mut self, stream: OutputStream, bytes: u64) {
        self.index.undrop_bytes(stream, bytes);
    }

    /// Nothing more is added to the current file.
    fn seal(&mut self) {
        self.segments.seal(self.index.end().position);
        self.close_files();
        self.file = None;
    }

    /// Opens the current files, begins them if there are none, and sets aside what was changed from
    /// outside: truncated, moved away, deleted, written by somebody else.
    fn ensure_open(&mut self, now_us: u64) -> Result<(), LogError> {
        self.open_known()?;
        if self.current.is_some() {
            return Ok(());
        }
        let log = self.config.path.clone();
        let meta = fs::symlink_metadata(&log);
        if let (Some(file), Ok(meta)) = (&self.file, &meta)
            && (meta.dev(), meta.ino()) == file.identity
        {
            self.note_lost(file.len.saturating_sub(meta.len()));
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
        let Some(known) = self.file else {
            self.close_files();
            return Ok(());
        };
        let log = &self.config.path;
        if let Some((segment, _)) = &self.current {
            let meta = segment.log.metadata().map_err(LogError::file("looking at", log))?;
            if meta.nlink() > 0 && meta.len() == known.len {
                return Ok(());
            }
            self.close_files();
        }
        let log = &self.config.path;
        let Some(log_file) = open_existing(log)? else { return Ok(()) };
        let meta = log_file.metadata().map_err(LogError::file("looking at", log))?;
        if (meta.dev(), meta.ino()) != known.identity || meta.len() != known.len {
            return Ok(());
        }
        // A follower may have kept it open.
        if let Some(segment) = self.segments.newest()
            && let Some(index) = segment.index.clone()
        {
            self.index.open(LockedIndex::lock(index, log)?)?;
            self.use_segment(segment);
            return Ok(());
        }
        let index_path = index_name(log, 0);
        let Some(index) = open_existing(&index_path)? else { return Ok(()) };
        let index = LockedIndex::lock(Arc::new(index), log)?;
        let index_len = index.file().metadata().map_err(LogError::file("looking at", &index_path))?.len();
        let header = match Header::read(index.file()).map_err(LogError::file("reading", &index_path))? {
            Some(header) if header.base == known.base && index_len >= self.index.len() => header,
            _ => return Ok(()),
        };
        let index = self.index.open(index)?;
        self.use_segment(Arc::new(Segment { log: log_file, index: Some(index), header, sealed: OnceLock::new() }));
        Ok(())
    }

    /// Makes new current files; their names are free.
    fn begin_file(&mut self, now_us: u64) -> Result<(), LogError> {
        let log = &self.config.path;
        if let Some(directory) = log.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(LogError::file("making the directory", directory))?;
        }
        let index = self.index.make_next(log, now_us)?;
        let header = index.header();
        let log_file = options().create_new(true).open(log).map_err(LogError::file("making", log))?;
        let meta = log_file.metadata().map_err(LogError::file("looking at", log))?;
        self.file = Some(KnownFile { base: header.base, len: 0, identity: (meta.dev(), meta.ino()) });
        let index = self.index.use_new(index);
        self.use_segment(Arc::new(Segment { log: log_file, index: Some(index), header, sealed: OnceLock::new() }));
        Ok(())
    }

    fn use_segment(&mut self, segment: Arc<Segment>) {
        self.segments.begin(&segment);
        self.current = Some((segment, self.config.open_logs.count()));
    }

    /// The segments that a new follower begins with, and its position.
    pub fn follow(&mut self, from: FollowFrom) -> Result<(Arc<Queue>, u64), LogError> {
        self.recover()?;
        self.open_known()?;
        let end = self.index.end().position;
        let start = match from {
            FollowFrom::Oldest => 0,
            FollowFrom::Generation(number) if number < self.config.generation => {
                position_of_generation(&self.config.path, number)?
            }
            FollowFrom::Generation(number) if number > self.config.generation => end,
            FollowFrom::LatestGeneration | FollowFrom::Generation(_) => self.index.generation_start().unwrap_or(end),
            FollowFrom::Position(position) => position,
        };
        let current = self.current.as_ref().map(|(segment, _)| segment);
        let (queue, oldest) = self.segments.follow(&self.config.path, start, end, current)?;
        Ok((queue, if from == FollowFrom::Oldest { oldest } else { start }))
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

/// Whether `need` more bytes go into the next file.
fn is_full(len: u64, index_len: u64, max: u64, need: u64) -> bool {
    len > 0 && (len.saturating_add(need) > max || index_len >= max.max(INDEX_MAX_LEAST))
}

#[cfg(test)]
mod tests;
