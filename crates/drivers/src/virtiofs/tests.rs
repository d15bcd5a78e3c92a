//! The file system that a guest sees, called as the server calls it, over a real directory.

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{Uid, mkfifo};
use rustix::fs::XattrFlags;
use sandpen_guest::protocol::{DROP_CACHES, FILES_LIMIT_MET};
use sandpen_skip::{Reason, skip};
use virtiofsd::filesystem::{
    Context, DirectoryIterator as _, Entry, Extensions, FsOptions, GetxattrReply, ListxattrReply, ROOT_ID,
    SetattrValid, SetxattrFlags,
};
use virtiofsd::fuse::{Attr, SetattrIn};

use super::xattr_names::CAPABILITY;
use super::*;

const LIMIT: usize = 16;
const NONE: SetxattrFlags = SetxattrFlags::empty();

type Shared = Guarded<PassthroughFs>;

fn config(dir: &Path) -> Config {
    Config {
        root_dir: dir.to_str().unwrap().to_owned(),
        xattr: true,
        killpriv_v2: true,
        guest_fd_limit: LIMIT as u64 + LOOKED_UP,
        ..Config::default()
    }
}

fn share_with(dir: &Path, caches: GuestCaches) -> Shared {
    let shared = Guarded::new(PassthroughFs::new(config(dir)).unwrap(), Descriptors::new(LIMIT, caches));
    shared.init(FsOptions::empty()).unwrap();
    shared
}

fn share_dir(dir: &Path) -> Shared {
    share_with(dir, GuestCaches::unreachable())
}

fn root() -> Context {
    Context { uid: 0.into(), gid: 0.into(), pid: 1 }
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn lookup(shared: &Shared, name: &str) -> io::Result<Entry> {
    shared.lookup(root(), ROOT_ID, &c(name))
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// A directory with files `0`, `1`, ….
fn files(count: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..count {
        fs::write(dir.path().join(number.to_string()), number.to_string()).unwrap();
    }
    dir
}

/// Descriptors of this process for files of a directory.
fn held(dir: &Path) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    links.filter(|link| link.starts_with(dir)).count()
}

/// The FIFO of the port and an end that keeps it open.
fn fifo() -> (tempfile::TempDir, File, GuestCaches) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("files.in");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let port = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let caches = GuestCaches::open(&path).unwrap();
    (dir, port, caches)
}

fn waiting(port: &File) -> usize {
    usize::try_from(rustix::io::ioctl_fionread(port.as_fd()).unwrap()).unwrap()
}

#[test]
fn a_guest_that_forgets_when_asked_sees_any_number_of_files() {
    let dir = files(400);
    let (_fifo, mut port, caches) = fifo();
    let shared = Arc::new(share_with(dir.path(), caches));
    let known = Arc::new(Mutex::new(Vec::new()));
    let done = Arc::new(AtomicBool::new(false));
    // The guest's PID 1 and kernel.
    let guest = {
        let (shared, known, done) = (shared.clone(), known.clone(), done.clone());
        std::thread::spawn(move || {
            let mut asked = 0;
            loop {
                let mut byte = [0];
                port.read_exact(&mut byte).unwrap();
                if done.load(Ordering::SeqCst) {
                    return asked;
                }
                assert_eq!(byte, [DROP_CACHES]);
                asked += 1;
                let forgotten: Vec<_> = std::mem::take(&mut *known.lock().unwrap());
                shared.batch_forget(root(), forgotten.into_iter().map(|inode| (inode, 1)).collect());
            }
        })
    };
    let began = Instant::now();
    for number in 0..400 {
        let entry = lookup(&shared, &number.to_string()).unwrap();
        assert_eq!(entry.attr.size, number.to_string().len() as u64);
        known.lock().unwrap().push(entry.inode);
        assert!(held(dir.path()) <= LIMIT + 1);
    }
    assert!(began.elapsed() < Duration::from_secs(6), "who waits asks again as soon as it may: {:?}", began.elapsed());
    done.store(true, Ordering::SeqCst);
    shared.descriptors().ask_again();
    let asked = guest.join().unwrap();
    assert!((400 / LIMIT..=400).contains(&asked), "{asked}");
}

