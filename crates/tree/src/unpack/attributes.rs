//! Owners, permissions, attributes and times of what was made.

use std::io;

use rustix::fd::AsFd;
use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod, fchown, futimens, utimensat,
};
use rustix::io::Errno;

use super::problem::{Note, Problem, Trouble, trouble};
use super::{Owners, UnpackOptions};
use crate::entry::Meta;

/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;

fn times(meta: &Meta) -> Timestamps {
    let (seconds, nanos) = meta.mtime;
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
    }
}

/// Whom something shall belong to.
fn owner(owners: Owners, meta: &Meta) -> Option<(Option<Uid>, Option<Gid>)> {
    let (uid, gid) = match owners {
        Owners::Caller => return None,
        Owners::Root => (0, 0),
        Owners::Keep => (meta.uid, meta.gid),
    };
    Some((Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
}

/// Gives a file or directory that is open all its attributes; what it could not be given.
pub(super) fn give(file: impl AsFd, meta: &Meta, options: UnpackOptions) -> Result<Option<Note>, Trouble> {
    let failed = |errno: Errno| trouble(errno, Problem::Attributes);
    let has_owner = match owner(options.owners, meta) {
        None => true,
        Some((uid, gid)) => match fchown(&file, uid, gid) {
            Err(Errno::PERM) => false,
            given => given.map(|()| true).map_err(failed)?,
        },
    };
    // After the owner, who takes some away, and before the permissions, which may be none to write it. An access list says
    // the same as they do.
    let has_attributes = options.attributes.write(&file, &meta.xattrs).map_err(not_written)?;
    // After the owner, who takes them away.
    let keeps_set_id = has_owner && options.owners != Owners::Caller;
    let mode = if keeps_set_id { meta.mode } else { meta.mode & !SET_ID };
    fchmod(&file, Mode::from_raw_mode(mode)).map_err(failed)?;
    futimens(&file, &times(meta)).map_err(failed)?;
    Ok(match (has_owner || options.owners != Owners::Keep, has_attributes) {
        (false, _) => Some(Note::Owner),
        (true, false) => Some(Note::Attributes),
        (true, true) => None,
    })
}

/// A file has little room for attributes on a disk that has much: that there is none says nothing of other files.
fn not_written(source: io::Error) -> Trouble {
    match Errno::from_io_error(&source) {
        Some(Errno::NOSPC | Errno::DQUOT) => Problem::Attributes(source).into(),
        _ => trouble(source, Problem::Attributes),
    }
}

/// The same for what can be opened by its place alone (`O_PATH`), and has its permissions: a symbolic link, or a device.
pub(super) fn give_to_place(place: impl AsFd, meta: &Meta, options: UnpackOptions) -> io::Result<Option<Note>> {
    let has_owner = match owner(options.owners, meta) {
        None => true,
        Some((uid, gid)) => match chownat(&place, "", uid, gid, AtFlags::EMPTY_PATH) {
            Err(Errno::PERM) => options.owners != Owners::Keep,
            given => given.map(|()| true)?,
        },
    };
    utimensat(&place, "", &times(meta), AtFlags::EMPTY_PATH)?;
    Ok(if has_owner { None } else { Some(Note::Owner) })
}
