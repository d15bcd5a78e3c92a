//! A layer of the store as registries have it: its tar, byte for byte as it came, packed with gzip. The same layer always
//! makes the same bytes: no time, no name, one level.

use std::io::{self, Read as _, Write};
use std::path::Path;

use flate2::{Compression, GzBuilder};
use sandpen_types::image::ImageDigest;

use crate::digest::{CheckedReader, DigestMismatch};
use crate::layer::{LayerInfo, SplitError};

/// What gzip and Docker take where nothing is said.
const LEVEL: u32 = 6;
/// What is read at once.
const READ: usize = 1 << 18;

/// Why a layer was not packed, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// What there is of it.
    #[error("opening the layer {diff_id}")]
    Open {
        /// Which.
        diff_id: ImageDigest,
        /// The cause.
        #[source]
        source: SplitError,
    },
    /// It could not be read.
    #[error("reading the layer {diff_id}")]
    Read {
        /// Which.
        diff_id: ImageDigest,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is another.
    #[error("the layer is not what it was, and is of no use: {0}; remove the images that have it, and get them again")]
    Changed(DigestMismatch),
    /// The packed bytes could not be written.
    #[error("writing the packed layer")]
    Write(#[source] io::Error),
}

/// Packs the layer in this directory, whose tar has so many bytes. It is an error if they are not those of its diff_id.
///
/// # Errors
/// [`PackError`]; what was written is not all of it then.
pub fn pack(directory: &Path, diff_id: ImageDigest, tar_bytes: u64, out: impl Write) -> Result<(), PackError> {
    let tar = LayerInfo::tar_split(directory).open().map_err(|source| PackError::Open { diff_id, source })?;
    let mut tar = CheckedReader::new(tar, diff_id, tar_bytes);
    let mut packed = GzBuilder::new().mtime(0).write(out, Compression::new(LEVEL));
    let mut chunk = vec![0; READ];
    loop {
        let length = match tar.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(match error.downcast::<DigestMismatch>() {
                    Ok(mismatch) => PackError::Changed(mismatch),
                    Err(source) => PackError::Read { diff_id, source },
                });
            }
        };
        packed.write_all(&chunk[..length]).map_err(PackError::Write)?;
    }
    packed.finish().and_then(|mut out| out.flush()).map_err(PackError::Write)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::digest::digest_of;
    use crate::layer::{self, Expected, TAR};

    #[test]
    fn a_layer_comes_out_as_it_came_and_always_the_same() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        let content: Vec<u8> = (0..300_000_u32).flat_map(|n| (n % 977).to_le_bytes()).collect();
        header.set_size(content.len() as u64);
        header.set_mtime(7);
        tar.append_data(&mut header, "a", content.as_slice()).unwrap();
        let tar = tar.into_inner().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let info = layer::unpack(tar.as_slice(), &Expected::default(), directory.path(), &|_| {}).unwrap();
        let packed = |diff_id, bytes| {
            let mut out = Vec::new();
            pack(directory.path(), diff_id, bytes, &mut out).map(|()| out)
        };
        let first = packed(info.diff_id, info.tar_bytes).unwrap();
        assert_eq!(first, packed(info.diff_id, info.tar_bytes).unwrap());
        assert_eq!(&first[..10], [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, first[8], 255], "neither a time nor a system");
        let mut again = Vec::new();
        flate2::read::GzDecoder::new(first.as_slice()).read_to_end(&mut again).unwrap();
        assert_eq!(again, tar);

        let other = digest_of(b"other");
        assert!(matches!(packed(other, info.tar_bytes), Err(PackError::Changed(_))));
        assert!(matches!(packed(info.diff_id, info.tar_bytes - 1), Err(PackError::Changed(_))));
        assert!(matches!(packed(info.diff_id, info.tar_bytes + 1), Err(PackError::Changed(_))));
        let records = directory.path().join(TAR);
        fs::write(&records, b"no records").unwrap();
        assert!(matches!(packed(info.diff_id, info.tar_bytes), Err(PackError::Read { .. })));
        fs::remove_file(records).unwrap();
        assert!(matches!(packed(info.diff_id, info.tar_bytes), Err(PackError::Open { .. })));
    }
}
