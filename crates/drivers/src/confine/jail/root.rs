//! The file system that a jailed process sees, as it is put together.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, mknod, umask};
use nix::unistd::{Gid, Uid};

use super::mounts::{self, NO_DEVICES, NO_SUID, READ_ONLY, Tree};
use super::{JailError, failed};
use crate::confine::policy::descriptor_path;

/// Bytes of the root itself: a few directories and links.
const BYTES: u32 = 256 << 10;
/// The descriptor of the first file of the runtime directory: behind all that is inherited.
const FIRST_RUNTIME_FILE: i32 = 96;

/// Most links that lead to one file; Linux follows as many.
const LINKS_MAX: u32 = 40;
/// What the kernel tells of all processes and devices: nothing of it is put into a jail. Programs do without.
const KERNELS_OWN: [&str; 2] = ["/proc", "/sys"];

/// The root of a jail, under construction.
pub(super) struct Root {
    /// Where it is mounted.
    path: PathBuf,
    /// The runtime directory below it.
    runtime: File,
    /// The sandbox's own uid.
    uid: Option<u32>,
    /// What was put with all that is in it.
    whole: Vec<PathBuf>,
    groups: Vec<Gid>,
}

impl Root {
    /// An empty one, mounted over the runtime directory for want of another place: nobody else sees it.
    pub(super) fn over(runtime_dir: &Path, uid: Option<u32>) -> Result<Self, JailError> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        let runtime = options.open(runtime_dir).map_err(failed("opening the runtime directory"))?;
        let root = Tree::empty(BYTES).map_err(failed("making the jail's root"))?;
        root.attach(runtime_dir).map_err(failed("mounting the jail's root"))?;
        // A directory of this root is the sandbox's own user's to go through.
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        let path = runtime_dir.to_owned();
        Ok(Self { path, runtime, uid, whole: Vec::new(), groups: Vec::new() })
    }

    /// The place in it of a path that is absolute on the host, with the directory above it.
    fn place(&self, path: &Path) -> Result<PathBuf, JailError> {
        let put = |source| JailError::Put { path: path.to_owned(), source };
        let mut place = self.path.clone();
        for component in path.components() {
            match component {
                Component::RootDir => {}
                Component::Normal(name) => place.push(name),
                _ => return Err(JailError::Path(path.to_owned())),
            }
        }
        fs::create_dir_all(place.parent().unwrap_or(&self.path)).map_err(put)?;
        Ok(place)
    }

    /// Puts a file or directory into it that is only read, a link as the same link with what it leads to; fine if there
    /// is none.
    pub(super) fn put_read_only(&mut self, path: &Path) -> Result<(), JailError> {
        self.put_linked(path, LINKS_MAX)
    }

    /// The same, unless more than `links` lead on.
    fn put_linked(&mut self, path: &Path, links: u32) -> Result<(), JailError> {
        let put = |source| JailError::Put { path: path.to_owned(), source };
        // Links above it are links in here too, or not needed: so no place leads out of this root, to the host's.
        let Some(path) = &real_path(path) else { return Ok(()) };
        let is_there = self.whole.iter().any(|whole| path.starts_with(whole));
        if is_there || KERNELS_OWN.iter().any(|directory| path.starts_with(directory)) {
            return Ok(());
        }
        let Ok(meta) = path.symlink_metadata() else { return Ok(()) };
        let place = self.place(path)?;
        if meta.is_symlink() {
            let target = fs::read_link(path).map_err(put)?;
            match symlink(&target, place) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
                made => made.map_err(put)?,
            }
            let led_to = path.parent().unwrap_or(path).join(target);
            return if links == 0 { Ok(()) } else { self.put_linked(&led_to, links - 1) };
        }
        if meta.file_type().is_char_device() {
            return self.put_device(path);
        }
        let tree = Tree::copy(path).map_err(put)?;
        tree.restrict(READ_ONLY | NO_SUID | NO_DEVICES).map_err(put)?;
        attach(path, &place, &meta, &tree)?;
        self.whole.push(path.to_owned());
        Ok(())
    }

    /// Puts a device node into it; fine if there is none.
    pub(super) fn put_device(&mut self, path: &Path) -> Result<(), JailError> {
        const OTHERS: u32 = 0o006;
        let put = |source| JailError::Put { path: path.to_owned(), source };
        let Some(path) = &real_path(path) else { return Ok(()) };
        let Ok(meta) = path.metadata() else { return Ok(()) };
        let place = self.place(path)?;
        if place.exists() {
            return Ok(());
        }
        if let Some(uid) = self.uid
            && meta.permissions().mode() & OTHERS != OTHERS
        {
            match mknod(&place, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, meta.rdev()) {
                Ok(()) => return chown(&place, Some(uid), Some(uid)).map_err(put),
                // A container that makes none. The host's own, to whose group the process belongs then.
                Err(Errno::EPERM) => self.groups.push(Gid::from_raw(meta.gid())),
                Err(error) => return Err(put(error.into())),
            }
        }
        let tree = Tree::copy(path).map_err(put)?;
        tree.restrict(NO_SUID).map_err(put)?;
        attach(path, &place, &meta, &tree)
    }

    /// Puts a directory into it that is mounted nowhere yet.
    pub(super) fn put_tree(&mut self, path: &Path, tree: &Tree) -> Result<(), JailError> {
        let put = |source| JailError::Put { path: path.to_owned(), source };
        let place = self.place(path)?;
        fs::create_dir(&place).map_err(put)?;
        tree.attach(&place).map_err(put)
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
        symlink(descriptor_path(kept), self.path.join(plain)).map_err(put)
    }

    /// Adds the process's own descriptors, and lets nothing more be added. The groups that the process needs.
    pub(super) fn close(self) -> Result<Vec<Gid>, JailError> {
        // Of all that is in /proc alone these: there are ways out of a process through its others (its memory, its
        // root), which a guest might get at through a share.
        let own = Path::new("/proc/self/fd");
        let put = |source| JailError::Put { path: own.to_owned(), source };
        let place = self.place(own)?;
        fs::create_dir(&place).map_err(put)?;
        Tree::copy(own).and_then(|tree| tree.attach(&place)).map_err(put)?;
        let root = File::open(&self.path).map_err(failed("opening the jail's root"))?;
        mounts::restrict(root.as_fd(), READ_ONLY).map_err(failed("closing the jail's root"))?;
        Ok(self.groups)
    }
}

/// The path with no link above its last part; `None` if that directory is not there.
fn real_path(path: &Path) -> Option<PathBuf> {
    let above = path.parent()?.canonicalize().ok()?;
    Some(above.join(path.file_name()?))
}

/// Mounts a copy of what is at `path` at its place, which is made.
fn attach(path: &Path, place: &Path, meta: &Metadata, tree: &Tree) -> Result<(), JailError> {
    let put = |source| JailError::Put { path: path.to_owned(), source };
    let made = if meta.is_dir() { fs::create_dir_all(place) } else { File::create_new(place).map(drop) };
    made.and_then(|()| tree.attach(place)).map_err(put)
}
