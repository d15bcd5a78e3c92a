//! What a guest sees of a shared directory: virtiofsd's file system with what is ours around it.
//!
//! - The descriptors that the guest costs are counted and limited ([`Descriptors`]).
//! - A listing never fails for one of its entries: what cannot be remembered is named only.
//! - Extended attributes that would count on the host have other names there ([`xattr_names`]).
//! - An owner that this process cannot give a file answers `EPERM`, as to anybody who may not.

use std::cell::Cell;
use std::ffi::CStr;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use nix::libc;
use virtiofsd::filesystem::{
    Context, DirEntry, DirectoryIterator, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply,
    OpenOptions, ROOT_ID, SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::soft_idmap::Id as _;

use super::descriptors::{Descriptors, LimitMet};
use super::xattr_names::{self, CAPABILITY};

/// Most bytes of the names of a file's extended attributes (`XATTR_LIST_MAX` of Linux).
const XATTR_LIST_MAX: u32 = 65536;

/// A file system with what is ours around it.
#[derive(Debug)]
pub(super) struct Guarded<F> {
    inner: F,
    descriptors: Descriptors,
}

impl<F: FileSystem<Inode = u64, Handle = u64>> Guarded<F> {
    /// `descriptors` are fewer than what `inner` allows.
    pub(super) fn new(inner: F, descriptors: Descriptors) -> Self {
        Self { inner, descriptors }
    }

    #[cfg(test)]
    pub(super) fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// Makes something that belongs to who asks, which the guest remembers then.
    fn make(&self, ctx: Context, make: impl FnOnce() -> io::Result<Entry>) -> io::Result<Entry> {
        self.name(|| make().map_err(|error| owner_error(error, is_somebody(ctx))))
    }

    /// Gives something a name, which the guest remembers then.
    fn name(&self, name: impl FnOnce() -> io::Result<Entry>) -> io::Result<Entry> {
        let mut reserved = self.descriptors.reserve(1)?;
        let entry = name()?;
        reserved.remembered(entry.inode);
        Ok(entry)
    }

    fn opened(
        &self,
        open: impl FnOnce() -> io::Result<(Option<u64>, OpenOptions)>,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let mut reserved = self.descriptors.reserve(1)?;
        let (handle, options) = open()?;
        if handle.is_some() {
            reserved.opened();
        }
        Ok((handle, options))
    }

    /// Tells the guest of an entry of a listing, or its name only.
    fn list(&self, ctx: Context, parent: u64, name: &CStr, listed: Listed) -> Entry {
        let found = (!self.descriptors.are_scarce()).then(|| self.inner.lookup(ctx, parent, name).ok()).flatten();
        match found {
            Some(entry) if self.remember(ctx, &entry).is_ok() => entry,
            _ => listed.entry(),
        }
    }

    fn remember(&self, ctx: Context, entry: &Entry) -> Result<(), LimitMet> {
        let remembered = self.descriptors.remember(entry.inode);
        if remembered.is_err() {
            self.inner.forget(ctx, entry.inode, 1);
        }
        remembered
    }

    /// The host's own capabilities of a file, if this process may see them. A guest's kernel does not execute what
    /// it gets any other answer for.
    fn own_capability(&self, ctx: Context, inode: u64, size: u32) -> io::Result<GetxattrReply> {
        self.inner.getxattr(ctx, inode, CAPABILITY, size).map_err(|error| match error.raw_os_error() {
            Some(libc::EOVERFLOW | libc::EPERM | libc::EACCES) => io::Error::from_raw_os_error(libc::ENODATA),
            _ => error,
        })
    }
}

/// Whether it is not the guest's root who asks.
fn is_somebody(ctx: Context) -> bool {
    !(ctx.uid.is_root() && ctx.gid.is_root())
}

/// What the kernel says of an owner that does not exist in this process's user namespace.
fn owner_error(error: io::Error, about_owner: bool) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOVERFLOW) if about_owner => io::Error::from_raw_os_error(libc::EPERM),
        _ => error,
    }
}

fn stored(name: &CStr) -> io::Result<std::ffi::CString> {
    xattr_names::stored(name).ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}

/// An entry of the listing that this thread is making.
#[derive(Debug, Clone, Copy)]
struct Listed {
    ino: u64,
    kind: u32,
}

