//! Runs the programs that make disks: mke2fs for an empty one, sandpen's own for one of a root directory; confined as the
//! processes beside a microVM are.
//!
//! ```text
//!   draft ─▶ `sandpen __confine --policy JSON mke2fs …`     jail: libraries, the draft as an open descriptor
//!   draft, directory ─▶ `sandpen __image …`                 jail: the directory read-only, the draft likewise
//! ```
//!
//! What is read is a guest's: names and attributes of files that a workload has made. As the host's root it is done by the
//! sandbox's own user, with the right to read all of the directory and nothing else; an ordinary user's process has no
//! jail, but the rest of the confinement.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::unistd::{Gid, Uid};
use sandpen_images::walk::Owners;

use super::confine::{self, JailPlan, POLICY, Policy, SharedTree, descriptor_path};
use super::image_helper::{self, ImageWork};
use super::mke2fs::{self, Mke2fsError};
use super::program_files::ProgramFiles;
use super::work::Stop;

/// The role of mke2fs, for its policy.
const MKE2FS_ROLE: &str = "mke2fs";
/// What is the same for all: quiet, blocks and inodes of a known size, nothing kept for root, and what becomes of a file
/// system with errors.
const ALWAYS: [&str; 10] = ["-q", "-F", "-b", "4096", "-I", "256", "-m", "0", "-e", "remount-ro"];
/// Most characters of a program's messages that are told.
const SAID_MAX: usize = 500;

/// Why there is no disk of a directory.
#[derive(Debug, thiserror::Error)]
pub(super) enum DirectoryError {
    /// The process cannot be run.
    #[error("running the process that reads it")]
    Run(#[from] io::Error),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// Makes disks for a sandbox.
#[derive(Debug)]
pub(super) struct DiskMaker {
    /// Sandpen's own program.
    helper: PathBuf,
    jail: Result<JailPlan, String>,
}

impl DiskMaker {
    /// With sandpen's program, and the jail or why there is none.
    pub(super) fn new(helper: &Path, jail: Result<JailPlan, String>) -> Self {
        Self { helper: helper.to_owned(), jail }
    }

    /// Makes a file system in `draft`, an empty file at `path`. Until it is told to stop.
    ///
    /// # Errors
    /// [`Mke2fsError`].
    pub(super) fn mke2fs(
        &self,
        arguments: Vec<OsString>,
        draft: &File,
        path: &Path,
        stop: &Stop,
    ) -> Result<(), Mke2fsError> {
        let program = mke2fs::find()?;
        let mut policy = Policy::new(MKE2FS_ROLE);
        policy.jail.clone_from(&self.jail);
        policy.cgroup = Err("it belongs to no sandbox".to_owned());
        policy.execute = ProgramFiles::of(&program).execute;
        policy.read = ["/etc/ld.so.cache", "/etc/mke2fs.conf", "/dev/urandom"].map(PathBuf::from).into();
        policy.modify.push("/dev/null".into());
        let device = descriptor_path(policy.inherit(path, true));
        let json = serde_json::to_string(&policy).map_err(io::Error::from)?;
        let mut command = Command::new(&self.helper);
        command.arg(confine::helper::SUBCOMMAND).args([POLICY, &json]).arg(program).args(ALWAYS).args(arguments);
        command.arg(device);
        let output = run(command, &[draft], stop)?;
        if output.status.success() { Ok(()) } else { Err(Mke2fsError::Failed(said(&output))) }
    }

    /// Makes a disk of `tree` in `draft`, an empty file at `path`; `scratch` is another one. Until it is told to stop.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub(super) fn of_directory(
        &self,
        tree: SharedTree,
        draft: (&File, &Path),
        scratch: (&File, &Path),
        stop: &Stop,
    ) -> Result<(), DirectoryError> {
        let work = ImageWork::DirectoryDisk { shown: tree.directory.clone(), owners: Owners::of_this_user() };
        let mut policy = image_helper::policy([]);
        policy.jail.clone_from(&self.jail);
        policy.shares.push(tree);
        policy.capabilities.push("DAC_READ_SEARCH".to_owned());
        for (_, path) in [draft, scratch] {
            policy.inherit(path, true);
        }
        let mut command = Command::new(&self.helper);
        command.args(image_helper::arguments(&policy, &work)?);
        let output = run(command, &[draft.0, scratch.0], stop)?;
        if output.status.success() { Ok(()) } else { Err(DirectoryError::Failed(said(&output))) }
    }
}

/// Runs a program that has these drafts, and takes them back.
fn run(mut command: Command, drafts: &[&File], stop: &Stop) -> io::Result<Output> {
    // Where its root is mounted, and its report written.
    let directory = tempfile::tempdir()?;
    command.current_dir(directory.path()).env_clear();
    if let Some(draft) = drafts.first() {
        // Not read: so it has the draft's lock for as long as it may write, whatever becomes of this process.
        command.stdin(draft.try_clone()?);
    }
    let output = stop.output(command)?;
    for draft in drafts {
        // It was the sandbox's own user's meanwhile.
        std::os::unix::fs::fchown(draft, Some(Uid::effective().as_raw()), Some(Gid::effective().as_raw()))?;
    }
    Ok(output)
}

fn said(output: &Output) -> String {
    let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).trim().to_owned()).concat();
    let said = said.strip_prefix("image: ").map(str::to_owned).unwrap_or(said);
    said.chars().take(SAID_MAX).collect()
}
