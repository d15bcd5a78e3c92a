//! Reads a VMM log: what a VMM, its companions and the guest's console printed, which their waiter
//! puts on file.
//!
//! ```text
//!   open ──▶ read … read (nothing new) ──▶ changed ──▶ read …
//! ```
//!
//! A start of the sandbox empties the file and begins it anew, and so does a reader.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sandpen_vmm::blocking::blocking_io;

use crate::host::readable::{Registration, register};

/// Most bytes of one chunk.
const CHUNK_MAX: usize = 64 << 10;
/// Most bytes at the end that are searched for the last lines; drivers keep 1 MiB in all.
const TAIL_MAX: u64 = 4 << 20;

/// A reader of one VMM log. Use it on a tokio runtime.
#[derive(Debug)]
pub struct VmmLogReader {
    path: PathBuf,
    /// `None` until there is one.
    file: Option<Arc<File>>,
    position: u64,
    changes: Option<Changes>,
}

impl VmmLogReader {
    /// Opens the log at its beginning, or its last `tail` lines; one that is not there is empty.
    /// `follow` makes [`VmmLogReader::changed`] work.
    ///
    /// # Errors
    /// The log cannot be read, or, with `follow`, not be watched.
    pub async fn open(path: PathBuf, tail: Option<usize>, follow: bool) -> io::Result<Self> {
        // Before the first look: what is written after it is noticed.
        let changes = if follow { Some(Changes::new(&path)?) } else { None };
        let mut reader = Self { path, file: None, position: 0, changes };
        reader.find().await?;
        if let (Some(lines), Some(file)) = (tail, reader.file.clone()) {
            reader.position = blocking_io(move || tail_of(&file, lines)).await?;
        }
        Ok(reader)
    }

    /// The next bytes; none where nothing new is there.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn read(&mut self) -> io::Result<Vec<u8>> {
        if self.file.is_none() {
            self.find().await?;
        }
        let Some(file) = self.file.clone() else { return Ok(Vec::new()) };
        let position = self.position;
        let (from, bytes) = blocking_io(move || {
            // A new start has emptied it.
            let from = if file.metadata()?.len() < position { 0 } else { position };
            let mut bytes = vec![0; CHUNK_MAX];
            let len = file.read_at(&mut bytes, from)?;
            bytes.truncate(len);
            Ok((from, bytes))
        })
        .await?;
        self.position = from + bytes.len() as u64;
        Ok(bytes)
    }

    /// Resolves when there may be something to read; never without `follow`. Safe to cancel.
    ///
    /// # Errors
    /// The log cannot be watched any longer.
    pub async fn changed(&mut self) -> io::Result<()> {
        match &mut self.changes {
            Some(changes) => changes.next().await,
            None => std::future::pending().await,
        }
    }

    async fn find(&mut self) -> io::Result<()> {
        let path = self.path.clone();
        self.file = blocking_io(move || open(&path)).await?.map(Arc::new);
        if self.file.is_some()
            && let Some(changes) = &mut self.changes
        {
            changes.watch_file(&self.path)?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the last `lines` lines begin; an unfinished last line counts as one.
fn tail_of(file: &File, lines: usize) -> io::Result<u64> {
    let end = file.metadata()?.len();
    let from = end.saturating_sub(TAIL_MAX);
    let mut bytes = vec![0; usize::try_from(end - from).unwrap_or(0)];
    let len = file.read_at(&mut bytes, from)?;
    bytes.truncate(len);
    Ok(from + tail_offset(&bytes, lines) as u64)
}

fn tail_offset(bytes: &[u8], lines: usize) -> usize {
    if lines == 0 {
        return bytes.len();
    }
    let finished = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut line_ends = finished.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    line_ends.nth(lines - 1).map_or(0, |(at, _)| at + 1)
}

/// The kernel's word that a file was made or written.
#[derive(Debug)]
struct Changes {
    inotify: Inotify,
    events: Registration,
    watches_file: bool,
}

impl Changes {
    fn new(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        inotify.add_watch(directory, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
        let events: OwnedFd = std::os::fd::AsFd::as_fd(&inotify).try_clone_to_owned()?;
        let mut changes = Self { inotify, events: register(&Arc::new(events))?, watches_file: false };
        if path.symlink_metadata().is_ok() {
            changes.watch_file(path)?;
        }
        Ok(changes)
    }

    fn watch_file(&mut self, path: &Path) -> io::Result<()> {
        if !self.watches_file {
            self.inotify.add_watch(path, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_DONT_FOLLOW)?;
            self.watches_file = true;
        }
        Ok(())
    }

    async fn next(&mut self) -> io::Result<()> {
        // Room for several events; which they are does not count.
        let mut events = [0; 4096];
        loop {
            let mut ready = self.events.readable().await?;
            match ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), &mut events)?)) {
                Ok(read) => return read.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    async fn rest(reader: &mut VmmLogReader) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match reader.read().await.unwrap() {
                bytes if bytes.is_empty() => return all,
                bytes => all.extend(bytes),
            }
        }
    }

    /// What comes until it is `wanted`.
    async fn until(reader: &mut VmmLogReader, wanted: &[u8]) {
        let mut all = Vec::new();
        let coming = async {
            loop {
                all.extend(rest(reader).await);
                if all == wanted {
                    break;
                }
                reader.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), coming).await.unwrap();
    }

    #[tokio::test]
    async fn it_is_followed_from_before_its_beginning_over_a_new_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.vmm");
        let mut reader = VmmLogReader::open(path.clone(), None, true).await.unwrap();
        assert!(reader.read().await.unwrap().is_empty());
        let mut file = File::create(&path).unwrap();
        file.write_all(b"first\0\xff").unwrap();
        until(&mut reader, b"first\0\xff").await;
        file.write_all(b"more").unwrap();
        until(&mut reader, b"more").await;
        let mut file = File::create(&path).unwrap();
        file.write_all(b"anew").unwrap();
        until(&mut reader, b"anew").await;
        // Words about what was read already may still come, but not without end.
        let mut words = 0;
        while words < 10 && tokio::time::timeout(Duration::from_millis(50), reader.changed()).await.is_ok() {
            words += 1;
        }
        assert!(words < 10 && reader.read().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_is_no_log_is_refused_and_a_missing_one_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let missing = VmmLogReader::open(dir.path().join("missing"), Some(3), false).await;
        assert!(missing.unwrap().read().await.unwrap().is_empty());
        let (fifo, link) = (dir.path().join("fifo"), dir.path().join("link"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        for path in [fifo, link, dir.path().to_owned()] {
            assert!(VmmLogReader::open(path.clone(), None, false).await.is_err(), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn a_tail_has_that_many_lines(text in "[a\n]{0,40}", lines in 0..12_usize) {
            let all: Vec<&str> = text.split_inclusive('\n').collect();
            let expected = all[all.len().saturating_sub(lines)..].concat();
            prop_assert_eq!(&text[tail_offset(text.as_bytes(), lines)..], expected);
        }
    }
}
