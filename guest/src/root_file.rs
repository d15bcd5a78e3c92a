//! Small files of the root directory, which may be anything: PID 1 neither waits for one nor takes more of it than it
//! wants.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::libc;

/// What a regular file holds, if that is at most `most` bytes. Call it inside of the new root.
///
/// # Errors
/// What the system says; another kind of file, or a larger one. A file of the kernel's that has something to read only
/// later is an error too.
pub fn read(path: impl AsRef<Path>, most: u64) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::Error::other("it is too large")) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_never_ends_and_what_is_no_file_is_not_read() {
        let dir = std::env::temp_dir().join(format!("sandpen-root-file-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let at = |name: &str| dir.join(name);
        fs::write(at("small"), "1234").unwrap();
        symlink("small", at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        // Their length is 0, and they are endless, or wait for what comes.
        symlink("/proc/self/mem", at("mem")).unwrap();
        symlink("/proc/self/pagemap", at("pagemap")).unwrap();
        symlink("gone", at("dangling")).unwrap();
        assert_eq!(read(at("small"), 4).unwrap(), b"1234");
        assert_eq!(read(at("link"), 5).unwrap(), b"1234");
        for name in ["fifo", "zero", "mem", "pagemap", "dangling", "."] {
            assert!(read(at(name), 4).is_err(), "{name}");
        }
        assert!(read(at("small"), 3).unwrap_err().to_string().contains("too large"));
        fs::remove_dir_all(dir).unwrap();
    }
}
