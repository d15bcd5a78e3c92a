//! Digests of bytes, at once and while they are read.

use std::io::{self, Read};

use sandpen_types::image::ImageDigest;
use sha2::{Digest as _, Sha256};

/// The digest of these bytes.
pub fn digest_of(bytes: &[u8]) -> ImageDigest {
    ImageDigest::new(Sha256::digest(bytes).into())
}

/// What was read is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestMismatch {
    /// Another number of bytes.
    #[error("{digest} has {found} bytes or more instead of {size}")]
    Size {
        /// What it is called.
        digest: ImageDigest,
        /// What it should have.
        size: u64,
        /// What was read.
        found: u64,
    },
    /// Other bytes.
    #[error("what is called {digest} has another digest, {found}")]
    Digest {
        /// What it is called.
        digest: ImageDigest,
        /// Of what was read.
        found: ImageDigest,
    },
}

/// Passes on bytes of a known digest and size, and ends with an error that holds a [`DigestMismatch`] if they were
/// others. It never passes on more than that size.
#[derive(Debug)]
pub struct CheckedReader<R> {
    inner: R,
    digest: ImageDigest,
    size: u64,
    passed: u64,
    hasher: Sha256,
}

impl<R: Read> CheckedReader<R> {
    /// Of a reader of such bytes.
    pub fn new(inner: R, digest: ImageDigest, size: u64) -> Self {
        Self { inner, digest, size, passed: 0, hasher: Sha256::new() }
    }

    fn at_end(&mut self) -> Result<(), DigestMismatch> {
        let (digest, size) = (self.digest, self.size);
        if self.passed != size {
            return Err(DigestMismatch::Size { digest, size, found: self.passed });
        }
        let found = ImageDigest::new(self.hasher.clone().finalize().into());
        if found == digest { Ok(()) } else { Err(DigestMismatch::Digest { digest, found }) }
    }
}

impl<R: Read> Read for CheckedReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let invalid = |error: DigestMismatch| io::Error::new(io::ErrorKind::InvalidData, error);
        if buf.is_empty() {
            return Ok(0);
        }
        let len = self.inner.read(buf)?;
        let passed = self.passed.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        if passed > self.size {
            return Err(invalid(DigestMismatch::Size { digest: self.digest, size: self.size, found: passed }));
        }
        if len == 0 {
            self.at_end().map_err(invalid)?;
        }
        self.passed = passed;
        self.hasher.update(&buf[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_end_with_an_error() {
        let (bytes, digest) = (b"abc".as_slice(), digest_of(b"abc"));
        let read = |bytes: &[u8], size| io::read_to_string(CheckedReader::new(bytes, digest, size));
        assert_eq!(digest.short(), "ba7816bf8f01");
        assert_eq!(read(bytes, 3).unwrap(), "abc");
        for (bytes, size, expected) in [
            (b"abd".as_slice(), 3, format!("what is called {digest} has another digest, {}", digest_of(b"abd"))),
            (b"ab", 3, format!("{digest} has 2 bytes or more instead of 3")),
            (b"abcd", 3, format!("{digest} has 4 bytes or more instead of 3")),
            (b"", 3, format!("{digest} has 0 bytes or more instead of 3")),
        ] {
            assert_eq!(read(bytes, size).unwrap_err().to_string(), expected);
        }
    }
}
