//! A sandbox's runtime directory: whose it is, what is recorded in it, and how it goes away.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use sandpen_waiter::process_identity::ProcessIdentity;
use sandpen_waiter::records::{ExitRecord, ProcessesRecord};
use sandpen_waiter::wire::{
    EXIT_FILE, HELD_FILE, LOCK_FILE, PROCESSES_FILE, VMM_ROLE, WAITER_ROLE, WaiterSpec, encode, read_spec,
};

use super::WaiterError;
use crate::pidfd;

/// Most bytes that are read of a record; real ones are far smaller.
const RECORD_MAX: u64 = 64 << 10;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WaiterError {
    let path = path.to_owned();
    move |source| WaiterError::File { action, path, source }
}

/// Makes the directory (0700) or, if it is left over, empties it; for drivers that put files into
/// it before [`super::WaitedVmm::launch`]. Blocks on the disk.
///
/// # Errors
/// [`WaiterError::Live`] while something runs in it.
pub fn prepare_runtime_dir(dir: &Path) -> Result<(), WaiterError> {
    let _lock = claim(dir)?;
    clear(dir)
}

/// The lock of a runtime directory, given back at its end unless a waiter has it. Closing the file is not
/// enough for that: a child of this process has it open too, from its fork to its exec.
#[derive(Debug)]
pub(super) struct DirLock {
    file: File,
    is_handed_over: bool,
}

impl DirLock {
    fn new(file: File) -> Self {
        Self { file, is_handed_over: false }
    }

    /// For a waiter: as long as it has this open, it has the lock.
    pub(super) fn for_waiter(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Leaves it to the waiter that was started with it.
    pub(super) fn hand_over(mut self) {
        self.is_handed_over = true;
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        if !self.is_handed_over {
            let _ = self.file.unlock();
        }
    }
}

/// Makes the directory above, if it is not there. Has the file system spread what is made in it: ext4 does not use
/// an inode again for minutes after its file was removed and looks at each of them, and here files come and
/// go by the thousand. Other file systems have no such attribute, and no such need.
fn make_parent(dir: &Path) -> Result<(), WaiterError> {
    let Some(parent) = dir.parent().filter(|parent| !parent.exists()) else { return Ok(()) };
    DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed("making", parent))?;
    if let Ok(opened) = File::open(parent)
        && let Ok(flags) = rustix::fs::ioctl_getflags(&opened)
    {
        let _ = rustix::fs::ioctl_setflags(&opened, flags | rustix::fs::IFlags::TOPDIR);
    }
    Ok(())
}

/// Makes the directory and locks it. A stale one (an earlier waiter's records are in it) is emptied.
pub(super) fn claim(dir: &Path) -> Result<DirLock, WaiterError> {
    make_parent(dir)?;
    loop {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("making", dir))?;
        let meta = fs::symlink_metadata(dir).map_err(failed("looking at", dir))?;
        if !meta.is_dir() {
            return Err(failed("making", dir)(io::ErrorKind::NotADirectory.into()));
        }
        if meta.permissions().mode() & 0o777 != 0o700 {
            fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(failed("protecting", dir))?;
        }
        let path = dir.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let lock = match options.open(&path) {
            // A waiter that went away with its directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            lock => lock.map_err(failed("opening", &path))?,
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(WaiterError::Live { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(failed("locking", &path)(error)),
        }
        let lock = DirLock::new(lock);
        let ours = lock.file.metadata().map_err(failed("looking at", &path))?;
        match fs::symlink_metadata(&path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {}
            // Removed between open and lock, by a waiter that left nothing.
            _ => continue,
        }
        if let Some(record) = read_processes(dir)? {
            if !living(&record)?.is_empty() {
                return Err(WaiterError::Live { dir: dir.to_owned() });
            }
            reap_waiter(dir)?;
            clear(dir)?;
        }
        lock.file.set_len(0).map_err(failed("emptying", &path))?;
        return Ok(lock);
    }
}

/// Locks a directory whose waiter is gone, for the next one; `None` while somebody has it. A waiter's
/// lock goes with the last of its descriptors, a moment after its death.
pub(super) fn claim_abandoned(dir: &Path) -> Result<Option<DirLock>, WaiterError> {
    let path = dir.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    let lock = options.open(&path).map_err(failed("opening", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(DirLock::new(lock))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed("locking", &path)(error)),
    }
}

/// Writes what the waiter holds, for one that takes its place: the specification without its
/// processes, in whose environment may be secrets. Nobody reads it before `processes` is there.
pub(super) fn write_held(dir: &Path, spec: &WaiterSpec) -> Result<(), WaiterError> {
    let path = dir.join(HELD_FILE);
    let held = WaiterSpec { processes: Vec::new(), namespaces: None, ..spec.clone() };
    let encoded = encode(&held).ok_or_else(|| WaiterError::Invalid("its names are too long".into()))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    let written = options.open(&path).and_then(|mut file| file.write_all(&encoded));
    written.map_err(failed("writing", &path))
}

/// What the killed waiter held; `None` when it did not say, or a version did that writes it differently.
pub(super) fn read_held(dir: &Path) -> Result<Option<WaiterSpec>, WaiterError> {
    let path = dir.join(HELD_FILE);
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
    match options.open(&path) {
        Ok(mut file) => Ok(read_spec(&mut file).filter(|spec| spec.processes.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("opening", &path)(error)),
    }
}

/// Whether a waiter holds the directory, be it one that has recorded nothing yet.
pub(super) fn is_held(dir: &Path) -> Result<bool, WaiterError> {
    let path = dir.join(LOCK_FILE);
    let lock = match OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("opening", &path)(error)),
    };
    match lock.try_lock_shared() {
        Ok(()) => {
            drop(DirLock::new(lock));
            Ok(false)
        }
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(failed("locking", &path)(error)),
    }
}

