//! Content and attributes of files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, StatVfsMountFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use super::Fault;
use crate::DATA_MAX;
use crate::answer::{FileKind, Space, Stat, Time};
use crate::error::FileErrorKind;
use crate::request::{Change, OpenFlags};

/// Permission bits, whatever else somebody says.
pub(super) fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & 0o7777)
}

/// Opens what has bytes at offsets.
pub(super) fn open(path: &[u8], flags: OpenFlags, bits: u32) -> Result<OwnedFd, Fault> {
    let OpenFlags { read, write, append, create, truncate, exclusive, no_follow } = flags;
    let access = match (read, write || append) {
        (_, false) => OFlags::RDONLY,
        (false, true) => OFlags::WRONLY,
        (true, true) => OFlags::RDWR,
    };
    // A pipe to which nobody writes, or a device, would keep whoever opens it waiting.
    let mut open = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    for (is_set, flag) in [
        (append, OFlags::APPEND),
        (create, OFlags::CREATE),
        (truncate, OFlags::TRUNC),
        (exclusive, OFlags::EXCL),
        (no_follow, OFlags::NOFOLLOW),
    ] {
        open.set(flag, is_set);
    }
    let file = rustix::fs::open(path, open, mode(bits)).map_err(|errno| match errno {
        // A pipe that nobody reads, and a socket.
        Errno::NXIO => Fault(FileErrorKind::NotFile),
        errno => errno.into(),
    })?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::Directory => Err(Fault(FileErrorKind::IsDirectory)),
        FileType::RegularFile | FileType::CharacterDevice | FileType::BlockDevice => Ok(file),
        _ => Err(Fault(FileErrorKind::NotFile)),
    }
}