#[test]
fn a_guest_that_forgets_nothing_gets_enfile_and_what_it_knows() {
    let dir = files(40);
    let (_fifo, mut port, caches) = fifo();
    let shared = share_with(dir.path(), caches);
    // The root directory is one of them.
    let known: Vec<_> = (1..LIMIT).map(|number| lookup(&shared, &number.to_string()).unwrap()).collect();
    let began = Instant::now();
    assert_eq!(errno(lookup(&shared, "20")), Some(libc::ENFILE));
    assert!(began.elapsed() >= Duration::from_secs(1), "it waited for the guest");
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(errno(lookup(&shared, "20")), Some(libc::ENFILE));
        assert_eq!(errno(shared.open(root(), known[0].inode, false, 0)), Some(libc::ENFILE));
        assert_eq!(errno(shared.mkdir(root(), ROOT_ID, c"made", 0o755, 0, Extensions::default())), Some(libc::ENFILE));
        let made = shared.create(root(), ROOT_ID, c"made", 0o644, false, 0, 0, Extensions::default());
        assert_eq!(errno(made), Some(libc::ENFILE));
    }
    assert!(began.elapsed() < Duration::from_secs(8), "having waited in vain it waits for a moment only");
    assert!(!dir.path().join("made").exists(), "what cannot be told is not made");
    // What it knows is found as ever.
    assert_eq!(lookup(&shared, "1").unwrap().inode, known[0].inode);
    shared.getattr(root(), known[0].inode, None).unwrap();
    // It was asked and told, and not flooded.
    let mut bytes = vec![0; waiting(&port)];
    port.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes[0], DROP_CACHES);
    assert_eq!(bytes.split(|byte| *byte == FILES_LIMIT_MET).count(), 2, "told once: {bytes:?}");
    assert!(bytes.len() < 20, "{bytes:?}");
    // With one forgotten there is room for one, and none is lost over all that failed.
    shared.forget(root(), known[5].inode, 1);
    lookup(&shared, "20").unwrap();
    assert_eq!(errno(lookup(&shared, "21")), Some(libc::ENFILE));
    assert_eq!(held(dir.path()), LIMIT);
    shared.destroy();
    assert_eq!(held(dir.path()), 0);
    shared.init(FsOptions::empty()).unwrap();
    lookup(&shared, "21").unwrap();
}

#[test]
fn open_files_count_until_they_are_closed() {
    let dir = files(2);
    let shared = share_dir(dir.path());
    let inode = lookup(&shared, "0").unwrap().inode;
    let open = || shared.open(root(), inode, false, 0).map(|(handle, _)| handle.unwrap());
    let handles: Vec<_> = (2..LIMIT).map(|_| open().unwrap()).collect();
    assert_eq!(errno(open()), Some(libc::ENFILE));
    assert_eq!(errno(shared.release(root(), ROOT_ID, 0, handles[0], false, false, None)), Some(libc::EBADF));
    assert_eq!(errno(open()), Some(libc::ENFILE), "nothing was closed");
    shared.release(root(), inode, 0, handles[0], false, false, None).unwrap();
    open().unwrap();
    assert_eq!(errno(shared.opendir(root(), ROOT_ID, 0)), Some(libc::ENFILE));
    // More is forgotten than was told, and what is unknown: nothing follows.
    shared.forget(root(), inode, u64::MAX);
    shared.forget(root(), inode, u64::MAX);
    shared.forget(root(), 12345, 1);
    assert_eq!(errno(shared.getattr(root(), inode, None)), Some(libc::EBADF));
}

#[test]
fn a_listing_names_everything_whatever_can_be_remembered() {
    let dir = files(200);
    let shared = share_dir(dir.path());
    let handle = shared.opendir(root(), ROOT_ID, 0).unwrap().0.unwrap();
    // As the server does it for READDIRPLUS.
    let (mut named, mut remembered, mut offset) = (0, 0, 0);
    loop {
        let mut listing = shared.readdir(root(), ROOT_ID, handle, 4096, offset).unwrap();
        let mut some = false;
        while let Some(listed) = listing.next() {
            some = true;
            offset = listed.offset;
            let (name, ino) = (listed.name.to_owned(), listed.ino);
            if name.as_bytes() == b"." || name.as_bytes() == b".." {
                continue;
            }
            let entry = shared.lookup(root(), ROOT_ID, &name).unwrap();
            assert_eq!((entry.attr.ino, entry.attr.mode & libc::S_IFMT), (ino, libc::S_IFREG));
            named += 1;
            remembered += usize::from(entry.inode != 0);
        }
        if !some {
            break;
        }
    }
    assert_eq!((named, remembered), (200, LIMIT / 2 - 2), "beside the root and the open directory");
    // What is gone by then is named as well, instead of failing the listing.
    let mut listing = shared.readdir(root(), ROOT_ID, handle, 4096, 0).unwrap();
    listing.next().unwrap();
    assert_eq!(shared.lookup(root(), ROOT_ID, c"gone").unwrap().inode, 0);
    drop(listing);
    assert_eq!(errno(shared.lookup(root(), ROOT_ID, c"gone")), Some(libc::ENOENT));
}

