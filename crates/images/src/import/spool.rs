//! An archive that cannot be read by position (a stream, or packed as a whole) as a file that can.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::path::Path;

use super::ImportError;
use crate::archive::{Outer, SNIFFED, sniff};
use crate::layer::Compression;

/// What is read at once.
const READ: usize = 1 << 18;

/// The archive in `file`, unpacked if it is packed. A copy, where there has to be one, has no name and lies in `directory`.
pub(super) fn of_file(mut file: File, directory: &Path) -> Result<File, ImportError> {
    // What cannot be gone back in is a stream.
    let is_seekable = file.metadata().is_ok_and(|meta| meta.is_file()) && file.stream_position().is_ok();
    if !is_seekable {
        return of_stream(file, directory);
    }
    file.rewind().map_err(ImportError::Read)?;
    let mut first = Vec::new();
    io::Read::by_ref(&mut file).take(SNIFFED as u64).read_to_end(&mut first).map_err(ImportError::Read)?;
    file.rewind().map_err(ImportError::Read)?;
    match sniff(&first) {
        Outer::Gzip | Outer::Zstd => of_stream(file, directory),
        Outer::Xz => Err(ImportError::Packed("xz")),
        Outer::Bzip2 => Err(ImportError::Packed("bzip2")),
        // Whoever opens it says what else it is.
        Outer::Tar | Outer::Unknown => Ok(file),
    }
}

/// The archive that a stream brings, unpacked if it is packed.
pub(super) fn of_stream(stream: impl Read, directory: &Path) -> Result<File, ImportError> {
    let mut stream = BufReader::with_capacity(READ, stream);
    let first = io::BufRead::fill_buf(&mut stream).map_err(ImportError::Read)?;
    let compression = match sniff(first) {
        Outer::Xz => return Err(ImportError::Packed("xz")),
        Outer::Bzip2 => return Err(ImportError::Packed("bzip2")),
        _ => Compression::of(first),
    };
    let mut copy = tempfile::tempfile_in(directory).map_err(ImportError::file("making a file in", directory))?;
    let mut unpacked = compression.unpack(stream).map_err(ImportError::Read)?;
    let mut chunk = vec![0; READ];
    loop {
        let length = match unpacked.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ImportError::Read(error)),
        };
        let written = io::Write::write_all(&mut copy, &chunk[..length]);
        written.map_err(ImportError::file("copying the archive into a file in", directory))?;
    }
    copy.rewind().map_err(ImportError::Read)?;
    Ok(copy)
}
