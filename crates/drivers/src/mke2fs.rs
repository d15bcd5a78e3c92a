//! mke2fs, the program that makes the file systems of disks: found, and run confined as the processes beside a microVM
//! are.
//!
//! ```text
//!   draft, directory ─▶ `sandpen __confine --policy JSON mke2fs …` ─▶ jail: libraries, the directory read-only,
//!                                                                     the draft as an open descriptor
//! ```
//!
//! What it reads is a guest's: names and attributes of files that a workload has made. As the host's root it runs as the
//! sandbox's own user, with the right to read all of the directory and nothing else; an ordinary user's has no jail, but
//! the rest of the confinement.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid};

use super::confine::{self, JailPlan, POLICY, Policy, SharedTree, descriptor_path};
use super::program_files::ProgramFiles;
use super::work::Stop;

/// The program.
const PROGRAM: &str = "mke2fs";
/// The package it is in, on Debian and its derivatives.
pub const PACKAGE: &str = "e2fsprogs";
/// Where it is when `PATH` is an ordinary user's.
const SYSTEM_DIRS: [&str; 2] = ["/usr/sbin", "/sbin"];
/// Its role, for its policy.
const ROLE: &str = "mke2fs";
/// What is the same for all: quiet, blocks and inodes of a known size, nothing kept for root, and what becomes of a file
/// system with errors.
const ALWAYS: [&str; 10] = ["-q", "-F", "-b", "4096", "-I", "256", "-m", "0", "-e", "remount-ro"];
/// Most characters of its messages that are told.
const SAID_MAX: usize = 500;

/// Why there is no file system.
#[derive(Debug, thiserror::Error)]
pub enum Mke2fsError {
    /// No program to make one.
    #[error("{PROGRAM} was not found in PATH, /usr/sbin or /sbin; install the package {PACKAGE}")]
    NoProgram,
    /// It cannot be run.
    #[error("running {PROGRAM}")]
    Run(#[from] io::Error),
    /// It failed.
    #[error("{PROGRAM} says: {0}")]
    Failed(String),
}

/// `mke2fs`, absolute.
///
/// # Errors
/// [`Mke2fsError::NoProgram`].
pub fn find() -> Result<PathBuf, Mke2fsError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).filter(|directory| directory.is_absolute());
    let mut programs = directories.chain(SYSTEM_DIRS.map(PathBuf::from)).map(|directory| directory.join(PROGRAM));
    let runs = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    programs.find(runs).ok_or(Mke2fsError::NoProgram)
}

/// Runs it for a sandbox.
#[derive(Debug)]
pub(super) struct Mke2fs {
    /// Sandpen's own program.
    helper: PathBuf,
    jail: Result<JailPlan, String>,
}

impl Mke2fs {
    /// With sandpen's program, and the jail or why there is none.
    pub(super) fn new(helper: &Path, jail: Result<JailPlan, String>) -> Self {
        Self { helper: helper.to_owned(), jail }
    }

    /// Makes a file system in `draft`, an empty file at `path`, with what is in `tree`. Until it is told to stop.
    ///
    /// # Errors
    /// [`Mke2fsError`].
    pub(super) fn run(
        &self,
        arguments: Vec<OsString>,
        draft: &File,
        path: &Path,
        tree: Option<SharedTree>,
        stop: &Stop,
    ) -> Result<(), Mke2fsError> {
        let program = find()?;
        let mut policy = Policy::new(ROLE);
        policy.jail.clone_from(&self.jail);
        policy.cgroup = Err("it belongs to no sandbox".to_owned());
        policy.execute = ProgramFiles::of(&program).execute;
        policy.read = ["/etc/ld.so.cache", "/etc/mke2fs.conf", "/dev/urandom"].map(PathBuf::from).into();
        policy.modify.push("/dev/null".into());
        if let Some(tree) = tree {
            policy.shares.push(tree);
            policy.capabilities.push("DAC_READ_SEARCH".to_owned());
        }
        let device = descriptor_path(policy.inherit(path, true));
        let json = serde_json::to_string(&policy).map_err(io::Error::from)?;
        // Where its root is mounted, and its report written.
        let directory = tempfile::tempdir()?;
        let mut command = Command::new(&self.helper);
        command.arg(confine::helper::SUBCOMMAND).args([POLICY, &json]).arg(program).args(ALWAYS).args(arguments);
        if let Some(directory) = policy.share_paths().next() {
            command.arg("-d").arg(directory);
        }
        command.arg(device).current_dir(directory.path()).env_clear();
        // Not read: so it has the draft's lock for as long as it may write, whatever becomes of this process.
        command.stdin(draft.try_clone()?);
        let output = stop.output(command)?;
        // It was the sandbox's own user's meanwhile.
        std::os::unix::fs::fchown(draft, Some(Uid::effective().as_raw()), Some(Gid::effective().as_raw()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).trim().to_owned()).concat();
        Err(Mke2fsError::Failed(said.chars().take(SAID_MAX).collect()))
    }
}
