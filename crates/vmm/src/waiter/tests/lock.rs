//! The lock of a runtime directory.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::runtime_dir::{is_held, prepare_runtime_dir};

#[test]
fn a_process_that_is_being_started_keeps_no_directory_locked() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("box");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Between fork and exec a child has all files of this process open, and the locks with them.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert!(Command::new("/bin/true").status().unwrap().success());
            }
        });
        let prepared = std::panic::catch_unwind(|| {
            for _ in 0..3000 {
                prepare_runtime_dir(&dir).unwrap();
                assert!(!is_held(&dir).unwrap());
            }
        });
        is_over.store(true, Ordering::Relaxed);
        prepared.unwrap();
    });
}
