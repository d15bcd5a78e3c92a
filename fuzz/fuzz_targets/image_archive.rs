//! A stranger's archive of images: whatever it is, its index stays within it, and its layers are read or refused.
//! The checksum of every block that looks like a header is made right, so that what it covers is looked at.
//! `cargo +nightly fuzz run image_archive`
#![no_main]

use std::io::{self, Write as _};

use libfuzzer_sys::fuzz_target;
use sandpen_images::archive::ImageArchive;
use sandpen_images::platform::Platform;
use sandpen_types::visible::is_visible;

const SUM: std::ops::Range<usize> = 148..156;
const KIND: usize = 156;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512).filter(|block| block[SUM.start] == b'0' && block[KIND] != b' ') {
        block[SUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let Ok(mut file) = tempfile::tempfile() else { return };
    if file.write_all(&bytes).is_err() {
        return;
    }
    let read = || {
        let archive = ImageArchive::open(file)?;
        for image in archive.images(&Platform::host())? {
            assert_eq!(image.layers.len(), image.parsed.diff_ids.len());
            for layer in &image.layers {
                let read = io::copy(&mut archive.open_layer(layer)?, &mut io::sink());
                assert_eq!(read.ok(), Some(layer.size));
            }
        }
        Ok::<_, sandpen_images::archive::ArchiveError>(())
    };
    if let Err(error) = read() {
        assert!(error.to_string().chars().all(is_visible), "{error:?}");
    }
});