/// As many bytes as are wanted, or up to the end.
pub(super) fn read_at(file: BorrowedFd<'_>, offset: u64, length: u32) -> Result<Vec<u8>, Fault> {
    check_offset(offset, u64::from(length))?;
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(DATA_MAX);
    let (mut data, mut filled) = (vec![0; length], 0);
    while filled < length {
        match rustix::io::pread(file, &mut data[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            // What there is comes first; the next request hears of it.
            Err(_) if filled > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    data.truncate(filled);
    Ok(data)
}

/// All of it.
pub(super) fn write_at(file: BorrowedFd<'_>, offset: u64, data: &[u8]) -> Result<(), Fault> {
    check_offset(offset, data.len() as u64)?;
    if data.len() > DATA_MAX {
        return Err(Fault(FileErrorKind::TooLarge));
    }
    let mut written = 0;
    while written < data.len() {
        match rustix::io::pwrite(file, &data[written..], offset + written as u64) {
            Ok(0) => return Err(Errno::IO.into()),
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The system has offsets of 63 bits.
fn check_offset(offset: u64, length: u64) -> Result<(), Fault> {
    let end = offset.checked_add(length).and_then(|end| i64::try_from(end).ok());
    end.map(drop).ok_or(Fault(FileErrorKind::TooLarge))
}

pub(super) fn stat(path: &[u8], follow: bool) -> Result<Stat, Fault> {
    Ok(of(&rustix::fs::statat(CWD, path, links(follow))?))
}

pub(super) fn stat_open(file: BorrowedFd<'_>) -> Result<Stat, Fault> {
    Ok(of(&rustix::fs::fstat(file)?))
}

pub(super) fn links(follow: bool) -> AtFlags {
    if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW }
}

#[expect(clippy::allow_attributes, reason = "the types of these fields depend on the architecture")]
#[allow(
    clippy::unnecessary_cast,
    clippy::useless_conversion,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "the types of these fields depend on the architecture; sizes and nanoseconds are never negative"
)]
pub(super) fn of(stat: &rustix::fs::Stat) -> Stat {
    let time = |seconds, nanos| Time { seconds, nanos };
    Stat {
        kind: match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::CharacterDevice => FileKind::CharDevice,
            FileType::BlockDevice => FileKind::BlockDevice,
            FileType::Unknown => FileKind::Unknown,
        },
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size as u64,
        links: u64::from(stat.st_nlink),
        inode: stat.st_ino as u64,
        device: stat.st_dev as u64,
        allocated: (stat.st_blocks as u64).saturating_mul(512),
        accessed: time(stat.st_atime as i64, stat.st_atime_nsec as u32),
        modified: time(stat.st_mtime as i64, stat.st_mtime_nsec as u32),
        changed: time(stat.st_ctime as i64, stat.st_ctime_nsec as u32),
    }
}

/// One after the other: who may not do one of them has done those before.
pub(super) fn change(path: &[u8], follow: bool, change: Change) -> Result<(), Fault> {
    if let Some(size) = change.size {
        let flags = OpenFlags { write: true, no_follow: !follow, ..OpenFlags::default() };
        resize(open(path, flags, 0)?.as_fd(), size)?;
    }
    if let Some((uid, gid)) = owner(change)? {
        rustix::fs::chownat(CWD, path, uid, gid, links(follow))?;
    }
    if let Some(bits) = change.mode {
        change_mode(path, follow, bits)?;
    }
    if let Some(times) = times(change)? {
        rustix::fs::utimensat(CWD, path, &times, links(follow))?;
    }
    Ok(())
}

/// The system has no permission bits of symbolic links.
fn change_mode(path: &[u8], follow: bool, bits: u32) -> Result<(), Fault> {
    if !follow && FileType::from_raw_mode(rustix::fs::lstat(path)?.st_mode) == FileType::Symlink {
        return Err(Fault(FileErrorKind::Unsupported));
    }
    Ok(rustix::fs::chmod(path, mode(bits))?)
}

pub(super) fn change_open(file: BorrowedFd<'_>, change: Change) -> Result<(), Fault> {
    if let Some(size) = change.size {
        resize(file, size)?;
    }
    if let Some((uid, gid)) = owner(change)? {
        rustix::fs::fchown(file, uid, gid)?;
    }
    if let Some(bits) = change.mode {
        rustix::fs::fchmod(file, mode(bits))?;
    }
    if let Some(times) = times(change)? {
        rustix::fs::futimens(file, &times)?;
    }
    Ok(())
}

fn resize(file: BorrowedFd<'_>, size: u64) -> Result<(), Fault> {
    check_offset(size, 0)?;
    Ok(rustix::fs::ftruncate(file, size)?)
}

/// Whom something shall belong to; `None`: as before.
type Owner = (Option<Uid>, Option<Gid>);

/// The largest number is nobody's: it means "no change" to the kernel.
fn owner(change: Change) -> Result<Option<Owner>, Fault> {
    let number = |number: Option<u32>| match number {
        Some(u32::MAX) => Err(Fault::from(Errno::INVAL)),
        number => Ok(number),
    };
    let (uid, gid) = (number(change.uid)?, number(change.gid)?);
    Ok((uid.is_some() || gid.is_some()).then(|| (uid.map(Uid::from_raw), gid.map(Gid::from_raw))))
}

fn times(change: Change) -> Result<Option<Timestamps>, Fault> {
    let time = |time: Option<Time>| match time {
        Some(Time { nanos: 1_000_000_000.., .. }) => Err(Fault::from(Errno::INVAL)),
        Some(Time { seconds, nanos }) => Ok(Timespec { tv_sec: seconds, tv_nsec: nanos.into() }),
        None => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }),
    };
    let is_asked = change.accessed.is_some() || change.modified.is_some();
    let times = Timestamps { last_access: time(change.accessed)?, last_modification: time(change.modified)? };
    Ok(is_asked.then_some(times))
}

pub(super) fn space(path: &[u8]) -> Result<Space, Fault> {
    let found = rustix::fs::statvfs(path)?;
    Ok(Space {
        block: found.f_frsize,
        blocks: found.f_blocks,
        free: found.f_bfree,
        available: found.f_bavail,
        files: found.f_files,
        files_free: found.f_ffree,
        files_available: found.f_favail,
        id: found.f_fsid,
        name_max: found.f_namemax,
        read_only: found.f_flag.contains(StatVfsMountFlags::RDONLY),
        no_setuid: found.f_flag.contains(StatVfsMountFlags::NOSUID),
    })
}