#[test]
fn a_file_that_the_host_replaces_stays_readable_and_the_new_one_is_found() {
    let dir = files(1);
    let shared = share_dir(dir.path());
    let old = lookup(&shared, "0").unwrap();
    fs::write(dir.path().join("new"), "longer").unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("0")).unwrap();
    assert_eq!(shared.getattr(root(), old.inode, None).unwrap().0.size, 1);
    shared.open(root(), old.inode, false, 0).unwrap();
    let new = lookup(&shared, "0").unwrap();
    assert_ne!(new.inode, old.inode);
    assert_eq!(new.attr.size, 6);
}

fn on_host(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let len = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(len);
    Some(value)
}

fn value(reply: io::Result<GetxattrReply>) -> io::Result<Vec<u8>> {
    match reply? {
        GetxattrReply::Value(value) => Ok(value),
        GetxattrReply::Count(_) => panic!("only the length"),
    }
}

fn names(shared: &Shared, inode: u64) -> Vec<String> {
    let ListxattrReply::Count(len) = shared.listxattr(root(), inode, 0).unwrap() else { panic!("not the length") };
    if len > 0 {
        assert_eq!(errno(shared.listxattr(root(), inode, len - 1)), Some(libc::ERANGE));
    }
    let ListxattrReply::Names(names) = shared.listxattr(root(), inode, len.max(1)).unwrap() else { panic!("no names") };
    assert_eq!(names.len(), len as usize);
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut names: Vec<_> = names.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect();
    names.sort();
    names
}

/// Capabilities as the kernel takes them: `cap_net_raw=ep`, version 2.
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn what_a_guest_sets_never_counts_on_the_host_and_comes_back() {
    let dir = files(1);
    let path = dir.path().join("0");
    let shared = share_dir(dir.path());
    let inode = lookup(&shared, "0").unwrap().inode;
    let set = |name: &CStr, value: &[u8]| shared.setxattr(root(), inode, name, value, 0, NONE);
    let get = |name: &CStr| value(shared.getxattr(root(), inode, name, 256));
    assert_eq!((get(CAPABILITY), names(&shared, inode)).1, Vec::<String>::new());
    assert_eq!(errno(get(CAPABILITY)), Some(libc::ENODATA));
    let all = ["security.capability", "security.x", "trusted.overlay.opaque", "user.a", "user.sandpen.deep"];
    for name in all {
        set(&c(name), &[name.as_bytes(), &NET_RAW].concat()).unwrap();
    }
    for name in all {
        assert_eq!(get(&c(name)).unwrap(), [name.as_bytes(), &NET_RAW].concat());
        let stored = if name == "user.a" { name.to_owned() } else { format!("user.sandpen.{name}") };
        assert!(on_host(&path, &stored).is_some(), "{name}");
    }
    for name in ["security.capability", "security.x", "trusted.overlay.opaque"] {
        assert_eq!(on_host(&path, name), None, "{name}");
    }
    assert_eq!(names(&shared, inode), all);
    let GetxattrReply::Count(len) = shared.getxattr(root(), inode, c"user.a", 0).unwrap() else { panic!("a value") };
    assert_eq!(len, 26);
    for name in all {
        shared.removexattr(root(), inode, &c(name)).unwrap();
        assert_eq!(errno(shared.removexattr(root(), inode, &c(name))), Some(libc::ENODATA), "{name}");
    }
    for name in ["system.posix_acl_access", "system.posix_acl_default", "system.x", "unknown"] {
        assert_eq!(errno(set(&c(name), b"x")), Some(libc::EOPNOTSUPP), "{name}");
        assert_eq!(errno(get(&c(name))), Some(libc::EOPNOTSUPP), "{name}");
    }
    assert_eq!(rustix::fs::llistxattr(&path, &mut [0_u8; 256][..]).unwrap(), 0, "nothing is left");
}

