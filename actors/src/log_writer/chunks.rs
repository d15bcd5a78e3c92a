//! Output that comes from memory instead of a pipe: what a job's keeper has of a guest, or an application of its own. It asks
//! what is on file, goes on after that, and keeps each chunk until it is.

use actix::{Context, Handler};

use super::actor::LogWriter;
use super::segment::{now_us, time_of};
use super::store::{Room, Store};
use super::{Appended, GetOnFile, LogError, OnFile, WriteChunk};

/// Most bytes of one [`WriteChunk`]; less if a log file is smaller.
pub(super) const CHUNK_WRITE_MAX: usize = 1 << 20;

impl LogWriter {
    fn write_chunk(&mut self, chunk: &WriteChunk, ctx: &mut Context<Self>) -> Result<Appended, LogError> {
        let len = chunk.bytes.len();
        let max = CHUNK_WRITE_MAX.min(usize::try_from(self.config.limits.max_bytes).unwrap_or(CHUNK_WRITE_MAX));
        if len > max {
            return Err(LogError::ChunkTooLarge { len, max });
        }
        let at_us = now_us();
        if len == 0 {
            let offset = self.store.totals().position;
            return Ok(Appended { offset, len: 0, stream: chunk.stream, at: time_of(at_us) });
        }
        let room = self.store.prepare(chunk.stream, at_us, len as u64);
        self.tell_notes();
        let room = room?;
        if let Err(source) = write_all(&room, &chunk.bytes) {
            let path = self.store.path().to_owned();
            let written = Store::take_back(&room);
            if written == 0 {
                return Err(LogError::File { action: "writing", path, source });
            }
            self.count(chunk.stream, written, at_us, ctx);
            return Err(LogError::PartlyWritten { written, len, path, source });
        }
        Ok(self.count(chunk.stream, len as u64, at_us, ctx))
    }
}

fn write_all(room: &Room, bytes: &[u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(&room.segment.log, bytes, room.offset)
}

impl Handler<WriteChunk> for LogWriter {
    type Result = Result<Appended, LogError>;

    fn handle(&mut self, chunk: WriteChunk, ctx: &mut Self::Context) -> Self::Result {
        if self.closing.is_some() {
            return Err(LogError::Closed);
        }
        let written = self.write_chunk(&chunk, ctx);
        self.store.make_room();
        written
    }
}

impl Handler<GetOnFile> for LogWriter {
    type Result = Result<OnFile, LogError>;

    fn handle(&mut self, _: GetOnFile, _: &mut Self::Context) -> Self::Result {
        let recovered = self.store.recover();
        self.tell_notes();
        recovered?;
        Ok(OnFile { totals: self.store.totals(), is_certain: !self.store.has_lost_count() })
    }
}
