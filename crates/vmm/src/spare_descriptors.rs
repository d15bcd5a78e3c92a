//! Descriptors that are kept for what must work when there is no other left: signalling a process.
//!
//! A process's own descriptor is opened where it is needed, since thousands of sandboxes would keep thousands
//! of them open at rest. Where opening it fails because this process has used up its descriptors, some that were
//! kept for that are closed, and it is tried again.

use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

/// One for the process, one for what is read of it meanwhile, and as many for somebody who is quicker.
const KEPT: usize = 4;

static SPARE: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Opens those that are to be kept, if they are not there. Blocks for some microseconds.
pub fn keep() {
    fill(&mut SPARE.lock().unwrap_or_else(PoisonError::into_inner));
}

fn fill(spare: &mut Vec<File>) {
    while spare.len() < KEPT {
        // For lack of any there are fewer; whoever needs them next tries again.
        let Ok(file) = File::open("/dev/null") else { return };
        spare.push(file);
    }
}

/// Does something that opens up to two descriptors and closes them again.
///
/// # Errors
/// Those of `work`, which is called again where it failed for lack of descriptors.
pub fn with<T>(work: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match work() {
        Err(error) if error.raw_os_error() == Some(Errno::EMFILE as i32) => {}
        done => return done,
    }
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    spare.clear();
    let done = work();
    fill(&mut spare);
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    const CHILD: &str = "SANDPEN_TEST_SPARE_DESCRIPTORS";

    /// In a process of its own: a limit on descriptors is every test's of a process.
    #[test]
    fn what_must_work_works_without_a_descriptor_left() {
        if std::env::var_os(CHILD).is_none() {
            let test = "spare_descriptors::tests::what_must_work_works_without_a_descriptor_left";
            let mut child = Command::new(std::env::current_exe().unwrap());
            let ended = child.args([test, "--exact"]).env(CHILD, "1").output().unwrap();
            assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
            return;
        }
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
        keep();
        let mut all = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            all.push(file);
        }
        let two = || io::Result::Ok((File::open("/dev/null")?, File::open("/proc/self/stat")?));
        assert_eq!(two().unwrap_err().raw_os_error(), Some(Errno::EMFILE as i32));
        for _ in 0..3 {
            with(two).unwrap();
        }
        drop(all);
        two().unwrap();
    }
}
