//! The embedded waiter program, in a place where it can be executed and where nobody can have changed it.
//!
//! It is run from memory: made once for this process, sealed, executed by its descriptor. A file would lie where every
//! process of our user can write (a VMM that was taken over and is confined by little, say), and whoever changes it
//! has his program run by us, unconfined. Memory costs the program's size once: all waiters of an orchestrator have
//! its pages in common, as those of a file, and those of an earlier orchestrator keep theirs. It also works where the
//! state directory may not be executed from. `/proc/PID/exe` of a waiter is `/memfd:sandpen-waiter`; its command line
//! and its name are as ever.
//!
//! ```text
//!   memory, sealed ─ executed ─▶ a waiter
//!     └ the system makes or executes no such thing (`vm.memfd_noexec` is 2, a security module) ─┐
//!                                                                                    ▼
//!   file in `bin`, written if it has not the program's bytes ─▶ compared ─▶ executed by its descriptor
//! ```
//!
//! The file is compared whole, once for each state of it: what is executed is the file that was compared, whatever has
//! its name by then, and whoever writes into it changes its times.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::WaiterError;

/// The program that `build.rs` had made.
static PROGRAM: &[u8] = include_bytes!(env!("SANDPEN_WAITER"));
/// What processes of it are called: in the memory's name, and as their first argument.
pub(super) const NAME: &str = "sandpen-waiter";

/// Whether the system has refused to execute memory, or to make such.
static IS_MEMORY_REFUSED: AtomicBool = AtomicBool::new(false);

/// The program, to be executed while this is there.
#[derive(Debug, Clone)]
pub(super) struct Program {
    file: Arc<File>,
    /// The file's name; `None` for memory.
    name: Option<PathBuf>,
}

impl Program {
    /// What to execute.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// What people know it by.
    pub(super) fn name(&self) -> &Path {
        self.name.as_deref().unwrap_or(Path::new(NAME))
    }

    /// Takes note that the system refuses to execute it; false when there is no other one.
    pub(super) fn refuse(&self) -> bool {
        let is_memory = self.name.is_none();
        if is_memory {
            refuse_memory();
        }
        is_memory
    }
}

/// Takes note that no memory can be executed, and says so the first time.
fn refuse_memory() {
    if !IS_MEMORY_REFUSED.swap(true, Ordering::Relaxed) {
        tracing::warn!("this system executes no memory: waiters are run from a file in the state directory");
    }
}

/// The program: from memory, or where that is refused, from a file in `bin_dir` (made 0700 if missing).
pub(super) fn program(bin_dir: &Path) -> Result<Program, WaiterError> {
    if !IS_MEMORY_REFUSED.load(Ordering::Relaxed) {
        match from_memory() {
            Ok(file) => return Ok(Program { file, name: None }),
            // None to execute is even made.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refuse_memory(),
            // For lack of descriptors or memory the next one may have more luck.
            Err(error) => tracing::debug!(%error, "no memory to execute the waiter from"),
        }
    }
    from_file(bin_dir)
}