/// Whether what a waiter has recorded here can be read by this version. Blocking.
///
/// # Errors
/// [`WaiterError::Record`] names what cannot.
pub fn check_readable(dir: &Path) -> Result<(), WaiterError> {
    read_processes(dir)?;
    read_exit(dir).map(drop)
}

/// Whether this is the directory of a microVM whose VMM is gone. Blocking, for microseconds.
pub fn is_abandoned(dir: &Path) -> bool {
    match read_processes(dir) {
        Ok(Some(record)) => {
            let vmm = ProcessesRecord {
                processes: record.processes.into_iter().filter(|(role, ..)| role == VMM_ROLE).collect(),
                ..record
            };
            living(&vmm).is_ok_and(|living| living.is_empty())
        }
        _ => false,
    }
}

/// The processes of the microVM in this directory, its waiter among them, as that has recorded them; whether they still
/// run is not looked at. `None` where there is no whole record. Blocking, for microseconds.
pub fn recorded_processes(dir: &Path) -> Option<Vec<ProcessIdentity>> {
    let ProcessesRecord { boot_id, processes } = read_processes(dir).ok().flatten()?;
    let identity = |(_, pid, start_time)| ProcessIdentity { boot_id: boot_id.clone(), pid, start_time };
    Some(processes.into_iter().map(identity).collect())
}

fn clear(dir: &Path) -> Result<(), WaiterError> {
    for entry in fs::read_dir(dir).map_err(failed("reading", dir))? {
        let entry = entry.map_err(failed("reading", dir))?;
        let path = entry.path();
        if entry.file_name() == LOCK_FILE {
            continue;
        }
        let is_dir = entry.file_type().map_err(failed("looking at", &path))?.is_dir();
        if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.map_err(failed("removing", &path))?;
    }
    Ok(())
}

/// Ends what a microVM without VMM and waiter has left running, and removes the directory.
pub(super) fn end_and_remove(dir: &Path) -> Result<(), WaiterError> {
    // A damaged record of nothing that could be found again is no reason to keep the directory.
    if let Ok(Some(record)) = read_processes(dir) {
        for process in living(&record)? {
            let killed = pidfd::send_signal(&process, nix::libc::SIGKILL);
            killed.map_err(|source| WaiterError::Process { role: "companion".to_owned(), source })?;
        }
        reap_waiter(dir)?;
    }
    remove(dir)
}

/// Removes the directory with everything in it; fine if it is gone.
pub(super) fn remove(dir: &Path) -> Result<(), WaiterError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(failed("removing", dir)),
    }
}

fn read_record(path: &Path) -> Result<Option<String>, WaiterError> {
    let mut options = OpenOptions::new();
    // Whatever lies there, opening it neither waits nor leads elsewhere.
    options.read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed("opening", path))?,
    };
    let mut text = String::new();
    file.take(RECORD_MAX).read_to_string(&mut text).map_err(failed("reading", path))?;
    // What a power failure leaves of a record that was not written out: as if there had never been one.
    let is_blank = text.bytes().all(|byte| matches!(byte, 0 | b' '));
    Ok((!is_blank).then_some(text))
}

/// The `processes` record, if it was written.
pub(super) fn read_processes(dir: &Path) -> Result<Option<ProcessesRecord>, WaiterError> {
    let path = dir.join(PROCESSES_FILE);
    match read_record(&path)? {
        None => Ok(None),
        Some(text) => ProcessesRecord::from_text(&text).map(Some).ok_or(WaiterError::Record { path }),
    }
}

/// The `exit` record, if it was written.
pub(super) fn read_exit(dir: &Path) -> Result<Option<ExitRecord>, WaiterError> {
    let path = dir.join(EXIT_FILE);
    match read_record(&path)? {
        None => Ok(None),
        Some(text) => ExitRecord::from_text(&text).map(Some).ok_or(WaiterError::Record { path }),
    }
}

/// The recorded processes with their identities.
pub(super) fn identities(record: &ProcessesRecord) -> impl Iterator<Item = (&str, ProcessIdentity)> {
    record.processes.iter().map(|(role, pid, start_time)| {
        let identity = ProcessIdentity { boot_id: record.boot_id.clone(), pid: *pid, start_time: *start_time };
        (role.as_str(), identity)
    })
}

/// Reaps the recorded waiter, if it has ended and was our child.
pub(super) fn reap_waiter(dir: &Path) -> Result<(), WaiterError> {
    let Some(record) = read_processes(dir)? else { return Ok(()) };
    for (role, identity) in identities(&record).filter(|(role, _)| *role == WAITER_ROLE) {
        let reaped = pidfd::open(&identity).and_then(|waiter| waiter.map_or(Ok(()), pidfd::reap));
        reaped.map_err(|source| WaiterError::Process { role: role.to_owned(), source })?;
    }
    Ok(())
}

/// Pidfds of those that still run; a zombie does not.
pub(super) fn living(record: &ProcessesRecord) -> Result<Vec<OwnedFd>, WaiterError> {
    let mut living = Vec::new();
    for (role, identity) in identities(record) {
        let opened = pidfd::open(&identity).and_then(|pidfd| {
            let Some(pidfd) = pidfd else { return Ok(None) };
            Ok((!pidfd::has_ended(&pidfd)?).then_some(pidfd))
        });
        living.extend(opened.map_err(|source| WaiterError::Process { role: role.to_owned(), source })?);
    }
    Ok(living)
}
