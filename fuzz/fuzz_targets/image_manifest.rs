//! A stranger's manifest or index: it is read or refused, and choosing from it is for the platform that was asked for.
//! `cargo +nightly fuzz run image_manifest`
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandpen_images::manifest::{Document, media};
use sandpen_images::platform::Platform;
use sandpen_types::visible::is_visible;

fuzz_target!(|input: (u8, &str, &[u8])| {
    let (declared, platform, bytes) = input;
    let declared = media::ACCEPTED.get(usize::from(declared)).copied();
    let platform: Platform = platform.parse().unwrap_or_else(|_| Platform::host());
    let error = match Document::parse(bytes, declared) {
        Ok(Document::Index(index)) => match index.choose(&platform) {
            Ok(chosen) => {
                let offered = chosen.platform.as_ref();
                assert!(chosen.is_image && offered.is_none_or(|offered| platform.fit(offered).is_some()));
                return;
            }
            Err(error) => error,
        },
        Ok(Document::Manifest(_)) => return,
        Err(error) => error,
    };
    assert!(error.to_string().chars().all(is_visible), "{error:?}");
});