impl Listed {
    /// One that only names it: to the guest's kernel an inode 0 in a listing says nothing, as that of `..` does.
    fn entry(self) -> Entry {
        let attr = Attr { ino: self.ino, mode: self.kind << 12, ..Attr::default() };
        Entry { inode: 0, generation: 0, attr, attr_timeout: Duration::ZERO, entry_timeout: Duration::ZERO }
    }
}

thread_local! {
    /// While there is a [`Listing`] the server looks up its entries, and nothing else, on the same thread.
    static LISTED: Cell<Option<Listed>> = const { Cell::new(None) };
}

/// The entries of a directory.
pub(super) struct Listing<D> {
    inner: D,
    /// It stays on its thread.
    _thread: PhantomData<*const ()>,
}

impl<D: DirectoryIterator> DirectoryIterator for Listing<D> {
    fn next(&mut self) -> Option<DirEntry<'_>> {
        let entry = self.inner.next();
        LISTED.set(entry.as_ref().map(|entry| Listed { ino: entry.ino, kind: entry.type_ }));
        entry
    }
}

impl<D> Drop for Listing<D> {
    fn drop(&mut self) {
        LISTED.set(None);
    }
}

/// Operations that are passed on as they are.
macro_rules! passed_on {
    ($(fn $name:ident$(<$generic:ident: $bound:path>)?(&self $(, $argument:ident: $kind:ty)* $(,)?) -> $answer:ty;)*) => {
        $(fn $name$(<$generic: $bound>)?(&self $(, $argument: $kind)*) -> $answer {
            self.inner.$name($($argument),*)
        })*
    };
}

impl<F: FileSystem<Inode = u64, Handle = u64>> FileSystem for Guarded<F> {
    type Inode = u64;
    type Handle = u64;
    type DirIter = Listing<F::DirIter>;

