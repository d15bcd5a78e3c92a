//! What inotify(7) tells, with both halves of a rename together.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::{Errno, ioctl_fionread};

/// Bytes of events that are read at once: a whole number of pages, and more than one event can have.
const BUFFER: usize = 32 << 10;
/// The other half of a rename comes at once or never.
const HALF_LIMIT: Duration = Duration::from_millis(2);

/// Where something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) watch: i32,
    /// In the directory of that watch; `None`: it itself.
    pub(super) name: Option<Vec<u8>>,
    pub(super) is_directory: bool,
}

impl Place {
    /// Whether it is told of here, and not by the directory that it is in.
    pub(super) fn is_told(&self, is_root: bool) -> bool {
        self.name.is_some() || is_root
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happening {
    Created(Place),
    Modified(Place),
    Closed(Place),
    Attributes(Place),
    Removed(Place),
    Renamed(Place, Place),
    /// What is watched has another name.
    MovedItself(i32),
    /// It is watched no more.
    Gone(i32),
    Overflow,
}

pub(super) struct Inotify {
    fd: OwnedFd,
    buffer: Box<[MaybeUninit<u8>]>,
    /// The first half of a rename.
    leaving: Option<(u32, Place)>,
}

impl Inotify {
    pub(super) fn new() -> Result<Self, Errno> {
        let fd = inotify::init(CreateFlags::CLOEXEC)?;
        Ok(Self { fd, buffer: vec![MaybeUninit::uninit(); BUFFER].into(), leaving: None })
    }

    /// Watches what is at a path; the same number for what is watched already.
    pub(super) fn add(&self, path: &[u8], follow: bool) -> Result<i32, Errno> {
        let mut flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVE_SELF
            | WatchFlags::DELETE_SELF
            | WatchFlags::EXCL_UNLINK;
        if !follow {
            flags |= WatchFlags::DONT_FOLLOW | WatchFlags::ONLYDIR;
        }
        inotify::add_watch(&self.fd, path, flags)
    }

    pub(super) fn remove(&self, watch: i32) {
        // It may be gone already.
        let _ = inotify::remove_watch(&self.fd, watch);
    }

    /// Waits for something to happen.
    pub(super) fn next_batch(&mut self) -> Result<Vec<Happening>, Errno> {
        let mut batch = Vec::new();
        if self.leaving.is_some() && !self.has_more()? {
            thread::sleep(HALF_LIMIT);
            if !self.has_more()? {
                batch.extend(self.leaving.take().map(|(_, place)| Happening::Removed(place)));
                return Ok(batch);
            }
        }
        let mut reader = inotify::Reader::new(&self.fd, &mut self.buffer);
        loop {
            let event = match reader.next() {
                Err(Errno::INTR) => continue,
                event => event?,
            };
            let place = Place {
                watch: event.wd(),
                name: event.file_name().map(|name| name.to_bytes().to_vec()),
                is_directory: event.events().contains(ReadFlags::ISDIR),
            };
            translate(event.events(), event.cookie(), place, &mut self.leaving, &mut batch);
            if reader.is_buffer_empty() {
                return Ok(batch);
            }
        }
    }

    fn has_more(&self) -> Result<bool, Errno> {
        Ok(ioctl_fionread(&self.fd)? > 0)
    }
}

/// What an event means.
fn translate(
    events: ReadFlags,
    cookie: u32,
    place: Place,
    leaving: &mut Option<(u32, Place)>,
    batch: &mut Vec<Happening>,
) {
    let left = leaving.take();
    if events.contains(ReadFlags::MOVED_TO)
        && let Some((of, from)) = &left
        && *of == cookie
    {
        batch.push(Happening::Renamed(from.clone(), place));
        return;
    }
    // It went where nobody looks.
    batch.extend(left.map(|(_, from)| Happening::Removed(from)));
    let watch = place.watch;
    if events.contains(ReadFlags::MOVED_FROM) {
        *leaving = Some((cookie, place));
        return;
    }
    let kinds = [
        (ReadFlags::MOVED_TO, Happening::Created as fn(Place) -> Happening),
        (ReadFlags::CREATE, Happening::Created),
        (ReadFlags::MODIFY, Happening::Modified),
        (ReadFlags::CLOSE_WRITE, Happening::Closed),
        (ReadFlags::ATTRIB, Happening::Attributes),
        (ReadFlags::DELETE, Happening::Removed),
    ];
    if events.contains(ReadFlags::QUEUE_OVERFLOW) {
        batch.push(Happening::Overflow);
    } else if events.contains(ReadFlags::IGNORED) {
        batch.push(Happening::Gone(watch));
    } else if events.contains(ReadFlags::MOVE_SELF) {
        batch.push(Happening::MovedItself(watch));
    } else if let Some((_, happening)) = kinds.iter().find(|(flag, _)| events.contains(*flag)) {
        batch.push(happening(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Place {
        Place { watch: 1, name: Some(name.into()), is_directory: false }
    }

    #[test]
    fn halves_of_a_rename_find_each_other() {
        let (mut leaving, mut batch) = (None, Vec::new());
        let mut happen = |events, cookie, name| translate(events, cookie, place(name), &mut leaving, &mut batch);
        happen(ReadFlags::MOVED_FROM, 1, "a");
        happen(ReadFlags::MOVED_TO, 1, "b");
        happen(ReadFlags::MOVED_FROM, 2, "c");
        happen(ReadFlags::MOVED_FROM, 3, "d");
        happen(ReadFlags::MOVED_TO, 4, "e");
        happen(ReadFlags::QUEUE_OVERFLOW, 0, "");
        happen(ReadFlags::IGNORED, 0, "");
        let expected = [
            Happening::Renamed(place("a"), place("b")),
            Happening::Removed(place("c")),
            Happening::Removed(place("d")),
            Happening::Created(place("e")),
            Happening::Overflow,
            Happening::Gone(1),
        ];
        assert_eq!(batch, expected);
    }
}
