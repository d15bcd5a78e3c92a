//! Output that is dropped while the log cannot be written (`LogBacklog::Drop`): counted per stream, and
//! marked in the index where it would have been.
//!
//! ```text
//!   no gap ──first drop──▶ a mark is appended ──further drops──▶ the mark's count is raised in place
//!      ▲                                                              │
//!      └──────────────── a byte is on file, or a new file ────────────┘
//! ```
//!
//! The count is raised before the bytes are read, so that a crash in between claims too many, never too
//! few. A full disk takes the mark all the same: room for two of them is allocated behind the index
//! before anything else is written to it ([`Store::reserve_marks`]). What cannot be marked even so (the
//! index cannot be opened) is counted in memory, and marked when it can be.

use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::LogError;
use super::files::options;
use super::index::{RECORD_LEN, Record};
use super::names::index_name;
use super::store::Store;
use crate::driver::OutputStream;
use crate::spec::LogBacklog;

/// Room that is allocated at once behind an index.
const RESERVE_BYTES: u64 = 4096;

/// What one stream's gap at the current position is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Gap {
    /// Where its mark is in the index, and how many bytes that says.
    mark: Option<(u64, u64)>,
    /// Dropped and not marked yet.
    unmarked: u64,
}

/// The gaps of both streams, and the room for their marks.
#[derive(Debug, Default)]
pub(super) struct Dropping {
    stdout: Gap,
    stderr: Gap,
    /// The index has room allocated up to here.
    reserved: u64,
}

impl Dropping {
    fn gap(&mut self, stream: OutputStream) -> &mut Gap {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    /// Dropped and not marked yet: part of what was dropped all the same.
    pub fn unmarked(&self) -> (u64, u64) {
        (self.stdout.unmarked, self.stderr.unmarked)
    }

    /// A byte is on file: the next drop begins another gap.
    pub fn gap_ends(&mut self) {
        (self.stdout.mark, self.stderr.mark) = (None, None);
    }

    /// The index is another one, or was opened anew: shortening it has given back its room.
    pub fn index_changed(&mut self) {
        self.gap_ends();
        self.reserved = 0;
    }
}

impl Store {
    /// Makes sure that `Drop` can mark a gap on a full disk: files, generation and room for the marks.
    pub fn prepare_to_drop(&mut self, now_us: u64) -> Result<(), LogError> {
        self.recover()?;
        self.ensure_open(now_us)?;
        self.mark()?;
        self.reserve_marks()
    }

    /// Allocates room for one record and two marks behind the index.
    pub fn reserve_marks(&mut self) -> Result<(), LogError> {
        let (Some(current), Some(place)) = (&self.current, &self.place) else { return Ok(()) };
        let needed = place.index_len + 3 * RECORD_LEN;
        if self.config.limits.backlog != LogBacklog::Drop || needed <= self.dropping.reserved {
            return Ok(());
        }
        let allocate = |len: u64| {
            let from = place.index_len.cast_signed();
            fallocate(&*current.index, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, len.cast_signed()).map(|()| len)
        };
        // What an earlier writer allocated is there still, on a full disk too.
        match allocate(RESERVE_BYTES).or_else(|_| allocate(3 * RECORD_LEN)) {
            Ok(len) => self.dropping.reserved = place.index_len + len,
            // A file system without it: a mark may have to wait for room then.
            Err(Errno::EOPNOTSUPP) => self.dropping.reserved = u64::MAX,
            Err(e) => {
                return Err(LogError::file("allocating room behind", &index_name(&self.config.path, 0))(e.into()));
            }
        }
        Ok(())
    }

    /// Whether another file can be begun, with its index and room for marks: without, the current one stays,
    /// which has room for a mark.
    pub fn room_to_begin(&self) -> Result<(), LogError> {
        let Some(directory) = self.config.path.parent().filter(|_| self.config.limits.backlog == LogBacklog::Drop)
        else {
            return Ok(());
        };
        // A file without a name: nothing is left of it.
        let file = options().custom_flags(nix::libc::O_TMPFILE).open(directory);
        let allocated = file.map(|file| fallocate(&file, FallocateFlags::empty(), 0, 2 * RESERVE_BYTES.cast_signed()));
        match allocated {
            Ok(Err(e @ (Errno::ENOSPC | Errno::EDQUOT))) => {
                Err(LogError::file("allocating room in", directory)(e.into()))
            }
            // What else is wrong shows when the file is made.
            _ => Ok(()),
        }
    }

    /// Counts and marks bytes that are about to be dropped.
    pub fn drop_bytes(&mut self, stream: OutputStream, bytes: u64) {
        self.dropping.gap(stream).unmarked += bytes;
        self.flush_mark(stream);
    }

    /// Takes back what was counted and then not dropped.
    pub fn undrop_bytes(&mut self, stream: OutputStream, bytes: u64) {
        let gap = self.dropping.gap(stream);
        let of_unmarked = bytes.min(gap.unmarked);
        gap.unmarked -= of_unmarked;
        let (left, mark) = (bytes - of_unmarked, gap.mark);
        if let Some((offset, marked)) = mark
            && left > 0
            && self.write_mark(stream, offset, marked - left.min(marked)).is_ok()
        {
            let dropped = self.end.dropped_mut(stream);
            *dropped = dropped.saturating_sub(left);
            self.dropping.gap(stream).mark = Some((offset, marked - left.min(marked)));
        }
    }

    /// Marks what could not be marked before, now that the index is open.
    pub fn flush_marks(&mut self) {
        self.flush_mark(OutputStream::Stdout);
        self.flush_mark(OutputStream::Stderr);
    }

    fn flush_mark(&mut self, stream: OutputStream) {
        let Gap { mark, unmarked } = *self.dropping.gap(stream);
        if unmarked == 0 || !self.marked || self.current.is_none() {
            return;
        }
        let Some(place) = &mut self.place else { return };
        let (offset, marked) = mark.unwrap_or((place.index_len, 0));
        let is_new = mark.is_none();
        if let Err(error) = self.write_mark(stream, offset, marked + unmarked) {
            let error = crate::driver::error_chain(&error);
            tracing::debug!(error, "a gap in a log is marked later");
            return;
        }
        if is_new && let Some(place) = &mut self.place {
            place.index_len += RECORD_LEN;
            // The record before is not the last one any more: it must not be replaced.
            place.last = None;
        }
        *self.end.dropped_mut(stream) += unmarked;
        *self.dropping.gap(stream) = Gap { mark: Some((offset, marked + unmarked)), unmarked: 0 };
    }

    fn write_mark(&self, stream: OutputStream, offset: u64, bytes: u64) -> Result<(), LogError> {
        let Some(current) = &self.current else { return Err(LogError::Closed) };
        let record = Record::Dropped { position: self.end.position, stream, bytes };
        let written = current.index.write_all_at(&record.encode(), offset);
        written.map_err(LogError::file("writing", &index_name(&self.config.path, 0)))
    }
}
