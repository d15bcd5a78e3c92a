//! Whatever bytes come as a layer, packed or not, there is an answer; what is taken can be had again byte for byte.
#![no_main]

use std::io::Read as _;

use libfuzzer_sys::fuzz_target;
use sandpen_images::layer::{Compression, Expected, LayerInfo, unpack};

fuzz_target!(|bytes: &[u8]| {
    let Ok(directory) = tempfile::tempdir() else { return };
    if unpack(bytes, &Expected::default(), directory.path(), &|_| {}).is_err() {
        return;
    }
    let mut again = Vec::new();
    LayerInfo::tar_split(directory.path()).open().unwrap().read_to_end(&mut again).unwrap();
    if Compression::of(bytes) == Compression::None {
        assert_eq!(again, bytes);
    }
});