#[test]
fn capabilities_of_the_hosts_are_seen_until_the_guest_says_otherwise() {
    if !Uid::effective().is_root() {
        return skip(Reason::NotRoot, "setting capabilities of a file");
    }
    let dir = files(1);
    let path = dir.path().join("0");
    let host = |name: &str, value: &[u8]| rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty()).unwrap();
    host("security.capability", &NET_RAW);
    host("trusted.host", b"x");
    host("security.sandpen_test", b"x");
    let shared = share_dir(dir.path());
    let inode = lookup(&shared, "0").unwrap().inode;
    let get = |name: &CStr| value(shared.getxattr(root(), inode, name, 256));
    assert_eq!(names(&shared, inode), ["security.capability"], "and nothing else of the host's");
    assert_eq!(get(CAPABILITY).unwrap(), NET_RAW);
    assert_eq!(errno(get(c"trusted.host")), Some(libc::ENODATA));
    assert_eq!(errno(get(c"security.sandpen_test")), Some(libc::ENODATA));
    // The guest's own come first, and the host's are untouched.
    shared.setxattr(root(), inode, CAPABILITY, b"mine", 0, NONE).unwrap();
    assert_eq!((get(CAPABILITY).unwrap(), names(&shared, inode).len()), (b"mine".to_vec(), 1));
    assert_eq!(on_host(&path, "security.capability").unwrap(), NET_RAW);
    // Removed are both.
    shared.removexattr(root(), inode, CAPABILITY).unwrap();
    assert_eq!(errno(get(CAPABILITY)), Some(libc::ENODATA));
    assert_eq!(on_host(&path, "security.capability"), None);
    assert_eq!(names(&shared, inode), Vec::<String>::new());
}

/// A file system that knows the guest's root only, as the kernel tells it of owners that have no number.
struct OneOwner(i32);

impl FileSystem for OneOwner {
    type Inode = u64;
    type Handle = u64;
    type DirIter = virtiofsd::read_dir::ReadDir<Vec<u8>>;

    fn setattr(
        &self,
        _: Context,
        _: u64,
        _: SetattrIn,
        _: Option<u64>,
        _: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        Err(io::Error::from_raw_os_error(self.0))
    }

    fn mkdir(&self, _: Context, _: u64, _: &CStr, _: u32, _: u32, _: Extensions) -> io::Result<Entry> {
        Err(io::Error::from_raw_os_error(self.0))
    }
}

#[test]
fn an_owner_that_cannot_be_is_not_permitted() {
    let somebody = Context { uid: 5.into(), ..root() };
    let cases = [(libc::EINVAL, libc::EPERM), (libc::EOVERFLOW, libc::EPERM), (libc::EROFS, libc::EROFS)];
    for (error, expected) in cases {
        let shared = Guarded::new(OneOwner(error), Descriptors::new(LIMIT, GuestCaches::unreachable()));
        let change = |valid| errno(shared.setattr(root(), 1, SetattrIn::default(), None, valid));
        assert_eq!(change(SetattrValid::UID), Some(expected));
        assert_eq!(change(SetattrValid::GID | SetattrValid::MODE), Some(expected));
        assert_eq!(change(SetattrValid::SIZE), Some(error), "that is not about owners");
        let make = |ctx| errno(shared.mkdir(ctx, 1, c"x", 0o755, 0, Extensions::default()));
        assert_eq!((make(somebody), make(root())), (Some(expected), Some(error)));
    }
}

#[test]
fn a_port_without_a_reader_or_with_a_full_pipe_holds_up_nothing() {
    let (dir, port, caches) = fifo();
    for _ in 0..100_000 {
        caches.ask_to_drop();
    }
    assert!(waiting(&port) >= 4096);
    drop(port);
    caches.ask_to_drop();
    caches.tell_limit();
    assert!(GuestCaches::open(&dir.path().join("files.in")).is_err(), "nobody reads it");
    assert!(GuestCaches::open(&dir.path().join("missing")).is_err());
}
