//! Makes the workload's `/`: mounts the root directory, moves into it, and mounts there what a
//! program on Linux expects to find.
//!
//! Mount points are used as they are and made only where they are missing. Everything after the
//! move is looked up inside the new root, so that a symbolic link in it leads nowhere else.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{chdir, chroot};
use sandpen_guest::protocol::{RootfsSource, Settings};

use crate::log::log;
use crate::overlay::{self, Layer};
use crate::{blocks, fresh, machine, modules};

/// Where the root is mounted before the move; in the initramfs.
const STAGING: &str = "/newroot";

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// A mount was refused.
    #[error("mounting {what} on {target}")]
    Mount {
        /// What was mounted.
        what: String,
        /// Where.
        target: &'static str,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// A step of the move failed.
    #[error("moving into the root directory ({step})")]
    Move {
        /// Which.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The layers could not be mounted.
    #[error("making the root directory of layers")]
    Overlay(#[from] overlay::OverlayError),
    /// A disk is not there.
    #[error(transparent)]
    Disk(#[from] blocks::BlocksError),
    /// A device node could not be made.
    #[error("making {path}")]
    Node {
        /// Its path.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Makes `source` the root of this process and of all it starts. Answers the directory of what is written to it, where that
/// is a disk of its own.
pub fn enter(source: &RootfsSource, settings: &Settings) -> Result<Option<OwnedFd>, RootfsError> {
    // Modes below are meant as they are written; the workload gets 022.
    let inherited = umask(Mode::empty());
    let entered = enter_with_open_mask(source, settings);
    umask(inherited);
    entered
}

fn enter_with_open_mask(source: &RootfsSource, settings: &Settings) -> Result<Option<OwnedFd>, RootfsError> {
    let mut upper = None;
    match source {
        // The host takes no write, and mount points may be missing: they are made in memory.
        RootfsSource::Virtiofs { tag } if settings.read_only => {
            move_into(&overlay::mount_in_memory(Path::new(STAGING), &Layer::Shared(tag))?.path)?;
        }
        RootfsSource::Virtiofs { tag } => {
            mount_virtiofs(tag)?;
            move_into(Path::new(STAGING))?;
        }
        RootfsSource::Overlay { lowers, disk } => {
            let layers: Vec<_> = lowers.iter().map(|tag| Layer::Shared(tag)).collect();
            let root = overlay::mount_below(Path::new(STAGING), &layers, disk)?;
            move_into(&root.path)?;
            upper = Some(root.upper);
        }
        RootfsSource::Images { layers, disk } => {
            let devices = layers.iter().map(|serial| blocks::find(serial)).collect::<Result<Vec<_>, _>>()?;
            let layers = devices.iter().map(|device| Ok(Layer::Disk(device, blocks::file_system(device)?)));
            let layers = layers.collect::<Result<Vec<_>, blocks::BlocksError>>()?;
            let root = overlay::mount_below(Path::new(STAGING), &layers, &blocks::find(disk)?)?;
            move_into(&root.path)?;
            mount_system_directories(settings)?;
            if root.is_new {
                machine::renew_id();
            }
            return Ok(Some(root.upper));
        }
        RootfsSource::Current if settings.read_only => {
            // Nothing can be made in it, a place for mount points neither.
            // Any directory will do: it is covered until the root is another one.
            let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            let place = fs::read_dir("/").into_iter().flatten().flatten().find(is_dir);
            let Some(place) = place else {
                mount_system_directories(settings)?;
                return Ok(None);
            };
            move_into(&overlay::mount_in_memory(&place.path(), &Layer::Mounted("/"))?.path)?;
        }
        RootfsSource::Current => {}
    }
    mount_system_directories(settings)?;
    Ok(upper)
}

/// Has the root itself take no more writes; what is mounted below it is as it was.
pub fn make_read_only() -> Result<(), RootfsError> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).map_err(|source| RootfsError::Mount {
        what: "the root directory, read-only,".to_owned(),
        target: "/",
        source,
    })
}

fn mount_virtiofs(tag: &str) -> Result<(), RootfsError> {
    match fs::create_dir(STAGING) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(RootfsError::Move { step: "making its mount point", source: error });
        }
        _ => {}
    }
    mount(Some(tag), STAGING, Some("virtiofs"), MsFlags::empty(), None::<&str>).map_err(|source| RootfsError::Mount {
        what: format!("the shared root directory (virtiofs tag {tag:?})"),
        target: "/",
        source,
    })
}

/// `pivot_root` does not work on an initramfs: the root is mounted over it, as `switch_root` does.
fn move_into(root: &Path) -> Result<(), RootfsError> {
    let failed = |step| move |errno: Errno| RootfsError::Move { step, source: errno.into() };
    chdir(root).map_err(failed("entering it"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(failed("moving the mount"))?;
    chroot(".").map_err(failed("changing the root"))?;
    chdir("/").map_err(failed("entering the new root"))
}

const PLAIN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

fn mount_system_directories(settings: &Settings) -> Result<(), RootfsError> {
    mount_on("proc", "/proc", PLAIN, "")?;
    mount_on("sysfs", "/sys", PLAIN, "")?;
    if mount_on("tmpfs", "/dev", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "mode=755,size=1m")? {
        fill_dev(settings)?;
    }
    // A root that has a /tmp keeps what is in it.
    if fs::metadata("/tmp").is_err() {
        mount_on("tmpfs", "/tmp", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777")?;
    }
    modules::show();
    fresh::make();
    Ok(())
}

/// Mounts a kernel file system. A mount point that is missing and cannot be made is left out, with
/// a message on the console: a lone static program on a read-only root runs without any of them.
fn mount_on(kind: &str, target: &'static str, flags: MsFlags, options: &str) -> Result<bool, RootfsError> {
    if !fs::metadata(target).is_ok_and(|meta| meta.is_dir())
        && let Err(error) = fs::create_dir(target)
    {
        log!("the root directory has no {target} and it cannot be made ({error}): going on without {kind}");
        return Ok(false);
    }
    match mount(Some(kind), target, Some(kind), flags, Some(options)) {
        // Busy: the very same thing is mounted there already.
        Ok(()) | Err(Errno::EBUSY) => Ok(true),
        Err(source) => Err(RootfsError::Mount { what: kind.to_owned(), target, source }),
    }
}

/// Major and minor numbers of admin-guide/devices.txt of the kernel.
const MISC: u64 = 10;
const LOOP: u64 = 7;
const LOOP_CONTROL: u32 = 237;
/// As many as the kernel makes by itself (`CONFIG_BLK_DEV_LOOP_MIN_COUNT`).
const LOOP_DEVICES: u64 = 8;
/// Devices that a kernel may have, with the modes that distributions give them.
const MISC_DEVICES: [(&str, u32, u32); 3] =
    [("net/tun", 200, 0o666), ("fuse", 229, 0o666), ("loop-control", LOOP_CONTROL, 0o660)];

fn make_node(path: &str, kind: SFlag, mode: u32, device: u64) -> io::Result<()> {
    Ok(mknod(path, kind, Mode::from_bits_truncate(mode), device)?)
}

/// What programs may use and nothing else: no port, no disk of the machine's. Numbers: admin-guide/devices.txt
/// of the kernel.
fn fill_dev(settings: &Settings) -> Result<(), RootfsError> {
    let node_error = |path: &str| {
        let path = path.to_owned();
        move |source: io::Error| RootfsError::Node { path, source }
    };
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let path = format!("/dev/{name}");
        make_node(&path, SFlag::S_IFCHR, 0o666, makedev(major, minor)).map_err(node_error(&path))?;
    }
    for (path, target) in [
        ("/dev/ptmx", "pts/ptmx"),
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, path).map_err(node_error(path))?;
    }
    for (name, minor, mode) in MISC_DEVICES {
        if modules::has_misc_device(minor) {
            let path = format!("/dev/{name}");
            if let Some(directory) = Path::new(&path).parent() {
                let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
                made.map_err(node_error(&path))?;
            }
            make_node(&path, SFlag::S_IFCHR, mode, makedev(MISC, minor.into())).map_err(node_error(&path))?;
        }
    }
    if modules::has_misc_device(LOOP_CONTROL) {
        for number in 0..LOOP_DEVICES {
            let path = format!("/dev/loop{number}");
            make_node(&path, SFlag::S_IFBLK, 0o660, makedev(LOOP, number)).map_err(node_error(&path))?;
        }
    }
    let terminals = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_on("devpts", "/dev/pts", terminals, "newinstance,ptmxmode=0666,mode=0620,gid=5")?;
    let shm = settings.shm_bytes.map_or_else(String::new, |bytes| format!(",size={bytes}"));
    mount_on("tmpfs", "/dev/shm", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, &format!("mode=1777{shm}"))?;
    Ok(())
}
