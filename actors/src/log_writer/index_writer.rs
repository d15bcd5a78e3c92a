//! The current log file's index, for writing: where its next record goes, and the state after the last byte.
//!
//! ```text
//!   chunk   [none] ──▶ [without a byte] ──bytes──▶ [with bytes] ──another stream or millisecond──▶ the next one is
//!                        │        ▲                                                                 appended
//!                        └────────┘ another stream or millisecond: it is replaced
//!
//!   gap     [none] ──first drop──▶ [marked] ──further drops──▶ the mark's count is raised in place
//!              ▲                      │
//!              └──────────────────────┘ a byte is on file, or the index was opened anew
//! ```
//!
//! A gap is output that is dropped while the log cannot be written (`LogBacklog::Drop`): counted per stream, and
//! marked where it would have been. The count is raised before the bytes are read, so that a crash in between claims
//! too many, never too few. A full disk takes the mark even so: room for two of them is allocated behind the index
//! before anything else is written to it ([`IndexWriter::reserve_marks`]). What still cannot be marked (the index
//! cannot be opened) is counted in memory, and marked when it can be.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use sandpen_types::error_chain::error_chain;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::spec::LogBacklog;

use super::files::{LockedIndex, create_index};
use super::index::{HEADER_LEN, Header, RECORD_LEN, Record, Walk};
use super::names::index_name;
use super::segment::{header_after, unknown_header};
use super::{LogConfig, LogError, StreamTotals};

/// Room that is allocated at once behind an index.
pub(super) const RESERVE_BYTES: u64 = 4096;

/// The newest chunk record.
#[derive(Debug, Clone, Copy)]
struct LastChunk {
    stream: OutputStream,
    at_us: u64,
    /// No byte came after it yet: it may be replaced.
    empty: bool,
}

/// What one stream's gap at the current position is.
#[derive(Debug, Clone, Copy, Default)]
struct Gap {
    /// Where its mark is in the index, and how many bytes that says.
    mark: Option<(u64, u64)>,
    /// Dropped and not marked yet.
    unmarked: u64,
}

/// See the module. While the index is closed, it knows what is in it.
#[derive(Debug)]
pub(super) struct IndexWriter {
    path: PathBuf,
    /// This writer's.
    generation: u64,
    backlog: LogBacklog,
    file: Option<LockedIndex>,
    len: u64,
    last: Option<LastChunk>,
    /// Room is allocated up to here, with `LogBacklog::Drop`.
    reserved: u64,
    /// The state after the last byte, in this writer's generation once `marked`.
    end: Walk,
    /// Whether the files say that our generation has begun.
    marked: bool,
    /// Whether nobody knows how much of each stream it has written.
    lost_count: bool,
    stdout: Gap,
    stderr: Gap,
}

/// An index that was made for a file that is not there yet.
#[derive(Debug)]
pub(super) struct NewIndex {
    file: LockedIndex,
    header: Header,
    len: u64,
    end: Walk,
}

impl NewIndex {
    /// What it says of the file's first byte.
    pub fn header(&self) -> Header {
        self.header
    }
}

impl IndexWriter {
    /// Nothing is known yet.
    pub fn new(config: &LogConfig) -> Self {
        Self {
            path: index_name(&config.path, 0),
            generation: config.generation,
            backlog: config.limits.backlog,
            file: None,
            len: 0,
            last: None,
            reserved: 0,
            end: Walk::new(&unknown_header(0)),
            marked: false,
            lost_count: false,
            stdout: Gap::default(),
            stderr: Gap::default(),
        }
    }

    /// Goes on behind what earlier writers left.
    pub fn take_over(&mut self, end: Walk, len: u64, lost_count: bool) {
        (self.end, self.len, self.lost_count) = (end, len, lost_count);
        self.marked = end.generation == self.generation;
    }

    /// Makes the index of the next file. It is in use from [`IndexWriter::use_new`] on.
    pub fn make_next(&self, log: &Path, now_us: u64) -> Result<NewIndex, LogError> {
        let mut end = self.end;
        if !self.marked {
            begin_generation(&mut end, self.generation);
        }
        end.lost_count = self.lost_count;
        let header = header_after(&end, now_us);
        let before = told_before(&end);
        let len = HEADER_LEN + before.len() as u64 * RECORD_LEN;
        Ok(NewIndex { file: create_index(log, &header, &before)?, header, len, end })
    }

