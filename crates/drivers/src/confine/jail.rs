//! The jail: a process beside a microVM sees a file system of its own, in which is what its policy names and nothing
//! else of the host.
//!
//! ```text
//!   what the policy names gathered from the host: programs and data read-only, shares without device nodes and
//!     set-user-ID programs, files that are handed over as links to descriptors ─▶ a copy of the daemon's mount
//!     namespace with an empty root: the host's is left for ever ─▶ a root in memory, all that mounted into it ─▶
//!     [as root: user namespace, a uid of its own]
//! ```
//!
//! The namespaces of process ids, of the network, of IPC and of names are the waiter's, and all processes of a sandbox
//! are in the same ones ([`Namespaces`](sandpen_vmm::waiter::Namespaces)).
//!
//! Root's process gets a uid of the sandbox's own, which owns nothing on the host, and is root of a user namespace in
//! which that uid is 0. So that the guest's files keep their owners on disk, shares are mounted with mapped owners
//! (mount_setattr(2), `MOUNT_ATTR_IDMAP`): see [`owners`]. Where a file system cannot do that the process stays the host's root
//! with the capabilities of its policy, in all other namespaces.
//!
//! An ordinary user's process is root of the user namespace that its waiter entered, in which root is that user.

mod kernel_mounts;
mod mounts;
pub mod owners;
mod root;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, chdir, chroot, pivot_root, setgroups, setresgid, setresuid};
use sandpen_guest::protocol::VOLUME_FILE;
use sandpen_types::confinement::Jail;
use serde::{Deserialize, Serialize};

use self::mounts::{NO_DEVICES, NO_SUID, READ_ONLY, Tree};
use self::root::Root;
use super::policy::{Policy, SharedTreeError, descriptor_path, share_path};
use super::rights::is_initial_root;
use super::sys;

/// The jail of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailPlan {
    /// The uid and gid of the sandbox's own, where this user may take one: the initial namespace's root.
    pub uid: Option<u32>,
    /// Its network.
    pub network: JailNetwork,
    /// The descriptor of the [empty root](crate::confine::rights::Rights::empty_root), where it is handed over; without
    /// one the process makes its own.
    pub empty_root: Option<i32>,
}

/// The network of a process in a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JailNetwork {
    /// The empty one of its sandbox, which the waiter made.
    Sandbox,
    /// An empty one of its own, beside processes that have the host's.
    Own,
    /// The host's.
    Host,
}

/// Why a process cannot enter its jail.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The kernel refused a step.
    #[error("{step}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something cannot be mounted into it.
    #[error("putting {path:?} into the jail")]
    Put {
        /// What.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A directory that is to be served.
    #[error("sharing {path:?}")]
    Share {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: SharedTreeError,
    },
    /// A share would show the kernel's own files.
    #[error(
        "the directory {share:?} has a file system of the kernel's, {kind}, mounted at {mount:?}, by which a guest would get at the \
         host; unmount it, or share a directory without it"
    )]
    KernelFiles {
        /// The directory.
        share: PathBuf,
        /// Where it is.
        mount: PathBuf,
        /// Its type.
        kind: String,
    },
    /// A name in the policy leads elsewhere.
    #[error("{0:?} is no plain path for the jail")]
    Path(PathBuf),
}

fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> JailError {
    move |source| JailError::Step { step, source: source.into() }
}

/// Where a jail's root is mounted, in an empty root.
const PLACE: &str = "/jail";

/// A process that may copy what is mounted on the host.
pub(super) struct Parted<'a> {
    plan: &'a JailPlan,
    user_namespace: Option<OwnedFd>,
    /// The mount namespace with an empty root.
    empty_root: Option<File>,
}

/// Makes the user namespace of a sandbox's own user, and a mount namespace where copying takes one of the process's own.
/// For a process with one thread.
pub(super) fn part(plan: &JailPlan) -> Result<Parted<'_>, JailError> {
    let empty_root = plan.empty_root.map(take_empty_root).transpose();
    let empty_root = empty_root.map_err(failed("opening the empty root"))?;
    let maps = plan.uid.map(owners::maps);
    let made = maps.map(|(uids, gids)| sys::user_namespace(&uids, &gids)).transpose();
    let user_namespace = made.map_err(failed("making a user namespace"))?;
    let network = if plan.network == JailNetwork::Own { CloneFlags::CLONE_NEWNET } else { CloneFlags::empty() };
    // The host's root copies from its own.
    let mounts = if empty_root.is_some() && is_initial_root() { CloneFlags::empty() } else { CloneFlags::CLONE_NEWNS };
    unshare(mounts | network).map_err(failed("making a mount namespace"))?;
    Ok(Parted { plan, user_namespace, empty_root })
}

/// The namespace that the waiter has handed over under this number, which no program inherits.
fn take_empty_root(descriptor: i32) -> io::Result<File> {
    let file = File::open(descriptor_path(descriptor))?;
    nix::unistd::close(descriptor)?;
    Ok(file)
}

/// Opens a file of the host's so that nobody writes to it by this descriptor, also not who opens it once more.
pub(super) fn open_read_only(path: &Path) -> io::Result<File> {
    let tree = Tree::copy(path)?;
    tree.restrict(READ_ONLY | NO_SUID | NO_DEVICES)?;
    File::open(descriptor_path(tree.as_raw_fd()))
}

