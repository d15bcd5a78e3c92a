//! The process that shares a root directory with a guest: the virtiofsd library behind a hidden
//! subcommand of this program, so that it works the same as root and as an ordinary user and nothing
//! beside QEMU has to be installed.
//!
//! ```text
//!   listening socket on fd 0 ─▶ limits, no_new_privs ─▶ namespaces, root := the shared directory ─▶
//!   seccomp ─▶ capabilities dropped ─▶ one connection (QEMU) served ─▶ it ends: exit 0
//! ```
//!
//! As an ordinary user it enters a user namespace in which the guest's root is that user; other
//! owners do not exist there, and giving a file to one fails.
//!
//! As root the guest's owners are the host's, and device nodes can neither be made nor opened.
//!
//! What the guest sees of the directory is [`Guarded`]; each file that its kernel remembers is an open file here,
//! so it is asked to forget when the limit of open files comes near ([`Descriptors`]).

use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capng::{Action, Set, Type};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use sandpen_types::error_chain::error_chain;
use vhost::vhost_user::Listener;
use virtiofsd::filesystem::FileSystem;
use virtiofsd::idmap::{GidMap, UidMap};
use virtiofsd::passthrough::read_only::PassthroughFsRo;
use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode, PassthroughFs};
use virtiofsd::sandbox::{Sandbox, SandboxMode};
use virtiofsd::seccomp::{SeccompAction, enable_seccomp};

use self::caches::GuestCaches;
use self::descriptors::Descriptors;
use self::guarded::Guarded;
use super::confine::cgroup::CgroupPlan;
use super::confine::{self, ConfineError, Policy};
use super::standard_input;

mod caches;
mod descriptors;
mod guarded;
mod server;
#[cfg(test)]
mod tests;
mod xattr_names;

/// The hidden subcommand's name.
pub const SUBCOMMAND: &str = "__virtiofsd";

/// Its option for a directory that the guest may only read.
pub const READ_ONLY: &str = "--read-only";

/// Open files that the server itself needs beside the guest's: memory slots and the like, as the
/// virtiofsd program reserves them (its `INTERNAL_FD_RESERVE`, 609, and one for its thread).
const FILES_BESIDE: u64 = 610;

/// Least hard limit of open files with which a directory can be shared: a few dozen for the guest.
pub const OPEN_FILES_MIN: u64 = FILES_BESIDE + 64;

/// Descriptors of files that are looked up at the limit, by the two threads.
const LOOKED_UP: u64 = 4;

/// The FIFO of the port on which the guest is asked to forget files.
const FILES_FIFO: &str = "files.in";

/// How long the guest may believe what it saw; the host may change files too.
const CACHE_TIME: Duration = Duration::from_secs(1);

/// What passing a root's file operations on needs; not MKNOD, so that no device node of the guest's
/// making is on the host.
pub(super) const FILE_CAPABILITIES: [&str; 7] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID", "SETFCAP"];

/// Its option for the cgroup that it joins, as JSON of [`Policy::cgroup`].
pub(super) const CGROUP: &str = "--cgroup";

/// Its option for which of a microVM's shared directories this is, from 0, the root's.
pub(super) const SHARE_NUMBER: &str = "--share";

/// The role of this process under the waiter, for the share of that number.
pub(super) fn role(share: usize) -> String {
    if share == 0 { "virtiofsd".to_owned() } else { format!("virtiofsd-{share}") }
}

/// Why it has no Landlock ruleset: its mount namespace says the same.
const WITHOUT_LANDLOCK: &str = "its mount namespace holds the shared directory alone, its network namespace nothing";

/// Most open files here: each holds some 1.5 KiB of the memory of the host's kernel.
const SHARED_FILES_MAX: u64 = 100_000;

/// Most open files of a process that shares files and does not limit them itself, as the virtiofsd program asks for.
pub(super) const OPEN_FILES_MAX: u64 = 1_000_000;