    /// Goes on in a new file's index, whose header tells the generation too; answers the open file.
    pub fn use_new(&mut self, NewIndex { file, len, end, .. }: NewIndex) -> Arc<File> {
        (self.end, self.len, self.last) = (end, len, None);
        self.marked = true;
        self.use_file(file)
    }

    /// Goes on in the index that it knows, opened again.
    pub fn open(&mut self, file: LockedIndex) -> Result<Arc<File>, LogError> {
        let len = file.file().metadata().map_err(LogError::file("looking at", &self.path))?.len();
        if len != self.len {
            // Only then: it would give back the room that was allocated for marks.
            file.file().set_len(self.len).map_err(LogError::file("shortening", &self.path))?;
        }
        Ok(self.use_file(file))
    }

    fn use_file(&mut self, file: LockedIndex) -> Arc<File> {
        // Another file, or shortened: the allocated room is gone.
        self.reserved = 0;
        self.gaps_end();
        Arc::clone(self.file.insert(file).file())
    }

    /// Closes the file; what it says stays known.
    pub fn close(&mut self) {
        self.file = None;
    }

    /// How long it is.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The state after the last byte.
    pub fn end(&self) -> &Walk {
        &self.end
    }

    /// The position of our generation's first byte, if the files say that it has begun.
    pub fn generation_start(&self) -> Option<u64> {
        self.marked.then_some(self.end.generation_start)
    }

    /// What this writer's generation has on file, and has dropped.
    pub fn totals(&self) -> StreamTotals {
        let mut totals = if self.marked { self.end.totals() } else { StreamTotals::default() };
        totals.position = self.end.position;
        totals.dropped_stdout += self.stdout.unmarked;
        totals.dropped_stderr += self.stderr.unmarked;
        totals
    }

    /// Counts `bytes` of a chunk that are on file; answers their position.
    pub fn advance(&mut self, stream: OutputStream, bytes: u64) -> u64 {
        let position = self.end.position;
        if bytes > 0 {
            self.gaps_end();
        }
        if let Some(last) = &mut self.last {
            last.empty &= bytes == 0;
        }
        self.end.stream = stream;
        self.end.advance_to(position + bytes);
        position
    }

    /// Says that our generation begins here, unless that is said already.
    pub fn mark_generation(&mut self) -> Result<(), LogError> {
        if self.marked {
            return Ok(());
        }
        let position = self.end.position;
        let begin = Record::Generation { position, generation: self.generation };
        let lost = self.lost_count.then_some(Record::LostCount { position });
        self.append(&[Some(begin), lost].into_iter().flatten().collect::<Vec<_>>())?;
        begin_generation(&mut self.end, self.generation);
        self.end.lost_count = self.lost_count;
        self.marked = true;
        Ok(())
    }

    /// Says whose the next bytes are.
    pub fn mark_chunk(&mut self, stream: OutputStream, at_us: u64) -> Result<(), LogError> {
        if let Some(last) = self.last {
            if last.stream == stream && last.at_us / 1000 == at_us / 1000 {
                return Ok(());
            }
            if last.empty {
                self.len -= RECORD_LEN;
                self.last = None;
            }
        }
        self.append(&[Record::Chunk { position: self.end.position, stream, at_us }])?;
        self.last = Some(LastChunk { stream, at_us, empty: true });
        Ok(())
    }

    fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        let Some(file) = &self.file else { return Err(LogError::Closed) };
        let bytes: Vec<u8> = records.iter().flat_map(Record::encode).collect();
        if let Err(e) = file.file().write_all_at(&bytes, self.len) {
            // Half a record would be harmless to readers, but it is ours to tidy.
            let _ = file.file().set_len(self.len);
            return Err(LogError::file("writing", &self.path)(e));
        }
        self.appended(records.len() as u64);
        Ok(())
    }

    /// The chunk record before is not the last one any more: it must not be replaced.
    fn appended(&mut self, records: u64) {
        self.len += records * RECORD_LEN;
        self.last = None;
    }

    /// With `LogBacklog::Drop`: allocates room for one record and two marks behind the index.
    pub fn reserve_marks(&mut self) -> Result<(), LogError> {
        let Some(file) = &self.file else { return Ok(()) };
        let needed = self.len + 3 * RECORD_LEN;
        if self.backlog != LogBacklog::Drop || needed <= self.reserved {
            return Ok(());
        }
        let allocate = |len: u64| {
            let from = self.len.cast_signed();
            fallocate(&**file.file(), FallocateFlags::FALLOC_FL_KEEP_SIZE, from, len.cast_signed()).map(|()| len)
        };
        // What an earlier writer allocated is there still, on a full disk too.
        match allocate(RESERVE_BYTES).or_else(|_| allocate(3 * RECORD_LEN)) {
            Ok(len) => self.reserved = self.len + len,
            // A file system without it: a mark may have to wait for room then.
            Err(Errno::EOPNOTSUPP) => self.reserved = u64::MAX,
            Err(e) => return Err(LogError::file("allocating room behind", &self.path)(e.into())),
        }
        Ok(())
    }

    fn gap(&mut self, stream: OutputStream) -> &mut Gap {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    /// The next drop begins another gap.
    fn gaps_end(&mut self) {
        (self.stdout.mark, self.stderr.mark) = (None, None);
    }

    /// Counts and marks bytes that are about to be dropped.
    pub fn drop_bytes(&mut self, stream: OutputStream, bytes: u64) {
        self.gap(stream).unmarked += bytes;
        self.flush_mark(stream);
    }

    /// Takes back what was counted and then not dropped.
    pub fn undrop_bytes(&mut self, stream: OutputStream, bytes: u64) {
        let gap = self.gap(stream);
        let of_unmarked = bytes.min(gap.unmarked);
        gap.unmarked -= of_unmarked;
        let (left, mark) = (bytes - of_unmarked, gap.mark);
        if let Some((offset, marked)) = mark
            && left > 0
            && self.write_mark(stream, offset, marked - left.min(marked)).is_ok()
        {
            let dropped = self.end.dropped_mut(stream);
            *dropped = dropped.saturating_sub(left);
            self.gap(stream).mark = Some((offset, marked - left.min(marked)));
        }
    }

    /// Marks what could not be marked before, now that the index is open.
    pub fn flush_marks(&mut self) {
        self.flush_mark(OutputStream::Stdout);
        self.flush_mark(OutputStream::Stderr);
    }

    fn flush_mark(&mut self, stream: OutputStream) {
        let Gap { mark, unmarked } = *self.gap(stream);
        if unmarked == 0 || !self.marked || self.file.is_none() {
            return;
        }
        let (offset, marked) = mark.unwrap_or((self.len, 0));
        if let Err(error) = self.write_mark(stream, offset, marked + unmarked) {
            tracing::debug!(error = error_chain(&error), "a gap in a log is marked later");
            return;
        }
        if mark.is_none() {
            self.appended(1);
        }
        *self.end.dropped_mut(stream) += unmarked;
        *self.gap(stream) = Gap { mark: Some((offset, marked + unmarked)), unmarked: 0 };
    }

    fn write_mark(&self, stream: OutputStream, offset: u64, bytes: u64) -> Result<(), LogError> {
        let Some(file) = &self.file else { return Err(LogError::Closed) };
        let record = Record::Dropped { position: self.end.position, stream, bytes };
        file.file().write_all_at(&record.encode(), offset).map_err(LogError::file("writing", &self.path))
    }
}

/// Nothing of the generation is on file yet.
fn begin_generation(end: &mut Walk, generation: u64) {
    (end.generation, end.generation_start) = (generation, end.position);
    (end.stdout, end.stderr) = (0, 0);
    (end.dropped_stdout, end.dropped_stderr) = (0, 0);
    end.lost_count = false;
}

/// What the files before this one say and a header does not, for its index: of dropped bytes, and of lost counts.
pub(super) fn told_before(end: &Walk) -> Vec<Record> {
    let dropped = [(OutputStream::Stdout, end.dropped_stdout), (OutputStream::Stderr, end.dropped_stderr)]
        .into_iter()
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(stream, bytes)| Record::DroppedBefore { position: end.position, stream, bytes });
    dropped.chain(end.lost_count.then_some(Record::LostCount { position: end.position })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_tells_what_was_dropped_before_it_by_stream() {
        let mut end = Walk::new(&unknown_header(100));
        assert_eq!(told_before(&end), []);
        end.dropped_stderr = 7;
        let stderr = Record::DroppedBefore { position: 100, stream: OutputStream::Stderr, bytes: 7 };
        assert_eq!(told_before(&end), [stderr]);
        end.dropped_stdout = 1;
        let stdout = Record::DroppedBefore { position: 100, stream: OutputStream::Stdout, bytes: 1 };
        assert_eq!(told_before(&end), [stdout, stderr]);
        end.lost_count = true;
        assert_eq!(told_before(&end), [stdout, stderr, Record::LostCount { position: 100 }]);
    }
}
