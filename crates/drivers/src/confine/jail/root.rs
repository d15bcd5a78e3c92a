//! The file system that a jailed process sees: what is to be in it is gathered where the host's files are, and put
//! together where nothing of the host is any more.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, dev_t};
use nix::sys::stat::{Mode, SFlag, mknod, umask};
use nix::unistd::{Gid, Uid};

use super::mounts::{self, NO_DEVICES, NO_SUID, READ_ONLY, Tree};
use super::{JailError, failed};
use crate::confine::policy::descriptor_path;

/// Bytes of the root itself: a few directories and links.
const BYTES: u32 = 256 << 10;
/// The descriptor of the first file of the runtime directory is this one or the next that is free: behind all that is
/// inherited, which is there by then.
const FIRST_RUNTIME_FILE: i32 = 96;

/// Most links that lead to one file; Linux follows as many.
const LINKS_MAX: u32 = 40;
/// What the kernel tells of all processes and devices: nothing of it is put into a jail. Programs do without.
const KERNELS_OWN: [&str; 2] = ["/proc", "/sys"];

/// What the root of a jail is to hold.
pub(super) struct Root {
    /// The sandbox's own uid.
    uid: Option<u32>,
    runtime: File,
    entries: Vec<Entry>,
    places: BTreeSet<PathBuf>,
    /// What was put with all that is in it.
    whole: Vec<PathBuf>,
}

/// Something at a place, an absolute path of plain names.
struct Entry {
    place: PathBuf,
    what: What,
}

enum What {
    /// A link there.
    Link(PathBuf),
    /// Something mounted there.
    Tree { tree: Tree, is_dir: bool },
    /// A device of the sandbox's own user's.
    Device { number: dev_t, uid: u32, otherwise: Tree, group: u32 },
}