/// Why a directory cannot be shared.
#[derive(Debug, thiserror::Error)]
enum ShareError {
    #[error(
        "usage: {SUBCOMMAND} --shared-dir DIR [{SHARE_NUMBER} N] [{CGROUP} JSON] [{READ_ONLY}], with a listening unix socket as standard input"
    )]
    Usage,
    #[error("the path {0:?} is not UTF-8, which virtiofsd needs")]
    NotUtf8(PathBuf),
    #[error("the socket on standard input")]
    Socket(#[source] std::io::Error),
    #[error("confining the process")]
    Confine(#[from] ConfineError),
    #[error("at most {0} open files are allowed, {OPEN_FILES_MIN} are needed (ulimit -Hn)")]
    TooFewOpenFiles(u64),
    #[error("mounting the shared directory without device nodes and setuid programs")]
    Mount(#[source] nix::errno::Errno),
    #[error(
        "entering the namespaces of the shared directory: {0}; as an ordinary user this needs user namespaces (sandpen doctor)"
    )]
    Namespaces(virtiofsd::sandbox::Error),
    #[error("restricting system calls: {0}")]
    Seccomp(virtiofsd::seccomp::Error),
    #[error("dropping capabilities: {0}")]
    Capabilities(capng::Error),
    #[error("opening the shared directory")]
    SharedDirectory(#[source] std::io::Error),
    #[error("the vhost-user server: {0}")]
    Server(String),
}

/// Runs the subcommand to its end and answers its exit code: `arguments` are those after its name.
/// Must be called while the process has one thread.
pub fn run(arguments: impl Iterator<Item = OsString>) -> i32 {
    // The library's own warnings go where ours do, to the sandbox's VMM log.
    let log = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time();
    let _ = log.with_max_level(tracing::Level::WARN).try_init();
    match share(arguments) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("virtiofsd: {}", error_chain(&error));
            1
        }
    }
}

/// What the process is told.
struct Options {
    dir: String,
    read_only: bool,
    role: String,
    cgroup: Result<CgroupPlan, String>,
}

fn options(mut arguments: impl Iterator<Item = OsString>) -> Result<Options, ShareError> {
    let (mut dir, mut read_only, mut share) = (None, false, 0);
    let mut cgroup = Err("none was named".to_owned());
    while let Some(option) = arguments.next() {
        if option == "--shared-dir" {
            dir = arguments.next();
        } else if option == SHARE_NUMBER {
            let number = arguments.next().and_then(|number| number.to_str()?.parse().ok());
            share = number.ok_or(ShareError::Usage)?;
        } else if option == CGROUP {
            let plan = arguments.next().and_then(|plan| serde_json::from_str(plan.to_str()?).ok());
            cgroup = plan.ok_or(ShareError::Usage)?;
        } else if option == READ_ONLY {
            read_only = true;
        } else {
            return Err(ShareError::Usage);
        }
    }
    let dir = dir.ok_or(ShareError::Usage)?.into_string().map_err(|dir| ShareError::NotUtf8(dir.into()))?;
    Ok(Options { dir, read_only, role: role(share), cgroup })
}

