//! Writers in processes of their own, which end by SIGKILL.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::{DEADLINE, segment};

/// Says to such a process where it writes.
const DIR: &str = "SANDPEN_TEST_LOG_DIR";

/// So often one is killed.
const ROUNDS: u64 = 25;

/// A process that is killed when this is dropped.
pub(super) struct Killed(Child);

impl Killed {
    /// A process that runs nothing but the ignored test `test` of these modules, which finds `dir` by [`dir`].
    pub(super) fn spawn(test: &str, dir: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([&format!("log_writer::tests::{test}"), "--ignored", "--exact", "--nocapture"])
            .env(DIR, dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where the process that this is has to write.
pub(super) fn dir() -> PathBuf {
    std::env::var_os(DIR).unwrap().into()
}

/// Kills `test` again and again while it writes to `dir`'s `box.log`, at another point each time, until there are `all` bytes.
pub(super) fn kill_amid(test: &str, dir: &Path, all: u64) {
    let log = dir.join("box.log");
    let position = || segment::newest_end(&log).unwrap().map_or(0, |end| end.position);
    let mut amid = 0;
    for round in 0..ROUNDS {
        let goal = (position() + 1 + round * 17_389).min(all);
        let child = Killed::spawn(test, dir);
        let started = Instant::now();
        while position() < goal {
            assert!(started.elapsed() < DEADLINE, "the child writes nothing");
        }
        drop(child);
        amid += u64::from(position() < all);
    }
    assert!(amid > ROUNDS / 2, "only {amid} kills came in time");
}
