//! Extended attributes of what is open.

use std::io;

use rustix::fd::AsFd;
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;

/// Most bytes of the names of a file's attributes, and of a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX` of Linux).
const LENGTH_MAX: usize = 64 << 10;
/// Most bytes of all that are kept of a file: what fits into a pax header.
const ALL_MAX: usize = 768 << 10;

/// Which are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attributes {
    /// `user.*`, which say nothing of owners.
    User,
    /// Also `security.*`, `trusted.*` and lists of access: what goes with owners.
    All,
}

/// The names of all attributes, each with a NUL behind it; `None` where there are none.
fn names(file: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    // Nearly nothing has any, and what has some has few.
    let mut few = [0; 512];
    match flistxattr(&file, &mut few[..]) {
        Ok(0) | Err(Errno::NOTSUP) => Ok(None),
        Ok(bytes) => Ok(Some(few[..bytes].to_owned())),
        Err(Errno::RANGE) => {
            let mut names = Vec::with_capacity(LENGTH_MAX);
            flistxattr(&file, rustix::buffer::spare_capacity(&mut names))?;
            Ok(Some(names))
        }
        Err(errno) => Err(errno.into()),
    }
}

impl Attributes {
    fn has(self, name: &[u8]) -> bool {
        // The overlay file system's own: of a directory that is a layer of one.
        let is_known = |name: &[u8]| {
            [&b"security."[..], b"trusted.", b"system.posix_acl_"].iter().any(|space| name.starts_with(space))
                && !name.starts_with(b"trusted.overlay.")
        };
        name.starts_with(b"user.") || self == Self::All && is_known(name)
    }

    /// Those of something that is open; those with names of other kinds are left out.
    ///
    /// # Errors
    /// They cannot be read, or are more than a stream takes (`E2BIG`).
    pub fn read(self, file: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let Some(names) = names(&file)? else { return Ok(Vec::new()) };
        let (mut xattrs, mut bytes) = (Vec::new(), 0);
        for name in names.split(|byte| *byte == 0).filter(|name| self.has(name)) {
            let mut value = Vec::with_capacity(LENGTH_MAX);
            match fgetxattr(&file, name, rustix::buffer::spare_capacity(&mut value)) {
                Ok(_) => {}
                // It has gone since.
                Err(Errno::NODATA) => continue,
                Err(errno) => return Err(errno.into()),
            }
            bytes += name.len() + value.len();
            if bytes > ALL_MAX {
                return Err(Errno::TOOBIG.into());
            }
            value.shrink_to_fit();
            xattrs.push((name.to_owned(), value));
        }
        xattrs.sort();
        Ok(xattrs)
    }

    /// Gives attributes to something that is open: those that are kept, and that the caller may set. Whether its file system
    /// has such ones at all.
    ///
    /// # Errors
    /// One cannot be set, for lack of room for example.
    pub fn write(self, file: impl AsFd, xattrs: &[(Vec<u8>, Vec<u8>)]) -> io::Result<bool> {
        let mut has_all = true;
        for (name, value) in xattrs.iter().filter(|(name, _)| self.has(name)) {
            match fsetxattr(&file, name.as_slice(), value, XattrFlags::empty()) {
                Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::INVAL) if !name.starts_with(b"user.") => {}
                Err(Errno::NOTSUP) => has_all = false,
                set => set?,
            }
        }
        Ok(has_all)
    }
}
