//! An archive that cannot be read by position (a stream, or packed as a whole) as a file that can.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::ImportError;
use crate::archive::{Outer, SNIFFED, sniff};
use crate::layer::blob::{UNIT, is_zeros};
use crate::layer::{Compression, ratio};

/// What is read at once.
const READ: usize = 1 << 18;

/// Counts what is read of the stream.
struct Counted<'a, R> {
    inner: R,
    bytes: &'a Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.bytes.set(self.bytes.get() + length as u64);
        Ok(length)
    }
}

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

/// The archive that a stream brings, unpacked if it is packed. Zeros of it take no room.
pub(super) fn of_stream(stream: impl Read, directory: &Path) -> Result<File, ImportError> {
    let packed = Cell::new(0);
    let mut stream = BufReader::with_capacity(READ, Counted { inner: stream, bytes: &packed });
    let first = io::BufRead::fill_buf(&mut stream).map_err(ImportError::Read)?;
    let compression = match sniff(first) {
        Outer::Xz => return Err(ImportError::Packed("xz")),
        Outer::Bzip2 => return Err(ImportError::Packed("bzip2")),
        _ => Compression::of(first),
    };
    let cannot_write = || ImportError::file("copying the archive into a file in", directory);
    let mut copy = tempfile::tempfile_in(directory).map_err(ImportError::file("making a file in", directory))?;
    let mut unpacked = compression.unpack(stream).map_err(ImportError::Read)?;
    let mut chunk = vec![0; READ];
    let (mut at, mut written) = (0, 0);
    loop {
        let length = match unpacked.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ImportError::Read(error)),
        };
        for part in chunk[..length].chunks(usize::try_from(UNIT).unwrap_or(READ)) {
            if !is_zeros(part) {
                copy.write_all_at(part, at).map_err(cannot_write())?;
                written += part.len() as u64;
            }
            at += part.len() as u64;
        }
        ratio::check(packed.get(), at, written)?;
    }
    copy.set_len(at).map_err(cannot_write())?;
    copy.rewind().map_err(ImportError::Read)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spooled(megabyte: &[u8], times: usize) -> Result<File, ImportError> {
        let directory = tempfile::tempdir().unwrap();
        let packed = zstd::encode_all(&megabyte.repeat(times)[..], 1).unwrap();
        of_stream(&packed[..], directory.path())
    }

    #[test]
    fn a_bomb_is_given_up_and_zeros_take_no_room() {
        let error = spooled(&vec![7; 1 << 20], 40).unwrap_err();
        assert!(matches!(error, ImportError::TooMuch(_)), "{error:?}");
        assert!(matches!(spooled(&vec![0; 1 << 20], 200), Err(ImportError::TooMuch(_))));
        let mut megabyte = vec![0; 1 << 20];
        megabyte[300_000..300_010].fill(1);
        let mut copy = spooled(&megabyte, 40).unwrap();
        let mut bytes = Vec::new();
        copy.read_to_end(&mut bytes).unwrap();
        assert!(bytes == megabyte.repeat(40));
        assert!(sandpen_cache::allocated_by(&copy.metadata().unwrap()) < 20 << 20);
    }
}
