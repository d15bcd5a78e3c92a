//! The table of what a hostile kernel asks for.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

use super::FileServer;

/// Operations of linux/fuse.h.
const LOOKUP: u32 = 1;
const SETATTR: u32 = 4;
const SYMLINK: u32 = 6;
const MKNOD: u32 = 8;
const MKDIR: u32 = 9;
const UNLINK: u32 = 10;
const RENAME: u32 = 12;
const LINK: u32 = 13;
const OPEN: u32 = 14;
const READ: u32 = 15;
const SETXATTR: u32 = 21;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const CREATE: u32 = 35;
/// What SETATTR changes: `FATTR_MODE`, `FATTR_UID`, `FATTR_MTIME`.
const MODE: u32 = 1;
const USER: u32 = 2;
const TIME: u32 = 32;
/// The share itself.
const ROOT: u64 = 1;
/// The file that nobody was given, as a guest would name it.
const OUTSIDE: &str = "../outside";

type Run = fn(&mut dyn FileServer, &Path) -> Result<(), Errno>;

/// Each by what it does. Those of what is inside must succeed, or the others prove nothing.
const ATTEMPTS: &[(&str, Run)] = &[
    ("read inside", |server, _| read(server, "file", libc::O_RDONLY)),
    ("change the mode inside", |server, _| change(server, "file", MODE)),
    ("look up outside", |server, _| lookup(server, OUTSIDE).map(drop)),
    ("look up an absolute path", |server, share| {
        let outside = share.with_file_name("outside");
        lookup(server, std::str::from_utf8(outside.as_os_str().as_bytes()).unwrap_or("/")).map(drop)
    }),
    ("list outside", |server, _| {
        let node = lookup(server, "..")?;
        // The root itself where there is nothing above it.
        if node == ROOT { Err(Errno::ENOENT) } else { server.ask(OPENDIR, node, &words(&[0, 0])).map(drop) }
    }),
    ("read outside", |server, _| read(server, OUTSIDE, libc::O_RDONLY)),
    ("write outside", |server, _| read(server, OUTSIDE, libc::O_RDWR)),
    ("change the mode outside", |server, _| change(server, OUTSIDE, MODE)),
    ("change the owner outside", |server, _| change(server, OUTSIDE, USER)),
    ("change the time outside", |server, _| change(server, OUTSIDE, TIME)),
    ("set an attribute outside", |server, _| {
        let node = lookup(server, OUTSIDE)?;
        let body = [words(&[1, 0]), name("user.sandpen"), vec![b'x']].concat();
        server.ask(SETXATTR, node, &body).map(drop)
    }),
    ("make a file outside", |server, _| {
        let flags = (libc::O_CREAT | libc::O_RDWR).cast_unsigned();
        server.ask(CREATE, ROOT, &[words(&[flags, 0o644, 0, 0]), name("../made")].concat()).map(drop)
    }),
    ("make a directory outside", |server, _| {
        server.ask(MKDIR, ROOT, &[words(&[0o755, 0]), name("../made-directory")].concat()).map(drop)
    }),
    ("make a link outside", |server, _| {
        server.ask(SYMLINK, ROOT, &[name("../made-link"), name("file")].concat()).map(drop)
    }),
    ("link outside in", |server, _| {
        let node = lookup(server, OUTSIDE)?;
        server.ask(LINK, ROOT, &[node.to_le_bytes().to_vec(), name("linked")].concat()).map(drop)
    }),
    ("move out", |server, _| {
        let body = [ROOT.to_le_bytes().to_vec(), name("file"), name("../moved")].concat();
        server.ask(RENAME, ROOT, &body).map(drop)
    }),
    ("remove outside", |server, _| server.ask(UNLINK, ROOT, &name("../victim")).map(drop)),
    ("make a device node", |server, _| {
        // `/dev/null` once more.
        let body = [words(&[libc::S_IFCHR | 0o666, 0x0103, 0, 0]), name("node")].concat();
        server.ask(MKNOD, ROOT, &body).map(drop)
    }),
    ("open a device node", |server, _| read(server, "null", libc::O_RDWR)),
];

/// The names of all attempts, in their order.
pub fn names() -> Vec<String> {
    ATTEMPTS.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// Introduces itself and makes all attempts from number `from` on; tells what came of each: `done`, or an error's name.
///
/// # Errors
/// The server's refusal to speak at all.
pub fn try_all(
    server: &mut dyn FileServer,
    share: &Path,
    from: usize,
    mut tell: impl FnMut(&str, &str),
) -> Result<(), Errno> {
    // Version 7.38 of the protocol, 64 KiB of read-ahead, no features.
    server.ask(INIT, 0, &[words(&[7, 38, 64 << 10, 0]), vec![0; 48]].concat())?;
    for (name, run) in ATTEMPTS.iter().skip(from) {
        match run(server, share) {
            Ok(()) => tell(name, "done"),
            Err(errno) => tell(name, &format!("{errno:?}")),
        }
    }
    Ok(())
}

/// [`try_all`], as a map.
///
/// # Errors
/// As of that.
pub fn outcomes(server: &mut dyn FileServer, share: &Path) -> Result<BTreeMap<String, String>, Errno> {
    let mut outcomes = BTreeMap::new();
    try_all(server, share, 0, |name, word| drop(outcomes.insert(name.to_owned(), word.to_owned())))?;
    Ok(outcomes)
}

/// Looks a path up, from the share on; the node that it is.
///
/// # Errors
/// The server's.
pub fn lookup(server: &mut dyn FileServer, path: &str) -> Result<u64, Errno> {
    let entry = server.ask(LOOKUP, ROOT, &name(path))?;
    match number(&entry, 0) {
        0 => Err(Errno::ENOENT),
        node => Ok(node),
    }
}

/// Opens a file and reads from it.
fn read(server: &mut dyn FileServer, path: &str, flags: i32) -> Result<(), Errno> {
    let node = lookup(server, path)?;
    let opened = server.ask(OPEN, node, &words(&[flags.cast_unsigned(), 0]))?;
    let body = [opened.get(..8).unwrap_or_default().to_vec(), words(&[0, 0, 4096, 0, 0, 0, 0, 0])].concat();
    server.ask(READ, node, &body).map(drop)
}

/// Sets an attribute to what it may be already: the mode 0644, its own user, now.
fn change(server: &mut dyn FileServer, path: &str, what: u32) -> Result<(), Errno> {
    let node = lookup(server, path)?;
    let user = nix::unistd::Uid::effective().as_raw();
    // Of `struct fuse_setattr_in`: valid, 4 numbers, 3 times, their parts of a second, mode, user and group.
    let mut body = vec![0; 88];
    body[..4].copy_from_slice(&what.to_le_bytes());
    body[40..48].copy_from_slice(&1_700_000_000_u64.to_le_bytes());
    body[68..72].copy_from_slice(&0o644_u32.to_le_bytes());
    body[76..80].copy_from_slice(&user.to_le_bytes());
    server.ask(SETATTR, node, &body).map(drop)
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn name(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}
