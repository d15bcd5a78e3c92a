//! The steps, in their order.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{getegid, geteuid};
use sandpen_types::confinement::{Cgroup, Jail, ProcessConfinement, Rlimits};

use super::jail::{self, JailError};
use super::landlock::LandlockError;
use super::rlimits;
use super::seccomp::{self, SeccompError};
use super::{Inherited, Policy, capabilities, descriptor_path, landlock, report, sys};

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// What was open before.
    #[error("closing inherited descriptors")]
    Descriptors(#[source] io::Error),
    /// A limit cannot be set.
    #[error("limiting resources")]
    Rlimits(#[source] Errno),
    /// A file that was to be handed over.
    #[error("opening {path:?}")]
    Inherit {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Its jail cannot be made or entered.
    #[error("entering the jail")]
    Jail(#[from] JailError),
    /// The kernel refused no_new_privs.
    #[error("giving up gaining privileges")]
    NoNewPrivs(#[source] Errno),
    /// Capabilities cannot be dropped.
    #[error("dropping capabilities")]
    Capabilities(#[source] capng::Error),
    /// The report cannot be written.
    #[error("writing what holds into the runtime directory")]
    Report(#[source] io::Error),
    /// The kernel has Landlock, but refused the ruleset.
    #[error("restricting the process to its files")]
    Landlock(#[from] LandlockError),
    /// The kernel has seccomp filters, but refused ours.
    #[error("restricting system calls")]
    Seccomp(#[from] SeccompError),
}

/// A process between the two halves of its confinement.
#[derive(Debug)]
pub struct Begun {
    rlimits: Rlimits,
    cgroup: Option<Cgroup>,
    jail: Option<Jail>,
    left_out: BTreeMap<String, String>,
    /// Open, as later the runtime directory is out of reach.
    report: File,
}

/// The first half, before the process opens anything of its own: nothing inherited stays open, its cgroup and its limits
/// hold, what is handed over is open, and it is in its jail, at whose root its files of the runtime directory are. Must be
/// called while the process has one thread; in the sandbox's runtime directory.
///
/// # Errors
/// [`ConfineError`]; the process must end then.
pub fn begin(policy: &Policy) -> Result<Begun, ConfineError> {
    sys::close_inherited_beyond(policy.handed_over).map_err(ConfineError::Descriptors)?;
    let rlimits = rlimits::set(policy.open_files).map_err(ConfineError::Rlimits)?;
    let report = report::create(&policy.role).map_err(ConfineError::Report)?;
    let mut begun = Begun { rlimits, cgroup: None, jail: None, left_out: BTreeMap::new(), report };
    let joined = policy.cgroup.as_ref().map_err(Clone::clone).and_then(|plan| Ok((plan.join()?, &plan.missing)));
    match joined {
        Ok((cgroup, missing)) => {
            begun.cgroup = Some(cgroup);
            if !missing.is_empty() {
                begun.leave_out("cgroup", format!("no controller {}", missing.join(", ")));
            }
        }
        Err(why) => begun.leave_out("cgroup", why),
    }
    let parted = match &policy.jail {
        Ok(plan) => Some(jail::part(plan)?),
        Err(why) => {
            begun.leave_out("jail", why.clone());
            None
        }
    };
    let failed = |file: &Inherited| {
        let path = file.path.clone();
        move |source| ConfineError::Inherit { path, source }
    };
    let inherited = policy.inherited_descriptors();
    let beyond = policy.next_inherited();
    let opened = inherited.map(|(number, file)| inherit(file, number..beyond, parted.is_some()).map_err(failed(file)));
    let opened = opened.collect::<Result<Vec<_>, _>>()?;
    if let Some(parted) = parted {
        let gathered = parted.gather(policy)?;
        begun.jail = Some(gathered.description().clone());
        for (opened, file) in opened.iter().zip(&policy.inherited) {
            match gathered.description().uid {
                Some(uid) => give(opened, file, uid),
                None => take_back(opened, file),
            }
            .map_err(failed(file))?;
        }
        gathered.enter()?;
    }
    Ok(begun)
}

/// Opens a file as the first of these descriptors, which a program inherits; what it answers has one beyond them. One who
/// has parted from the host's mounts opens what is only read so that it stays so.
fn inherit(file: &Inherited, descriptors: Range<i32>, has_parted: bool) -> io::Result<File> {
    let opened = match (&file.content, file.write, has_parted) {
        (Some(content), ..) => memory_file(content)?,
        (None, false, true) => jail::open_read_only(&file.path)?,
        (None, write, _) => OpenOptions::new().read(true).write(write).open(&file.path)?,
    };
    // The lowest free one from there on is that one, as they are opened in their order.
    if fcntl(&opened, FcntlArg::F_DUPFD(descriptors.start))? != descriptors.start {
        return Err(Errno::EBADF.into());
    }
    // Of many files the last ones would get numbers that are meant for others.
    Ok(rustix::io::fcntl_dupfd_cloexec(&opened, descriptors.end)?.into())
}

/// A file in memory that nobody can change, open for reading alone: QEMU takes a descriptor for what it is open for.
fn memory_file(content: &str) -> io::Result<File> {
    let created = memfd_create("sandpen", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(created);
    file.write_all(content.as_bytes())?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    File::open(descriptor_path(file.as_raw_fd()))
}

/// Makes a file one that the sandbox's own user can open once more: what is written, a disk, is that sandbox's; what is
/// read is for all, if it lies in a directory of ours that nobody else gets into.
fn give(opened: &File, file: &Inherited, uid: u32) -> io::Result<()> {
    const ALL_READ: u32 = 0o444;
    const OTHERS: u32 = 0o077;
    if file.content.is_some() {
        return Ok(());
    }
    if file.write {
        return std::os::unix::fs::fchown(opened, Some(uid), Some(uid));
    }
    let meta = opened.metadata()?;
    let mode = meta.permissions().mode();
    let directory = file.path.parent().and_then(|directory| directory.metadata().ok());
    let is_private = directory.is_some_and(|directory| directory.permissions().mode() & OTHERS == 0);
    if mode & ALL_READ != ALL_READ && meta.is_file() && is_private {
        // By its name: the descriptor's own mount lets nobody change it.
        std::fs::set_permissions(&file.path, Permissions::from_mode(mode | ALL_READ))?;
    }
    Ok(())
}

/// What is written belonged to a sandbox with a user of its own, perhaps: to be opened once more without any capability, it has
/// to be ours.
fn take_back(opened: &File, file: &Inherited) -> io::Result<()> {
    let own = (geteuid().as_raw(), getegid().as_raw());
    if file.content.is_some() || !file.write || opened.metadata()?.uid() == own.0 {
        return Ok(());
    }
    std::os::unix::fs::fchown(opened, Some(own.0), Some(own.1))
}

impl Begun {
    /// How many files may be open.
    pub fn open_files(&self) -> u64 {
        self.rlimits.open_files
    }

    /// Notes why a step is left out.
    fn leave_out(&mut self, step: &str, why: String) {
        self.left_out.insert(step.to_owned(), why);
    }
}

/// The second half, before the process meets anything of a guest's making. Must be called while the
/// process has one thread.
///
/// # Errors
/// [`ConfineError`]; the process must end then.
pub fn enforce(policy: &Policy, mut begun: Begun) -> Result<(), ConfineError> {
    let kept = capabilities::kept(policy);
    nix::sys::prctl::set_no_new_privs().map_err(ConfineError::NoNewPrivs)?;
    capabilities::keep(&kept).map_err(ConfineError::Capabilities)?;
    let landlock = match landlock::kernel_abi() {
        Ok(abi) => Some(landlock::reach(abi, policy)),
        Err(why) => {
            begun.leave_out("landlock", why);
            None
        }
    };
    let seccomp = match seccomp::available() {
        Ok(()) => Some(seccomp::kind(policy)),
        Err(why) => {
            begun.leave_out("seccomp", why);
            None
        }
    };
    let (has_landlock, has_seccomp) = (landlock.is_some(), seccomp.is_some());
    let Begun { rlimits, cgroup, jail, left_out, report } = begun;
    let confinement = ProcessConfinement {
        no_new_privs: true,
        capabilities: kept,
        rlimits,
        jail,
        landlock,
        seccomp,
        cgroup,
        left_out,
    };
    // If a step fails now the process ends.
    report::fill(report, &confinement).map_err(ConfineError::Report)?;
    if has_landlock {
        landlock::restrict(policy)?;
    }
    if has_seccomp {
        seccomp::restrict(policy)?;
    }
    Ok(())
}