    passed_on! {
        fn getattr(&self, ctx: Context, inode: u64, handle: Option<u64>) -> io::Result<(Attr, Duration)>;
        fn readlink(&self, ctx: Context, inode: u64) -> io::Result<Vec<u8>>;
        fn unlink(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()>;
        fn rmdir(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()>;
        fn rename(
            &self, ctx: Context, old_dir: u64, old_name: &CStr, new_dir: u64, new_name: &CStr, flags: u32,
        ) -> io::Result<()>;
        fn read<W: ZeroCopyWriter>(
            &self, ctx: Context, inode: u64, handle: u64, w: W, size: u32, offset: u64, owner: Option<u64>, flags: u32,
        ) -> io::Result<usize>;
        fn write<R: ZeroCopyReader>(
            &self, ctx: Context, inode: u64, handle: u64, r: R, size: u32, offset: u64, owner: Option<u64>,
            delayed: bool, kill_priv: bool, flags: u32,
        ) -> io::Result<usize>;
        fn flush(&self, ctx: Context, inode: u64, handle: u64, owner: u64) -> io::Result<()>;
        fn fsync(&self, ctx: Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()>;
        fn fsyncdir(&self, ctx: Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()>;
        fn fallocate(
            &self, ctx: Context, inode: u64, handle: u64, mode: u32, offset: u64, length: u64,
        ) -> io::Result<()>;
        fn statfs(&self, ctx: Context, inode: u64) -> io::Result<libc::statvfs64>;
        fn access(&self, ctx: Context, inode: u64, mask: u32) -> io::Result<()>;
        fn lseek(&self, ctx: Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64>;
        fn copyfilerange(
            &self, ctx: Context, inode_in: u64, handle_in: u64, offset_in: u64, inode_out: u64, handle_out: u64,
            offset_out: u64, len: u64, flags: u64,
        ) -> io::Result<usize>;
        fn syncfs(&self, ctx: Context, inode: u64) -> io::Result<()>;
    }

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let wanted = self.inner.init(capable)?;
        self.descriptors.reset(ROOT_ID);
        Ok(wanted)
    }

    fn destroy(&self) {
        self.inner.destroy();
        self.descriptors.reset(ROOT_ID);
    }

    fn lookup(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        if let Some(listed) = LISTED.get() {
            return Ok(self.list(ctx, parent, name, listed));
        }
        loop {
            let entry = self.inner.lookup(ctx, parent, name)?;
            match self.remember(ctx, &entry) {
                Ok(()) => return Ok(entry),
                // It is looked up again: while this waits it may become another file.
                Err(LimitMet) => drop(self.descriptors.reserve(1)?),
            }
        }
    }

    fn forget(&self, ctx: Context, inode: u64, count: u64) {
        self.inner.forget(ctx, inode, count);
        self.descriptors.forget(inode, count);
    }

    fn batch_forget(&self, ctx: Context, requests: Vec<(u64, u64)>) {
        self.inner.batch_forget(ctx, requests.clone());
        for (inode, count) in requests {
            self.descriptors.forget(inode, count);
        }
    }

    fn setattr(
        &self,
        ctx: Context,
        inode: u64,
        attr: SetattrIn,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        let about_owner = valid.intersects(SetattrValid::UID | SetattrValid::GID);
        self.inner.setattr(ctx, inode, attr, handle, valid).map_err(|error| owner_error(error, about_owner))
    }

    fn symlink(
        &self,
        ctx: Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.make(ctx, || self.inner.symlink(ctx, target, parent, name, extensions))
    }

    fn mknod(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.make(ctx, || self.inner.mknod(ctx, parent, name, mode, rdev, umask, extensions))
    }

    fn mkdir(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.make(ctx, || self.inner.mkdir(ctx, parent, name, mode, umask, extensions))
    }

    fn link(&self, ctx: Context, inode: u64, new_parent: u64, new_name: &CStr) -> io::Result<Entry> {
        self.name(|| self.inner.link(ctx, inode, new_parent, new_name))
    }

    fn create(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        // Before anything is made: the file would be there, and the guest know of none.
        let mut reserved = self.descriptors.reserve(2)?;
        let created = self.inner.create(ctx, parent, name, mode, kill_priv, flags, umask, extensions);
        let (entry, handle, options) = created.map_err(|error| owner_error(error, is_somebody(ctx)))?;
        reserved.remembered(entry.inode);
        if handle.is_some() {
            reserved.opened();
        }
        Ok((entry, handle, options))
    }

    fn open(&self, ctx: Context, inode: u64, kill_priv: bool, flags: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        self.opened(|| self.inner.open(ctx, inode, kill_priv, flags))
    }

    fn opendir(&self, ctx: Context, inode: u64, flags: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        self.opened(|| self.inner.opendir(ctx, inode, flags))
    }

    fn release(
        &self,
        ctx: Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock_release: bool,
        owner: Option<u64>,
    ) -> io::Result<()> {
        self.inner.release(ctx, inode, flags, handle, flush, flock_release, owner)?;
        self.descriptors.closed();
        Ok(())
    }

    fn releasedir(&self, ctx: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        self.inner.releasedir(ctx, inode, flags, handle)?;
        self.descriptors.closed();
        Ok(())
    }

    fn readdir(&self, ctx: Context, inode: u64, handle: u64, size: u32, offset: u64) -> io::Result<Self::DirIter> {
        let inner = self.inner.readdir(ctx, inode, handle, size, offset)?;
        Ok(Listing { inner, _thread: PhantomData })
    }

    fn setxattr(
        &self,
        ctx: Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
        extra: SetxattrFlags,
    ) -> io::Result<()> {
        self.inner.setxattr(ctx, inode, &stored(name)?, value, flags, extra)
    }

    fn getxattr(&self, ctx: Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        match self.inner.getxattr(ctx, inode, &stored(name)?, size) {
            Err(_) if name == CAPABILITY => self.own_capability(ctx, inode, size),
            reply => reply,
        }
    }

    fn listxattr(&self, ctx: Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        let names = match self.inner.listxattr(ctx, inode, XATTR_LIST_MAX)? {
            ListxattrReply::Names(names) => names,
            ListxattrReply::Count(_) => Vec::new(),
        };
        let shown = xattr_names::shown(&names, || self.own_capability(ctx, inode, 0).is_ok());
        match (size, u32::try_from(shown.len())) {
            (0, Ok(len)) => Ok(ListxattrReply::Count(len)),
            (size, Ok(len)) if len <= size => Ok(ListxattrReply::Names(shown)),
            _ => Err(io::Error::from_raw_os_error(libc::ERANGE)),
        }
    }

    fn removexattr(&self, ctx: Context, inode: u64, name: &CStr) -> io::Result<()> {
        let removed = self.inner.removexattr(ctx, inode, &stored(name)?);
        // Or the host's own would come forth.
        if name == CAPABILITY && self.own_capability(ctx, inode, 0).is_ok() {
            return self.inner.removexattr(ctx, inode, CAPABILITY);
        }
        removed
    }
}

/// Nothing of it is moved to another machine.
impl<F> SerializableFileSystem for Guarded<F> {}
