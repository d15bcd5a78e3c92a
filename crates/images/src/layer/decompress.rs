//! How a layer is packed, told by its first bytes, and its unpacked bytes.

use std::io::{self, BufRead, Read};

/// How something is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// zstd (RFC 8878).
    Zstd,
}

/// Largest window of a zstd frame that is unpacked: 32 MiB, twice what its levels up to 19 use for anything. More would be
/// memory that an archive decides on.
const WINDOW_LOG_MAX: u32 = 25;

impl Compression {
    /// By the first bytes.
    pub fn of(first: &[u8]) -> Self {
        match first {
            [0x1F, 0x8B, ..] => Self::Gzip,
            // The second is a frame to be skipped: a table of contents may come first (`zstd:chunked`).
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// Unpacks `packed`.
    ///
    /// # Errors
    /// No memory.
    pub fn unpack<'a>(self, packed: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(packed),
            // Several members, one behind the other, are one archive.
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed)?;
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        })
    }
}
