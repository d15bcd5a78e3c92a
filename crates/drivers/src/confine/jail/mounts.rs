//! Mounts by descriptor (mount_namespaces(7), open_tree(2), mount_setattr(2)): a copy of what is mounted somewhere, with
//! fewer rights, attached somewhere else. Copies belong to the mount namespace that the process is in.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, open_tree,
};

use crate::confine::sys::{self, MountAttributes};

/// Of a mount: no set-user-ID programs; no device nodes; no writing.
pub(super) const NO_SUID: u64 = MountAttrFlags::MOUNT_ATTR_NOSUID.bits() as u64;
/// See [`NO_SUID`].
pub(super) const NO_DEVICES: u64 = MountAttrFlags::MOUNT_ATTR_NODEV.bits() as u64;
/// See [`NO_SUID`].
pub(super) const READ_ONLY: u64 = MountAttrFlags::MOUNT_ATTR_RDONLY.bits() as u64;
/// `MOUNT_ATTR_IDMAP` (linux/mount.h).
const ID_MAPPED: u64 = 0x0010_0000;

/// Something mounted nowhere yet, with all that is mounted below it.
pub(super) struct Tree(OwnedFd);

impl Tree {
    /// A copy of what is at `path`; every link on the way is followed.
    pub(super) fn copy(path: &Path) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        Ok(Self(open_tree(CWD, path, flags)?))
    }

    /// A copy of an open directory.
    pub(super) fn copy_of(directory: impl AsFd) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH;
        Ok(Self(open_tree(directory, "", flags)?))
    }

    /// An empty file system in memory, `bytes` large.
    pub(super) fn empty(bytes: u32) -> io::Result<Self> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(context.as_fd(), "size", bytes.to_string())?;
        fsconfig_set_string(context.as_fd(), "mode", "755")?;
        fsconfig_create(context.as_fd())?;
        Ok(Self(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID)?))
    }

    /// Takes rights away, from what is mounted below it too; what the host mounts there later is not seen here.
    pub(super) fn restrict(&self, attributes: u64) -> io::Result<()> {
        sys::set_mount_attributes(self.0.as_fd(), &MountAttributes::of(attributes).private(), true)
    }

    /// Has the owners of its files be those that this user namespace says; an error where one of the file systems
    /// cannot do that.
    pub(super) fn map_owners(&self, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
        let attributes = MountAttributes::of(ID_MAPPED).mapped_by(user_namespace);
        sys::set_mount_attributes(self.0.as_fd(), &attributes, true)
    }

    /// Mounts it over `at`.
    pub(super) fn attach(&self, at: &Path) -> io::Result<()> {
        Ok(move_mount(&self.0, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
    }
}

impl AsRawFd for Tree {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Takes rights away from the mount of this directory alone.
pub(super) fn restrict(directory: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    sys::set_mount_attributes(directory, &MountAttributes::of(attributes), false)
}
