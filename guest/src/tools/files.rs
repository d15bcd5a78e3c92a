//! The root's files, and what happens to them, by standard input and output; what is said there is of `sandpen-files`.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::AsFd as _;

use nix::sys::stat::{Mode, umask};
use sandpen_files::serve::ServeError;
use sandpen_files::watch::WatchError;

/// Bytes of requests that are read at once.
const READ_AHEAD: usize = 64 << 10;

/// Serves until its input ends.
pub fn serve() -> Result<(), ServeError> {
    // Who asks says which permission bits he wants.
    umask(Mode::empty());
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    sandpen_files::serve::serve(BufReader::with_capacity(READ_AHEAD, input), output()?)
}

/// Tells until nobody reads any more, or there is nothing more to tell.
pub fn watch(path: &[u8], recursive: bool) -> Result<(), WatchError> {
    sandpen_files::watch::watch(path, recursive, output()?)
}

/// Standard output, without the lines that the standard library keeps back.
fn output() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}