/// What a jail is made of, out of the host's files, and not entered yet.
pub(super) struct Gathered {
    root: Root,
    user_namespace: Option<OwnedFd>,
    empty_root: Option<File>,
    description: Jail,
}

impl Parted<'_> {
    /// Gathers what `policy` names. The current directory is the sandbox's runtime directory.
    pub(super) fn gather(self, policy: &Policy) -> Result<Gathered, JailError> {
        kernel_mounts::refuse_below(policy)?;
        let mut shares = copy_shares(policy)?;
        let unmapped = self.user_namespace.as_ref().and_then(|user| map_owners(&shares, policy, user));
        if unmapped.is_some() {
            // Copied again: some have mapped owners by now, and a process has the rights of one user alone.
            shares = copy_shares(policy)?;
        }
        let user_namespace = self.user_namespace.filter(|_| unmapped.is_none());
        let uid = self.plan.uid.filter(|_| unmapped.is_none());

        let mut root = Root::new(uid)?;
        for path in policy.execute.iter().chain(&policy.read).filter(|path| path.is_absolute()) {
            root.put_read_only(path)?;
        }
        for path in policy.devices.iter().chain(&policy.modify).filter(|path| path.is_absolute()) {
            root.put_device(path)?;
        }
        for (number, (tree, share)) in shares.into_iter().zip(&policy.shares).enumerate() {
            let directory = share_path(number);
            match share.is_file {
                true => root.put_file(&directory.join(VOLUME_FILE), tree)?,
                false => root.put_tree(&directory, tree)?,
            }
        }
        for path in policy.modify.iter().filter(|path| !path.is_absolute()) {
            root.put_runtime_file(path)?;
        }
        root.put_descriptors()?;
        let description = Jail { uid, host_network: self.plan.network == JailNetwork::Host, unmapped };
        Ok(Gathered { root, user_namespace, empty_root: self.empty_root, description })
    }
}

impl Gathered {
    /// What the jail is, for the report.
    pub(super) fn description(&self) -> &Jail {
        &self.description
    }

    /// Leaves the host's files for ever, and enters the jail. For a process with one thread.
    pub(super) fn enter(self) -> Result<(), JailError> {
        let emptied = match self.empty_root {
            // Its root comes with it; a copy of it is this process's own.
            Some(namespace) => setns(namespace, CloneFlags::CLONE_NEWNS)
                .and_then(|()| unshare(CloneFlags::CLONE_NEWNS))
                .map_err(io::Error::from),
            None => empty_root(),
        };
        emptied.map_err(failed("leaving the host's root"))?;
        let groups = self.root.build(Path::new(PLACE))?;
        // Below it is nothing but an empty directory.
        let entered = chdir(PLACE).and_then(|()| chroot(".")).and_then(|()| chdir("/"));
        entered.map_err(failed("changing to the jail's root"))?;
        if let Some(user_namespace) = self.user_namespace {
            setgroups(&groups).map_err(failed("giving up groups"))?;
            setns(user_namespace, CloneFlags::CLONE_NEWUSER).map_err(failed("entering the user namespace"))?;
            let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
            setresgid(gid, gid, gid).map_err(failed("becoming the sandbox's group"))?;
            setresuid(uid, uid, uid).map_err(failed("becoming the sandbox's user"))?;
        }
        Ok(())
    }
}

/// Makes a root with nothing but an empty directory in it the one of this process's mount namespace, which is its own, and
/// leaves the host's. Each time it looks at every process of the host (pivot_root(2)): so a daemon has one made for all
/// its sandboxes, whose namespaces are copies of it.
pub(super) fn empty_root() -> io::Result<()> {
    // Whatever is mounted here from now on is nobody else's.
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    let no_name: Option<&str> = None;
    mount(no_name, "/", no_name, private, no_name)?;
    // Any directory but the root, which nothing can be mounted over.
    let place = Path::new("/proc");
    Tree::empty(4096)?.attach(place)?;
    std::fs::create_dir(place.join(PLACE.trim_start_matches('/')))?;
    mounts::restrict(File::open(place)?.as_fd(), READ_ONLY)?;
    chdir(place)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

/// Does with mounts what a jail takes, in a mount namespace of its own, which has an empty root then.
pub(super) fn try_mounts() -> io::Result<()> {
    let descriptors = Tree::copy(Path::new("/proc/self/fd"))?;
    descriptors.restrict(NO_SUID | NO_DEVICES)?;
    empty_root()
}

fn copy_shares(policy: &Policy) -> Result<Vec<Tree>, JailError> {
    let copied = policy.shares.iter().map(|share| {
        let rights = NO_SUID | NO_DEVICES | if share.read_only { READ_ONLY } else { 0 };
        let path = || share.directory.clone();
        let place = share.open().map_err(|source| JailError::Share { path: path(), source })?;
        let copied = Tree::copy_of(place).and_then(|tree| tree.restrict(rights).map(|()| tree));
        copied.map_err(|source| JailError::Put { path: path(), source })
    });
    copied.collect()
}

/// Maps the owners of all shares, or says for people which cannot be, and why.
fn map_owners(shares: &[Tree], policy: &Policy, user_namespace: &OwnedFd) -> Option<String> {
    shares.iter().zip(&policy.shares).find_map(|(tree, share)| {
        let error = tree.map_owners(user_namespace.as_fd()).err()?;
        Some(format!("the file system of {} has no mapped owners: {error}", share.directory.display()))
    })
}