fn share(arguments: impl Iterator<Item = OsString>) -> Result<(), ShareError> {
    let Options { dir, read_only, role, cgroup } = options(arguments)?;
    if !Path::new(&dir).is_dir() {
        return Err(ShareError::SharedDirectory(std::io::ErrorKind::NotADirectory.into()));
    }
    let mut policy = Policy::new(&role);
    policy.open_files = SHARED_FILES_MAX;
    policy.cgroup = cgroup;
    let begun = confine::begin(&policy)?;
    let limit = begun.open_files();
    if limit < OPEN_FILES_MIN {
        return Err(ShareError::TooFewOpenFiles(limit));
    }
    let guest_files = limit - FILES_BESIDE - LOOKED_UP;
    let caches = GuestCaches::open(Path::new(FILES_FIFO)).unwrap_or_else(|error| {
        tracing::warn!(%error, "the guest cannot be asked to forget files");
        GuestCaches::unreachable()
    });
    let as_root = Uid::effective().is_root();
    let (uid_map, gid_map) = if as_root { (vec![], vec![]) } else { (vec![uid_map()], vec![gid_map()]) };
    if as_root {
        mount_without_devices(&dir, read_only).map_err(ShareError::Mount)?;
    }
    let kept = if as_root { FILE_CAPABILITIES.map(str::to_owned).to_vec() } else { Vec::new() };
    confine::announce(&policy, begun, kept, WITHOUT_LANDLOCK)?;
    let mut sandbox = Sandbox::new(dir, SandboxMode::Namespace, uid_map, gid_map);
    // From here on only the shared directory is there.
    let listener = sandbox.enter(take_listener()?).map_err(ShareError::Namespaces)?;
    let config = Config {
        entry_timeout: CACHE_TIME,
        attr_timeout: CACHE_TIME,
        cache_policy: CachePolicy::Auto,
        root_dir: sandbox.get_root_dir(),
        proc_sfd_rawfd: sandbox.get_proc_self_fd(),
        proc_mountinfo_rawfd: sandbox.get_mountinfo_fd(),
        announce_submounts: true,
        // Opening by handle would reach the whole file system, and what was replaced there would be stale here.
        inode_file_handles: InodeFileHandlesMode::Never,
        readdirplus: true,
        xattr: true,
        killpriv_v2: true,
        // A file that is one too many is looked up before it is refused.
        guest_fd_limit: guest_files + LOOKED_UP,
        ..Config::default()
    };
    enable_seccomp(SeccompAction::Kill, false).map_err(ShareError::Seccomp)?;
    if as_root {
        drop_capabilities().map_err(ShareError::Capabilities)?;
    }
    if read_only {
        serve(PassthroughFsRo::new(config).map_err(ShareError::SharedDirectory)?, guest_files, caches, listener)
    } else {
        serve(PassthroughFs::new(config).map_err(ShareError::SharedDirectory)?, guest_files, caches, listener)
    }
}

/// Mounts the directory over itself, for this process only. What is mounted below it keeps its own
/// flags.
fn mount_without_devices(dir: &str, read_only: bool) -> Result<(), nix::errno::Errno> {
    const NOTHING: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_SLAVE | MsFlags::MS_REC, NOTHING)?;
    mount(Some(dir), dir, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | kept_flags(dir)?;
    if read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    mount(NOTHING, dir, NOTHING, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, NOTHING)
}

/// Flags of the mount that `dir` is on, which a remount would clear.
fn kept_flags(dir: &str) -> Result<MsFlags, nix::errno::Errno> {
    use nix::sys::statvfs::{FsFlags, statvfs};
    let found = statvfs(dir)?.flags();
    let pairs = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    Ok(pairs.iter().filter(|(flag, _)| found.contains(*flag)).map(|(_, flag)| *flag).collect())
}

/// The guest's root is this user.
fn uid_map() -> UidMap {
    UidMap { inside_uid: 0, outside_uid: Uid::effective().as_raw(), count: 1 }
}

fn gid_map() -> GidMap {
    GidMap { inside_gid: 0, outside_gid: Gid::effective().as_raw(), count: 1 }
}

/// The waiter made the socket before anything was started, so that QEMU can connect at once.
fn take_listener() -> Result<Listener, ShareError> {
    let socket: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().map_err(ShareError::Socket)?;
    // A second listener left open would let a second connection wait for ever.
    standard_input::put_null().map_err(ShareError::Socket)?;
    Ok(Listener::from(UnixListener::from(socket)))
}

fn drop_capabilities() -> Result<(), capng::Error> {
    capng::clear(Set::BOTH);
    capng::updatev(Action::ADD, Type::PERMITTED | Type::EFFECTIVE, FILE_CAPABILITIES.to_vec())?;
    capng::apply(Set::BOTH)
}

/// Serves `file_system` with what is ours around it; `limit` is of descriptors.
fn serve<F>(file_system: F, limit: u64, caches: GuestCaches, listener: Listener) -> Result<(), ShareError>
where
    F: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static,
{
    let descriptors = Descriptors::new(usize::try_from(limit).unwrap_or(usize::MAX), caches);
    server::serve(Guarded::new(file_system, descriptors), listener).map_err(ShareError::Server)
}
