//! Taking over what earlier writers left, however they ended.
//!
//! The log file's length is the truth. An index that is missing or damaged is made anew; a log is
//! never refused for it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::LogError;
use super::files::{Unlock, create_index, lock, open_existing};
use super::index::{self, HEADER_LEN, Header, Scan, Walk};
use super::names::{self, index_name};
use super::segment::{self, header_after, unknown_header};
use super::store::{Place, Store, now_us};

impl Store {
    /// Finds out what earlier writers left. Does nothing the second time.
    pub fn recover(&mut self) -> Result<(), LogError> {
        if self.recovered {
            return Ok(());
        }
        let log = self.config.path.clone();
        names::finish_interrupted(&log)?;
        let log_file = open_existing(&log)?;
        let index_path = index_name(&log, 0);
        let index = open_existing(&index_path)?;
        let _unlock = match &index {
            Some(index) => {
                lock(index, &log)?;
                Some(Unlock(index))
            }
            None => None,
        };
        let header = match &index {
            Some(index) => Header::read(index).map_err(LogError::file("reading", &index_path))?,
            None => None,
        };
        let meta = match &log_file {
            Some(file) => Some(file.metadata().map_err(LogError::file("looking at", &log))?),
            None => None,
        };
        let len = meta.as_ref().map_or(0, fs::Metadata::len);
        let scan = match (&index, header) {
            (Some(index), Some(header)) => {
                Some((header, index::scan(index, &header, len).map_err(LogError::file("reading", &index_path))?))
            }
            _ if log_file.is_some() => Some(self.rebuild_index(len)?),
            _ => None,
        };
        self.lost_count = header.is_none();
        match (scan, meta) {
            (Some((header, Scan { end, index_len, missing })), Some(meta)) => {
                self.end = end;
                self.note_lost(missing);
                let identity = (meta.dev(), meta.ino());
                // A file that lacks bytes is set aside at the first new one: its gap stays a gap.
                self.place =
                    (missing == 0).then_some(Place { base: header.base, len, index_len, last: None, identity });
            }
            (Some((_, Scan { end, missing, .. })), None) => {
                self.end = end;
                self.note_lost(missing);
            }
            (None, _) => self.end = segment::newest_end(&log)?.unwrap_or(self.end),
        }
        self.marked = self.end.generation == self.config.generation;
        self.recovered = true;
        Ok(())
    }

    /// Makes a new index for a log file whose index is lost: all its bytes count as stdout.
    fn rebuild_index(&self, len: u64) -> Result<(Header, Scan), LogError> {
        let log = &self.config.path;
        let end = segment::newest_end(log)?.unwrap_or_else(|| Walk::new(&unknown_header(0)));
        let mut before = end;
        before.position = end.position.saturating_sub(len);
        before.stdout = end.stdout.saturating_sub(len);
        let header = header_after(&before, now_us());
        let index = create_index(log, &header, &[])?;
        drop(Unlock(&index));
        Ok((header, Scan { end, index_len: HEADER_LEN, missing: 0 }))
    }
}
