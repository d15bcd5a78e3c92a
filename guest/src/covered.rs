//! Files of the root directory that have other content in this machine: covered by a mount, never changed.

use std::fs;
use std::io;

use nix::mount::{MsFlags, mount};

/// Where content is written before it is mounted; `/dev` is a file system of ours, with room for it.
const STAGING: &str = "/dev/.covered";

/// Has the file at `path`, which is there, show this content. Call it inside of the new root.
pub fn cover(path: &str, content: &[u8]) -> io::Result<()> {
    fs::write(STAGING, content)?;
    let mounted = mount(Some(STAGING), path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    // What is mounted stays.
    fs::remove_file(STAGING)?;
    Ok(mounted?)
}
