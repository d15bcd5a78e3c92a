//! Whatever bytes come as a copy, there is an answer, nothing is made outside of the destination, and what was made can be
//! packed again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandpen_tree::{Attributes, Destination, Owners, PackOptions, Special, UnpackOptions, Wait, pack, unpack};

fuzz_target!(|bytes: &[u8]| {
    let Ok(directory) = tempfile::tempdir() else { return };
    let inside = directory.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let attributes = Attributes::User;
    let options = UnpackOptions { owners: Owners::Caller, special: Special::Refuse, attributes, wait: Wait::ForFew };
    let done = unpack(bytes, Destination::Directory(&inside), options);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    if done.is_ok() {
        pack(&inside, PackOptions { follow: false, attributes }, std::io::sink()).unwrap();
    }
});
