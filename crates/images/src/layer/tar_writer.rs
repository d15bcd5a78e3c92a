//! A tar archive of a directory, in which files have no holes. The same entries always make the same bytes.

use std::io::{self, Write};

use sandpen_tree::{ContentsError, Kind, Segment, Writer};

use super::entry::Meta;
use crate::walk::{Found, Sink};

/// Bytes of a file that are read at once.
const PIECE: usize = 256 << 10;

/// Writes the archive. Sockets are left out, as archives have none.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: Writer<W>,
    buffer: Vec<u8>,
}

impl<W: Write> TarWriter<W> {
    /// An archive without entries yet.
    pub fn new(out: W) -> Self {
        Self { out: Writer::new(out), buffer: vec![0; PIECE] }
    }

    /// Ends it.
    ///
    /// # Errors
    /// Whoever takes it.
    pub fn finish(self) -> io::Result<W> {
        self.out.finish()
    }
}

impl<W: Write> Sink for TarWriter<W> {
    fn take(&mut self, path: &[u8], meta: Meta, found: Found<'_>) -> io::Result<()> {
        let kind = match &found {
            Found::Directory => Kind::Directory,
            Found::File(_, bytes) => Kind::File { bytes: *bytes, segments: Segment::whole(*bytes) },
            Found::HardLink(target) => Kind::HardLink(target.to_vec()),
            Found::SymbolicLink(target) => Kind::SymbolicLink(target.to_vec()),
            Found::CharacterDevice(major, minor) => Kind::CharacterDevice(*major, *minor),
            Found::BlockDevice(major, minor) => Kind::BlockDevice(*major, *minor),
            Found::Fifo => Kind::Fifo,
            Found::Socket => return Ok(()),
        };
        let Meta { mode, uid, gid, mtime, mtime_nanos, xattrs } = meta;
        let meta = sandpen_tree::Meta { mode: mode.into(), uid, gid, mtime: (mtime, mtime_nanos), xattrs };
        self.out.begin(path, &kind, &meta)?;
        let Found::File(file, bytes) = found else { return Ok(()) };
        // A file that has become shorter ends the walk.
        self.out.file(file, &Segment::whole(bytes), &mut self.buffer).map_err(|error| match error {
            ContentsError::Read(error) | ContentsError::Write(error) => error,
        })
    }
}
