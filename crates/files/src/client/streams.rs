//! The content of a file from one end to the other, with several requests on their way.
//!
//! ```text
//!   reading: pieces asked for ahead ──▶ a whole one: given ──▶ …
//!               ▲                  └──▶ a short one: given, all others dropped (the file may grow meanwhile), asked from there
//!               └────────────────────────┘   none: the end
//! ```

use std::collections::VecDeque;

use super::calls::done;
use super::open::read;
use super::{Call, FilesError, OpenFile};
use crate::DATA_MAX;

/// Pieces that are on their way at once.
const PIECES_AHEAD: usize = 8;

/// Reads a file, or a part of it.
#[derive(Debug)]
pub struct FileReader {
    file: OpenFile,
    /// Where the next piece to be asked for begins.
    asked: u64,
    end: Option<u64>,
    given: u64,
    begin: u64,
    calls: VecDeque<(u32, Call)>,
    is_over: bool,
}

impl FileReader {
    /// From `offset` on, `length` bytes or up to its end.
    pub fn new(file: OpenFile, offset: u64, length: Option<u64>) -> Self {
        let end = length.map(|length| offset.saturating_add(length));
        Self { file, asked: offset, end, given: offset, begin: offset, calls: VecDeque::new(), is_over: false }
    }

    /// Where the next bytes are in the file.
    pub fn position(&self) -> u64 {
        self.given
    }

    /// The next bytes, at most [`DATA_MAX`]; `None` at the end of the file or of the part. Safe to cancel.
    ///
    /// # Errors
    /// What the guest says, or is wrong with it.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, FilesError> {
        if self.is_over {
            return Ok(None);
        }
        self.ask();
        let Some((length, call)) = self.calls.front_mut() else {
            self.is_over = true;
            return Ok(None);
        };
        let length = *length;
        let answer = call.await;
        self.calls.pop_front();
        let data = answer.and_then(|answer| read(answer, length)).inspect_err(|_| self.is_over = true)?;
        self.given += data.len() as u64;
        if data.len() < length as usize {
            self.calls.clear();
            self.asked = self.given;
        }
        if data.is_empty() {
            self.is_over = true;
            return Ok(None);
        }
        Ok(Some(data))
    }

    fn ask(&mut self) {
        // The first piece alone: most files are no longer.
        let ahead = if self.given == self.begin { 1 } else { PIECES_AHEAD };
        while self.calls.len() < ahead {
            let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.asked));
            let length = left.min(DATA_MAX as u64).min(u64::MAX - self.asked);
            let Ok(piece @ 1..) = u32::try_from(length) else { return };
            self.calls.push_back((piece, self.file.begin_read(self.asked, piece)));
            self.asked += length;
        }
    }
}

/// Writes a file from some place on.
#[derive(Debug)]
pub struct FileWriter {
    file: OpenFile,
    offset: u64,
    calls: VecDeque<Call>,
    /// What is not yet a whole piece.
    kept: Vec<u8>,
}

impl FileWriter {
    /// From `offset` on; of one that was opened to append, at its end.
    pub fn new(file: OpenFile, offset: u64) -> Self {
        Self { file, offset, calls: VecDeque::new(), kept: Vec::new() }
    }

    /// Writes more; resolves when most of it is on its way. Not safe to cancel: a part may be written.
    ///
    /// # Errors
    /// What the guest says, of these bytes or of some before, or is wrong with it.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), FilesError> {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(DATA_MAX - self.kept.len()));
            self.kept.extend_from_slice(piece);
            bytes = rest;
            if self.kept.len() == DATA_MAX {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), FilesError> {
        while self.calls.len() >= PIECES_AHEAD {
            self.answered().await?;
        }
        let data = std::mem::take(&mut self.kept);
        let length = data.len() as u64;
        self.calls.push_back(self.file.begin_write(self.offset, data));
        self.offset = self.offset.saturating_add(length);
        Ok(())
    }

    async fn answered(&mut self) -> Result<(), FilesError> {
        if let Some(call) = self.calls.pop_front() {
            done(&call.await?)?;
        }
        Ok(())
    }

    /// All is written; the file is still open.
    ///
    /// # Errors
    /// As [`FileWriter::write`].
    pub async fn finish(mut self) -> Result<OpenFile, FilesError> {
        if !self.kept.is_empty() {
            self.send().await?;
        }
        while !self.calls.is_empty() {
            self.answered().await?;
        }
        Ok(self.file)
    }
}