fn from_memory() -> io::Result<Arc<File>> {
    static MEMORY: OnceLock<Arc<File>> = OnceLock::new();
    if let Some(memory) = MEMORY.get() {
        return Ok(memory.clone());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match memfd_create(NAME, flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 there is no such flag, and no need for it.
        Err(rustix::io::Errno::INVAL) => memfd_create(NAME, flags),
        made => made,
    };
    let mut memory = File::from(memory?);
    memory.write_all(PROGRAM)?;
    fcntl_add_seals(&memory, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    // Others may have made it meanwhile; one of them is enough.
    Ok(MEMORY.get_or_init(|| Arc::new(memory)).clone())
}

/// A file as it was when it was compared.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds; writing, and changing other times, sets it.
    changed: (i64, i64),
}

impl From<&fs::Metadata> for Version {
    fn from(meta: &fs::Metadata) -> Self {
        let changed = (meta.ctime(), meta.ctime_nsec());
        Self { device: meta.dev(), inode: meta.ino(), length: meta.len(), changed }
    }
}

pub(super) fn from_file(bin_dir: &Path) -> Result<Program, WaiterError> {
    static COMPARED: Mutex<Option<(Program, Version)>> = Mutex::new(None);
    let path = bin_dir.join(concat!("sandpen-waiter-", env!("SANDPEN_WAITER_HASH")));
    let failed = |action| {
        let path = path.clone();
        move |source| WaiterError::File { action, path, source }
    };
    let mut compared = COMPARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((program, version)) = &*compared
        && program.name.as_ref() == Some(&path)
        && program.file.metadata().is_ok_and(|now| Version::from(&now) == *version)
    {
        return Ok(program.clone());
    }
    let mut found = open_whole(&path).map_err(failed("looking for"))?;
    if found.is_none() {
        sandpen_cache::write(&path, 0o700, PROGRAM).map_err(failed("installing"))?;
        found = open_whole(&path).map_err(failed("looking for"))?;
    }
    let changed = || failed("installing")(io::Error::new(io::ErrorKind::InvalidData, "somebody changes it"));
    let (file, version) = found.ok_or_else(changed)?;
    let program = Program { file: Arc::new(file), name: Some(path) };
    *compared = Some((program.clone(), version));
    Ok(program)
}

/// The file, if it is the program, whole, and can be executed.
fn open_whole(path: &Path) -> io::Result<Option<(File, Version)>> {
    let mut options = OpenOptions::new();
    // Whatever lies there, opening it neither waits nor leads elsewhere.
    options.read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => return Ok(None),
        Err(error) => return Err(error),
    };
    // Before its content: what is written after this shows in it.
    let meta = file.metadata()?;
    if !meta.is_file() || meta.mode() & 0o100 == 0 || meta.len() != PROGRAM.len() as u64 {
        return Ok(None);
    }
    let mut content = Vec::with_capacity(PROGRAM.len());
    (&file).take(meta.len()).read_to_end(&mut content)?;
    Ok((content == PROGRAM).then(|| (file, Version::from(&meta))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::process::{Command, Stdio};

    use sandpen_skip::{Reason, skip};

    use super::*;

    /// Each sandbox has one in its memory.
    #[test]
    fn it_is_a_small_static_program() {
        assert!(PROGRAM.len() < 5 << 18, "{} bytes", PROGRAM.len());
        let number =
            |at: usize, bytes: usize| PROGRAM[at..at + bytes].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
        // ET_EXEC: a position independent one would relocate itself, into pages that no other one shares.
        assert_eq!((&PROGRAM[..4], number(16, 2)), (&b"\x7fELF"[..], 2));
        let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        // PT_INTERP: it would need a dynamic loader.
        assert!(count > 0 && (0..count).all(|header| number(headers + header * size, 4) != 3));
    }

    #[test]
    fn the_memory_is_made_once_and_nobody_changes_it() {
        let memory = from_memory().unwrap();
        assert!(Arc::ptr_eq(&memory, &from_memory().unwrap()));
        let path = Program { file: memory, name: None }.path();
        assert_eq!(fs::read(&path).unwrap(), PROGRAM);
        for refused in [
            OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(b"x")),
            OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(10)),
            OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(b"x")),
        ] {
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(nix::libc::EPERM));
        }
        assert_eq!(fs::read(&path).unwrap(), PROGRAM);
    }

    /// What an executed program makes of an empty specification: nothing, without an error.
    fn runs(program: &Program) {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(program.path());
        command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        assert!(command.output().unwrap().status.success());
    }

    /// In a PID namespace of its own, which has a setting of its own.
    #[test]
    fn where_no_memory_may_be_made_it_is_refused_once() {
        const INSIDE: &str = "SANDPEN_TEST_NO_MEMORY";
        if std::env::var_os(INSIDE).is_some() {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(from_memory().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert!(!IS_MEMORY_REFUSED.load(Ordering::Relaxed));
            runs(&program(dir.path()).unwrap());
            assert!(IS_MEMORY_REFUSED.load(Ordering::Relaxed), "no launch tries again");
            return;
        }
        let forbid = "echo 2 > /proc/sys/vm/memfd_noexec && exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--fork", "--pid", "--mount-proc", "sh", "-c", forbid, "sh"])
            .arg(std::env::current_exe().unwrap());
        command.args(["--exact", "waiter::install::tests::where_no_memory_may_be_made_it_is_refused_once"]);
        let output = command.env(INSIDE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("test result") {
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
        } else {
            skip(Reason::NotRoot, String::from_utf8_lossy(&output.stderr));
        }
    }

    #[test]
    fn a_file_is_taken_for_its_content_alone() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        let first = from_file(&bin).unwrap();
        runs(&first);
        let path = first.name().to_owned();
        assert!(Arc::ptr_eq(&first.file, &from_file(&bin).unwrap().file), "compared once");
        let mut hostile = format!("#!/bin/sh\ntouch {}/ran\nexit\n", dir.path().display()).into_bytes();
        hostile.resize(PROGRAM.len(), b'#');
        let replacements: [&dyn Fn(); 5] = [
            &|| fs::write(&path, &hostile).unwrap(),
            &|| {
                fs::write(bin.join("other"), &hostile).unwrap();
                fs::set_permissions(bin.join("other"), fs::Permissions::from_mode(0o700)).unwrap();
                fs::remove_file(&path).unwrap();
                symlink("other", &path).unwrap();
            },
            &|| fs::write(&path, &PROGRAM[..100]).unwrap(),
            &|| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap(),
            &|| {
                fs::remove_file(&path).unwrap();
                nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            },
        ];
        for replace in replacements {
            // As for an orchestrator that has just begun: nothing is compared yet.
            from_file(&dir.path().join("another")).unwrap();
            replace();
            let program = from_file(&bin).unwrap();
            runs(&program);
            assert_eq!(fs::read(&path).unwrap(), PROGRAM, "what was not it has made room");
        }
        assert!(!dir.path().join("ran").exists());
    }

    #[test]
    fn what_was_compared_is_what_runs() {
        let dir = tempfile::tempdir().unwrap();
        let program = from_file(dir.path()).unwrap();
        // Behind the comparison: another file of the same name, then the same file with other content.
        let path = program.name().to_owned();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "#!/bin/sh\nexit 3\n").unwrap();
        runs(&program);
        let program = from_file(dir.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), PROGRAM, "removing the file has changed it: it is looked for again");
        runs(&program);
        fs::write(program.path(), vec![b'#'; PROGRAM.len()]).unwrap();
        let again = from_file(dir.path()).unwrap();
        assert!(!Arc::ptr_eq(&program.file, &again.file));
        runs(&again);
    }
}
