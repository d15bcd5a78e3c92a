//! Undoes the compressions that kernels and modules come in, recognised by their first bytes.

use std::io::Read;

/// Most bytes that a kernel or a module unpacks to (1 GiB): a damaged or hostile file must not
/// fill the memory.
pub const UNPACKED_MAX: usize = 1 << 30;

/// Largest unpacked block of an LZ4 legacy frame, fixed by the format
/// (<https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>, "Legacy frame").
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

/// Why something could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum CompressionError {
    /// The data ends early or is damaged.
    #[error("the {format} data is damaged or cut off: {reason}")]
    Damaged {
        /// The format.
        format: Compression,
        /// The decoder's words.
        reason: String,
    },
    /// More than [`UNPACKED_MAX`] comes out.
    #[error("the {0} data unpacks to more than 1 GiB")]
    TooLarge(Compression),
}

/// A compression format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip (RFC 1952).
    Gzip,
    /// xz.
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
    /// LZ4's legacy frames, which the kernel's build uses.
    Lz4Legacy,
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4Legacy => "LZ4",
        })
    }
}

/// The compression that `bytes` start with, if it is a known one.
pub fn detect(bytes: &[u8]) -> Option<Compression> {
    const MAGIC: [(&[u8], Compression); 4] = [
        (&[0x1f, 0x8b], Compression::Gzip),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
        (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
        (&[0x02, 0x21, 0x4c, 0x18], Compression::Lz4Legacy),
    ];
    MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, format)| *format)
}

/// Unpacks `bytes`. `trailer` bytes at the end belong to the container, not to the data: the
/// kernel's build appends the unpacked size to every format but gzip.
///
/// # Errors
/// [`CompressionError`] when it is damaged, cut off or too large.
pub fn decompress(bytes: &[u8], format: Compression, trailer: usize) -> Result<Vec<u8>, CompressionError> {
    let damaged = |reason: String| CompressionError::Damaged { format, reason };
    let end = bytes.len().checked_sub(trailer).ok_or_else(|| damaged("shorter than its trailer".into()))?;
    let data = &bytes[..end];
    match format {
        Compression::Gzip => read_limited(flate2::read::GzDecoder::new(data), format),
        Compression::Zstd => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(data).map_err(|e| damaged(e.to_string()))?;
            read_limited(decoder, format)
        }
        Compression::Xz => {
            let mut output = Limited(Vec::new());
            match lzma_rs::xz_decompress(&mut &*data, &mut output) {
                Ok(()) => Ok(output.0),
                Err(_) if output.0.len() >= UNPACKED_MAX => Err(CompressionError::TooLarge(format)),
                Err(e) => Err(damaged(format!("{e:?}"))),
            }
        }
        Compression::Lz4Legacy => lz4_legacy(data),
    }
}

fn read_limited(reader: impl Read, format: Compression) -> Result<Vec<u8>, CompressionError> {
    let mut output = Vec::new();
    let read = reader.take(UNPACKED_MAX as u64 + 1).read_to_end(&mut output);
    read.map_err(|e| CompressionError::Damaged { format, reason: e.to_string() })?;
    if output.len() > UNPACKED_MAX {
        return Err(CompressionError::TooLarge(format));
    }
    Ok(output)
}

/// A buffer that refuses to grow beyond [`UNPACKED_MAX`].
struct Limited(Vec<u8>);

impl std::io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = UNPACKED_MAX.saturating_sub(self.0.len());
        if room == 0 && !bytes.is_empty() {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        let taken = &bytes[..bytes.len().min(room)];
        self.0.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Own loop over the blocks: `lz4_flex`'s frame reader takes what follows the last block for a
/// further frame.
fn lz4_legacy(data: &[u8]) -> Result<Vec<u8>, CompressionError> {
    let format = Compression::Lz4Legacy;
    let damaged = |reason: &str| CompressionError::Damaged { format, reason: reason.to_owned() };
    let mut rest = data.get(4..).ok_or_else(|| damaged("no block"))?;
    let mut output = Vec::new();
    let mut block = vec![0; LZ4_LEGACY_BLOCK];
    while !rest.is_empty() {
        let (size, tail) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("a block's size is cut off"))?;
        let size = u32::from_le_bytes(*size) as usize;
        let packed = tail.get(..size).ok_or_else(|| damaged("a block is cut off"))?;
        rest = &tail[size..];
        let written = lz4_flex::block::decompress_into(packed, &mut block).map_err(|e| damaged(&e.to_string()))?;
        if output.len() + written > UNPACKED_MAX {
            return Err(CompressionError::TooLarge(format));
        }
        output.extend_from_slice(&block[..written]);
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn lz4_pack(data: &[u8]) -> Vec<u8> {
        let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
        for block in data.chunks(LZ4_LEGACY_BLOCK) {
            let block = lz4_flex::block::compress(block);
            packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            packed.extend(block);
        }
        packed
    }

    fn gzip_pack(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn xz_pack(mut data: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        lzma_rs::xz_compress(&mut data, &mut packed).unwrap();
        packed
    }

    fn zstd_pack(data: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn every_format_comes_back_and_is_recognised() {
        let data: Vec<u8> = (0..300_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for (format, packed) in [
            (Compression::Lz4Legacy, lz4_pack(&data)),
            (Compression::Gzip, gzip_pack(&data)),
            (Compression::Xz, xz_pack(&data)),
            (Compression::Zstd, zstd_pack(&data)),
        ] {
            assert_eq!(detect(&packed), Some(format));
            assert!(decompress(&packed, format, 0).unwrap() == data, "{format}");
            let cut = &packed[..packed.len() * 2 / 3];
            assert!(decompress(cut, format, 0).is_err(), "{format} cut off");
            let mut with_size = packed.clone();
            with_size.extend([1, 2, 3, 4]);
            assert!(decompress(&with_size, format, 4).unwrap() == data, "{format} with a trailer");
        }
    }

    #[test]
    fn lz4_data_of_several_blocks() {
        let data = vec![7; LZ4_LEGACY_BLOCK * 2 + 5];
        assert!(decompress(&lz4_pack(&data), Compression::Lz4Legacy, 0).unwrap() == data);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), trailer in 0_usize..8) {
            for format in [Compression::Gzip, Compression::Xz, Compression::Zstd, Compression::Lz4Legacy] {
                let _ = decompress(&bytes, format, trailer);
            }
        }
    }
}
