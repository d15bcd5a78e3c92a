//! The configuration of a stranger's image: it is read or refused with words that are harmless on a terminal.
//! `cargo +nightly fuzz run image_config`
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandpen_images::config::ImageConfig;
use sandpen_types::visible::is_visible;

fuzz_target!(|bytes: &[u8]| {
    match ImageConfig::parse(bytes) {
        Ok(config) => {
            let names: Vec<_> = config.container.env.iter().map(|(name, _)| name).collect();
            assert!(names.iter().all(|name| !name.is_empty() && !name.contains(['=', '\0'])));
            assert!((1..names.len()).all(|at| !names[..at].contains(&names[at])));
        }
        Err(error) => assert!(error.to_string().chars().all(is_visible), "{error:?}"),
    }
});