impl Root {
    /// Nothing yet, with the files of the current directory, the runtime directory, at hand.
    pub(super) fn new(uid: Option<u32>) -> Result<Self, JailError> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        let runtime = options.open(".").map_err(failed("opening the runtime directory"))?;
        Ok(Self { uid, runtime, entries: Vec::new(), places: BTreeSet::new(), whole: Vec::new() })
    }

    fn add(&mut self, place: &Path, what: What) -> Result<(), JailError> {
        let mut components = place.components();
        let is_plain = components.next() == Some(Component::RootDir)
            && components.all(|component| matches!(component, Component::Normal(_)));
        if !is_plain {
            return Err(JailError::Path(place.to_owned()));
        }
        self.places.insert(place.to_owned());
        self.entries.push(Entry { place: place.to_owned(), what });
        Ok(())
    }

    /// Puts a file or directory into it that is only read, a link as the same link with what it leads to; fine if there
    /// is none.
    pub(super) fn put_read_only(&mut self, path: &Path) -> Result<(), JailError> {
        self.put_linked(path, LINKS_MAX)
    }

    /// The same, unless more than `links` lead on.
    fn put_linked(&mut self, path: &Path, links: u32) -> Result<(), JailError> {
        let put = |source| JailError::Put { path: path.to_owned(), source };
        // Links above it are links in here too, or not needed: so no place leads out of this root.
        let Some(path) = &real_path(path) else { return Ok(()) };
        let is_there = self.places.contains(path) || self.whole.iter().any(|whole| path.starts_with(whole));
        if is_there || KERNELS_OWN.iter().any(|directory| path.starts_with(directory)) {
            return Ok(());
        }
        let Ok(meta) = path.symlink_metadata() else { return Ok(()) };
        if meta.is_symlink() {
            let target = fs::read_link(path).map_err(put)?;
            self.add(path, What::Link(target.clone()))?;
            let led_to = path.parent().unwrap_or(path).join(target);
            return if links == 0 { Ok(()) } else { self.put_linked(&led_to, links - 1) };
        }
        if meta.file_type().is_char_device() {
            return self.put_device(path);
        }
        let tree = Tree::copy(path).map_err(put)?;
        tree.restrict(READ_ONLY | NO_SUID | NO_DEVICES).map_err(put)?;
        self.add(path, What::Tree { tree, is_dir: meta.is_dir() })?;
        self.whole.push(path.to_owned());
        Ok(())
    }

    /// Puts a device node into it; fine if there is none.
    pub(super) fn put_device(&mut self, path: &Path) -> Result<(), JailError> {
        const OTHERS: u32 = 0o006;
        let put = |source| JailError::Put { path: path.to_owned(), source };
        let Some(path) = &real_path(path) else { return Ok(()) };
        let Ok(meta) = path.metadata() else { return Ok(()) };
        if self.places.contains(path) {
            return Ok(());
        }
        let tree = Tree::copy(path).map_err(put)?;
        tree.restrict(NO_SUID).map_err(put)?;
        let what = match self.uid {
            Some(uid) if meta.permissions().mode() & OTHERS != OTHERS => {
                What::Device { number: meta.rdev(), uid, otherwise: tree, group: meta.gid() }
            }
            _ => What::Tree { tree, is_dir: false },
        };
        self.add(path, what)
    }

    /// Puts a directory into it that is mounted nowhere yet.
    pub(super) fn put_tree(&mut self, path: &Path, tree: Tree) -> Result<(), JailError> {
        self.add(path, What::Tree { tree, is_dir: true })
    }

    /// Puts a file into it that is mounted nowhere yet.
    pub(super) fn put_file(&mut self, path: &Path, tree: Tree) -> Result<(), JailError> {
        self.add(path, What::Tree { tree, is_dir: false })
    }

    /// Puts a file of the runtime directory into it, as a link to a descriptor; fine if there is none. It becomes the
    /// sandbox's own user's.
    pub(super) fn put_runtime_file(&mut self, name: &Path) -> Result<(), JailError> {
        let put = |source| JailError::Put { path: name.to_owned(), source };
        let mut components = name.components();
        let (Some(Component::Normal(plain)), None) = (components.next(), components.next()) else {
            return Err(JailError::Path(name.to_owned()));
        };
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW;
        let file = match rustix::fs::openat(&self.runtime, plain, flags, rustix::fs::Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            file => file.map_err(|error| put(error.into()))?,
        };
        if let Some(uid) = self.uid {
            let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)));
            let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
            nix::unistd::fchownat(&file, "", owner.0, owner.1, flags).map_err(|error| put(error.into()))?;
        }
        // Open over the execution of a program.
        let kept = fcntl(&file, FcntlArg::F_DUPFD(FIRST_RUNTIME_FILE)).map_err(|error| put(error.into()))?;
        self.add(&Path::new("/").join(plain), What::Link(descriptor_path(kept)))
    }

    /// Puts the process's own descriptors into it. Of all that is in /proc these alone: there are ways out of a process
    /// through its others (its memory, its root), which a guest might get at through a share.
    pub(super) fn put_descriptors(&mut self) -> Result<(), JailError> {
        let own = Path::new("/proc/self/fd");
        let put = |source| JailError::Put { path: own.to_owned(), source };
        let tree = Tree::copy(own).map_err(put)?;
        tree.restrict(NO_SUID | NO_DEVICES).map_err(put)?;
        self.add(own, What::Tree { tree, is_dir: true })
    }

    /// Puts it together at `root`, an empty directory, and lets nothing more be added. The groups that the process needs.
    pub(super) fn build(self, root: &Path) -> Result<Vec<Gid>, JailError> {
        let empty = Tree::empty(BYTES).map_err(failed("making the jail's root"))?;
        empty.attach(root).map_err(failed("mounting the jail's root"))?;
        // A directory of this root is the sandbox's own user's to go through.
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        let mut groups = Vec::new();
        for Entry { place, what } in &self.entries {
            let put = |source| JailError::Put { path: place.clone(), source };
            let at = root.join(place.strip_prefix("/").unwrap_or(place));
            fs::create_dir_all(at.parent().unwrap_or(root)).map_err(put)?;
            match what {
                What::Link(target) => symlink(target, &at).map_err(put)?,
                What::Tree { tree, is_dir } => attach(&at, *is_dir, tree).map_err(put)?,
                What::Device { number, uid, otherwise, group } => {
                    match mknod(&at, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, *number) {
                        Ok(()) => chown(&at, Some(*uid), Some(*uid)).map_err(put)?,
                        // A container that makes none. The host's own, to whose group the process belongs then.
                        Err(Errno::EPERM) => {
                            groups.push(Gid::from_raw(*group));
                            attach(&at, false, otherwise).map_err(put)?;
                        }
                        Err(error) => return Err(put(error.into())),
                    }
                }
            }
        }
        let root = File::open(root).map_err(failed("opening the jail's root"))?;
        mounts::restrict(root.as_fd(), READ_ONLY).map_err(failed("closing the jail's root"))?;
        Ok(groups)
    }
}

/// The path with no link above its last part; `None` if that directory is not there.
fn real_path(path: &Path) -> Option<PathBuf> {
    let above = path.parent()?.canonicalize().ok()?;
    Some(above.join(path.file_name()?))
}

/// Mounts it at a place, which is made.
fn attach(at: &Path, is_dir: bool, tree: &Tree) -> io::Result<()> {
    // Something of it may be there already: what lies below it came first.
    if is_dir {
        fs::create_dir_all(at)?;
    } else {
        File::create_new(at)?;
    }
    tree.attach(at)
}
