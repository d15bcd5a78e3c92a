//! A file system that says at the end only that it had no room, as those behind a network do.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::sync::mpsc;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;

/// Operations of FUSE (`include/uapi/linux/fuse.h`).
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const UNLINK: u32 = 10;
const RENAME: u32 = 12;
const OPEN: u32 = 14;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const RELEASEDIR: u32 = 29;
const CREATE: u32 = 35;
const BATCH_FORGET: u32 = 42;

const ROOT: u64 = 1;

/// A file system of one directory, which has no room for files that have contents, and says so when they are closed.
#[derive(Default)]
struct Full {
    names: BTreeMap<Vec<u8>, u64>,
    last: u64,
    /// By node.
    sizes: BTreeMap<u64, u64>,
    told: Option<mpsc::Sender<Vec<u8>>>,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().take_while(|byte| *byte != 0).collect()
}

impl Full {
    fn attributes(&self, node: u64) -> Vec<u8> {
        let mode: u32 = if node == ROOT { 0o040_755 } else { 0o100_644 };
        let size = self.sizes.get(&node).copied().unwrap_or(0);
        let times = [0_u64; 3];
        let words = [node, size, 0].into_iter().chain(times).flat_map(u64::to_le_bytes);
        let halves = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].into_iter().flat_map(u32::to_le_bytes);
        words.chain(halves).collect()
    }

    fn entry(&self, node: u64) -> Vec<u8> {
        let words = [node, 0, 0, 0, 0].into_iter().flat_map(u64::to_le_bytes);
        words.chain(self.attributes(node)).collect()
    }

    /// The answer, or an error's number; `None`: nothing is answered.
    fn answer(&mut self, operation: u32, node: u64, body: &[u8]) -> Option<Result<Vec<u8>, Errno>> {
        let opened = || [0; 16].to_vec();
        Some(match operation {
            FORGET | BATCH_FORGET => return None,
            INIT => {
                let mut answer = vec![0; 64];
                answer[..4].copy_from_slice(&7_u32.to_le_bytes());
                answer[4..8].copy_from_slice(&31_u32.to_le_bytes());
                answer[20..24].copy_from_slice(&4096_u32.to_le_bytes());
                Ok(answer)
            }
            LOOKUP => self.names.get(&until_nul(body)).map(|node| self.entry(*node)).ok_or(Errno::NOENT),
            GETATTR | SETATTR => Ok([vec![0; 16], self.attributes(node)].concat()),
            UNLINK => self.names.remove(&until_nul(body)).map(|_| Vec::new()).ok_or(Errno::NOENT),
            OPEN | OPENDIR => Ok(opened()),
            CREATE => {
                self.last += 1;
                let node = ROOT + self.last;
                self.names.insert(until_nul(&body[16..]), node);
                Ok([self.entry(node), opened()].concat())
            }
            WRITE => {
                let count = number(&body[16..20]);
                self.sizes.insert(node, number(&body[8..16]) + count);
                Ok(count.to_le_bytes().to_vec())
            }
            FLUSH if self.sizes.contains_key(&node) => Err(Errno::NOSPC),
            FLUSH | RELEASE | RELEASEDIR => Ok(Vec::new()),
            RENAME => {
                let from = until_nul(&body[8..]);
                let to = until_nul(&body[8 + from.len() + 1..]);
                if let Some(told) = &self.told {
                    told.send(to.clone()).unwrap();
                }
                match self.names.remove(&from) {
                    None => Err(Errno::NOENT),
                    Some(node) => {
                        self.names.insert(to, node);
                        Ok(Vec::new())
                    }
                }
            }
            // It does as if, and asks no more.
            _ => Err(Errno::NOSYS),
        })
    }

    fn serve(mut self, mut device: File) {
        let mut request = vec![0; 1 << 20];
        // Until it is mounted no more.
        while let Ok(count) = device.read(&mut request) {
            let (header, body) = request[..count].split_at(40);
            let operation = u32::try_from(number(&header[4..8])).unwrap();
            let Some(answer) = self.answer(operation, number(&header[16..24]), body) else { continue };
            let (error, answer) = match answer {
                Ok(answer) => (0, answer),
                Err(errno) => (-errno.raw_os_error(), Vec::new()),
            };
            let length = u32::try_from(16 + answer.len()).unwrap();
            let whole = [&length.to_le_bytes()[..], &error.to_le_bytes(), &header[8..16], &answer].concat();
            // Who asked may have been killed.
            let _ = device.write_all(&whole);
        }
    }
}

/// Mounted, as long as it lives.
struct Mounted(tempfile::TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// A file system that is full, and the names that files get there; `None` where none may be mounted.
fn full() -> Option<(Mounted, mpsc::Receiver<Vec<u8>>)> {
    let dir = tempfile::tempdir().unwrap();
    let mounted = File::options().read(true).write(true).open("/dev/fuse").and_then(|device| {
        let data = format!("fd={},rootmode=40755,user_id=0,group_id=0", device.as_raw_fd());
        let data = std::ffi::CString::new(data).unwrap();
        mount("sandpen-test", dir.path(), "fuse", MountFlags::empty(), data.as_c_str())?;
        Ok(device)
    });
    let Ok(device) = mounted else {
        sandpen_skip::skip(sandpen_skip::Reason::NoMounts, "a file system that is full at the end");
        return None;
    };
    let (told, names) = mpsc::channel();
    std::thread::spawn(move || Full { told: Some(told), ..Full::default() }.serve(device));
    Some((Mounted(dir), names))
}

#[test]
fn a_file_that_turns_out_not_to_be_whole_when_it_is_closed_gets_no_name() {
    for wait in [Wait::ForFew, Wait::ForAll] {
        // Whether files are waited for one by one, or not.
        for before in [0, 3, 6] {
            let Some((mounted, names)) = full() else { return };
            let entries: Vec<_> = (0..before).map(|n| file(&format!("empty {n}"), 0)).collect();
            let entries = [entries, vec![file("lost", 1000), file("after", 0)]].concat();
            let to = Destination::Directory(mounted.0.path());
            let error = unpack(&*tar(&entries), to, UnpackOptions { wait, ..OPTIONS }).unwrap_err();
            let text = crate::report::chain(&error);
            assert!(text.contains("cannot be written") && text.contains("No space left"), "{text}");
            drop(mounted);
            let named: Vec<_> = names.iter().collect();
            assert!(!named.contains(&b"lost".to_vec()), "{wait:?} {before} {named:?}");
        }
    }
}

/// Files that are not waited for have their names at once: who is killed leaves one without at most.
#[test]
fn what_is_not_waited_for_has_its_name_before_more_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let entries: Vec<_> = (0..50).map(|n| file(&format!("{n}"), 3)).collect();
    let whole = tar(&entries);
    let mut look = |bytes: usize| {
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let temporary = names.iter().filter(|name| name.as_encoded_bytes().starts_with(b".sandpen-cp-")).count();
        assert!(bytes < 6 * 1024 || temporary <= 1, "after {bytes} bytes: {names:?}");
    };
    let read = Looked { bytes: &whole, at: 0, look: &mut look };
    unpack(read, Destination::Directory(dir.path()), OPTIONS).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 50);
}

/// Looks before every block.
struct Looked<'a> {
    bytes: &'a [u8],
    at: usize,
    look: &'a mut dyn FnMut(usize),
}

impl Read for Looked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (self.look)(self.at);
        let end = (self.at + buffer.len().min(512)).min(self.bytes.len());
        let count = end - self.at;
        buffer[..count].copy_from_slice(&self.bytes[self.at..end]);
        self.at = end;
        Ok(count)
    }
}
