//! The process that shares a root directory with a guest: the virtiofsd library behind a hidden
//! subcommand of this program, so that it works the same as root and as an ordinary user and nothing
//! beside QEMU has to be installed.
//!
//! ```text
//!   listening socket on fd 0, policy as an argument ─▶ limits ─▶ jail, in which the directory is ─▶ no_new_privs ─▶
//!   capabilities dropped ─▶ Landlock ─▶ seccomp ─▶ one connection (QEMU) served ─▶ it ends: exit 0
//! ```
//!
//! What the guest sees of the directory is [`Guarded`]; each file that its kernel remembers is an open file here, so it
//! is asked to forget when the limit of open files comes near ([`Descriptors`]).
//!
//! The guest's owners are those on disk, for which the jail sees where root runs it ([`confine::JailPlan`]). An ordinary
//! user's process has the owners that its user namespace has: that user as root and, with subordinate ids
//! (subuid(5)), others; giving a file to one that is not there fails. Device nodes can neither be made nor opened.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandpen_types::error_chain::error_chain;
use vhost::vhost_user::Listener;
use virtiofsd::filesystem::FileSystem;
use virtiofsd::passthrough::read_only::PassthroughFsRo;
use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode, PassthroughFs};
use virtiofsd::seccomp::{SeccompAction, enable_seccomp};

use self::caches::GuestCaches;
use self::descriptors::Descriptors;
use self::guarded::Guarded;
use super::confine::{self, ConfineError, JailNetwork, JailPlan, POLICY, Policy, SharedTree, SystemCalls};
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

/// Its option for the directory, for people and tools that look at the process.
pub(super) const SHARED_DIR: &str = "--shared-dir";

/// The role of this process under the waiter, for the share of that number.
pub(super) fn role(share: usize) -> String {
    if share == 0 { "virtiofsd".to_owned() } else { format!("virtiofsd-{share}") }
}

/// Most open files here: each holds some 1.5 KiB of the memory of the host's kernel.
const SHARED_FILES_MAX: u64 = 100_000;

/// Most open files of a process that shares files and does not limit them itself, as the virtiofsd program asks for.
#[cfg(feature = "krun-driver")]
pub(super) const OPEN_FILES_MAX: u64 = 1_000_000;

/// Why a directory cannot be shared.
#[derive(Debug, thiserror::Error)]
enum ShareError {
    #[error("usage: {SUBCOMMAND} {SHARED_DIR} DIR [{POLICY} JSON], with a listening unix socket as standard input")]
    Usage,
    #[error("the path {0:?} is not UTF-8, which virtiofsd needs")]
    NotUtf8(PathBuf),
    #[error("the socket on standard input")]
    Socket(#[source] std::io::Error),
    #[error("confining the process")]
    Confine(#[from] ConfineError),
    #[error("at most {0} open files are allowed, {OPEN_FILES_MIN} are needed (ulimit -Hn)")]
    TooFewOpenFiles(u64),
    #[error("restricting system calls: {0}")]
    Seccomp(virtiofsd::seccomp::Error),
    #[error("opening the list of open files")]
    Descriptors(#[source] std::io::Error),
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

/// The policy of the process that serves a microVM's shared directory of this number, without its jail.
pub(super) fn policy(share: usize, tree: SharedTree) -> Policy {
    let mut policy = Policy::new(&role(share));
    policy.shares.push(tree);
    // Comes in the place of the socket on standard input.
    policy.modify.extend(["/dev/null", FILES_FIFO].map(PathBuf::from));
    policy.capabilities = FILE_CAPABILITIES.iter().map(ToString::to_string).collect();
    policy.system_calls = SystemCalls::FileServer;
    policy.open_files = SHARED_FILES_MAX;
    policy
}

/// What the process may do that serves this directory, for tests.
#[cfg(feature = "testing")]
pub fn policy_of_share(directory: &Path) -> Policy {
    policy(0, SharedTree { directory: directory.to_owned(), is_file: false, read_only: false, identity: None })
}

fn policy_of(mut arguments: impl Iterator<Item = OsString>) -> Result<Policy, ShareError> {
    let (mut directory, mut policy) = (None, None);
    while let Some(option) = arguments.next() {
        if option == SHARED_DIR {
            directory = arguments.next();
        } else if option == POLICY {
            let json = arguments.next().and_then(|json| serde_json::from_str(json.to_str()?).ok());
            policy = Some(json.ok_or(ShareError::Usage)?);
        } else {
            return Err(ShareError::Usage);
        }
    }
    let directory = PathBuf::from(directory.ok_or(ShareError::Usage)?);
    // Without a policy it is tried by itself: everything that this user may have.
    Ok(policy.unwrap_or_else(|| {
        let jail = Ok(JailPlan { uid: None, network: JailNetwork::Own, empty_root: None });
        Policy { jail, ..self::policy(0, SharedTree { directory, is_file: false, read_only: false, identity: None }) }
    }))
}

fn share(arguments: impl Iterator<Item = OsString>) -> Result<(), ShareError> {
    let policy = policy_of(arguments)?;
    let [SharedTree { read_only, .. }] = policy.shares[..] else { return Err(ShareError::Usage) };
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
    let directory = policy.share_paths().next().ok_or(ShareError::Usage)?;
    let root_dir = directory.into_os_string().into_string().map_err(|dir| ShareError::NotUtf8(dir.into()))?;
    let listener = take_listener()?;
    // It gets at an open file's name and attributes through this.
    let descriptors = File::open("/proc/self/fd").map_err(ShareError::Descriptors)?;
    let config = Config {
        entry_timeout: CACHE_TIME,
        attr_timeout: CACHE_TIME,
        cache_policy: CachePolicy::Auto,
        root_dir,
        proc_sfd_rawfd: Some(descriptors),
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
    confine::enforce(&policy, begun)?;
    enable_seccomp(SeccompAction::Kill, false).map_err(ShareError::Seccomp)?;
    if read_only {
        serve(PassthroughFsRo::new(config).map_err(ShareError::SharedDirectory)?, guest_files, caches, listener)
    } else {
        serve(PassthroughFs::new(config).map_err(ShareError::SharedDirectory)?, guest_files, caches, listener)
    }
}

/// The waiter made the socket before anything was started, so that QEMU can connect at once.
fn take_listener() -> Result<Listener, ShareError> {
    let socket: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().map_err(ShareError::Socket)?;
    // A second listener left open would let a second connection wait for ever.
    standard_input::put_null().map_err(ShareError::Socket)?;
    Ok(Listener::from(UnixListener::from(socket)))
}

/// Serves `file_system` with what is ours around it; `limit` is of descriptors.
fn serve<F>(file_system: F, limit: u64, caches: GuestCaches, listener: Listener) -> Result<(), ShareError>
where
    F: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static,
{
    let descriptors = Descriptors::new(usize::try_from(limit).unwrap_or(usize::MAX), caches);
    server::serve(Guarded::new(file_system, descriptors), listener).map_err(ShareError::Server)
}
