//! Whether this user may make jails on this host, found out by trying, once for each process.
//!
//! ```text
//!   daemon                                 hidden subcommand of sandpen's program
//!     starts it ───────────────────────────▶ [user namespace made] ─▶ "made"
//!     its ids mapped, namespace kept open ─▶ all that a jail takes is tried ─▶ "fine", or why not
//!     its mount namespace, with an empty root, kept open ──────────────────▶ gone
//! ```
//!
//! The initial namespace's root makes jails as it is. Others make them in a user namespace, of which all sandboxes of a
//! daemon use the same one: in it root is this user, and other ids are the subordinate ones that it has (subuid(5)).

mod id_maps;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use nix::sched::{CloneFlags, unshare};
use sandpen_types::error_chain::error_chain;

pub use self::id_maps::is_initial_root;

use self::id_maps::IdMaps;
use super::jail;

/// The hidden subcommand's name.
pub const SUBCOMMAND: &str = "__namespaces";
/// Its argument when a user namespace is to be made first.
const USER: &str = "user";
/// What it says when it is in one.
const MADE: &str = "made\n";
/// What it says when everything works.
const FINE: &str = "fine\n";
/// Most bytes of what it says.
const SAID_MAX: u64 = 4096;

/// How this user makes jails.
#[derive(Debug)]
pub struct Rights {
    user: Option<UserNamespace>,
    empty_root: File,
}

impl Rights {
    /// The user namespace in which they are made; `None` for the initial namespace's root, which makes them as it is.
    pub fn user(&self) -> Option<&UserNamespace> {
        self.user.as_ref()
    }

    /// A mount namespace with an empty root, for other processes of this user, as long as this one lives.
    pub fn empty_root(&self) -> PathBuf {
        path_of(&self.empty_root)
    }
}

/// An open file of this process's, for others.
fn path_of(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// A user namespace that this process keeps open.
#[derive(Debug)]
pub struct UserNamespace {
    file: File,
    /// How many uids it has; a guest's file cannot belong to others.
    ids: u32,
}

impl UserNamespace {
    /// Its path for other processes of this user, as long as this one lives.
    pub fn path(&self) -> PathBuf {
        path_of(&self.file)
    }

    /// How many users a guest's files can belong to: 1 without subordinate ids.
    pub fn ids(&self) -> u32 {
        self.ids
    }
}

/// Why no jail can be made.
#[derive(Debug, thiserror::Error)]
enum RightsError {
    #[error("starting {program:?}")]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no user namespace can be made: {0}")]
    User(String),
    #[error("mapping the ids of a user namespace")]
    Map(#[source] io::Error),
    #[error("opening a namespace that was made")]
    Namespace(#[source] io::Error),
    #[error("{0}")]
    Refused(String),
}

static FOUND: OnceLock<Rights> = OnceLock::new();

/// What was found, if something was.
pub fn known() -> Option<&'static Rights> {
    FOUND.get()
}

/// What this user may do, or why it may not, for people: what is found stays so for this process, a failure is tried
/// again by the next one who asks. `helper` is sandpen's program. Blocking, at most for some 20 ms.
///
/// # Errors
/// See above.
pub fn find(helper: &Path) -> Result<&'static Rights, String> {
    if let Some(found) = known() {
        return Ok(found);
    }
    let found = look(helper).map_err(|error| error_chain(&error))?;
    Ok(FOUND.get_or_init(|| found))
}

fn look(helper: &Path) -> Result<Rights, RightsError> {
    if id_maps::is_initial_root() {
        let mut trial = Trial::start(helper, &[])?;
        // One who may not (a container) has a user namespace left to try.
        if trial.said()? == FINE {
            return Ok(Rights { user: None, empty_root: trial.namespace("mnt")? });
        }
    }
    let mut trial = Trial::start(helper, &[USER])?;
    let said = trial.said()?;
    if said != MADE {
        return Err(RightsError::User(said.trim().to_owned()));
    }
    let ids = IdMaps::best().apply(trial.child.id()).map_err(RightsError::Map)?;
    let file = trial.namespace("user")?;
    trial.go_on().map_err(RightsError::Map)?;
    match trial.said()? {
        said if said == FINE => {
            Ok(Rights { user: Some(UserNamespace { file, ids }), empty_root: trial.namespace("mnt")? })
        }
        said => Err(RightsError::Refused(said.trim().to_owned())),
    }
}

/// The process that tries.
struct Trial {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    program: PathBuf,
}

impl Trial {
    fn start(program: &Path, arguments: &[&str]) -> Result<Self, RightsError> {
        let failed = |source| RightsError::Start { program: program.to_owned(), source };
        let mut command = Command::new(program);
        command.arg(SUBCOMMAND).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        let output = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { child, output: BufReader::new(output), program: program.to_owned() })
    }

    /// The next line; it waits for something after each.
    fn said(&mut self) -> Result<String, RightsError> {
        let mut line = String::new();
        let read = self.output.by_ref().take(SAID_MAX).read_line(&mut line);
        read.map(|_| line).map_err(|source| RightsError::Start { program: self.program.clone(), source })
    }

    /// Opens one of its namespaces.
    fn namespace(&self, kind: &str) -> Result<File, RightsError> {
        File::open(format!("/proc/{}/ns/{kind}", self.child.id())).map_err(RightsError::Namespace)
    }

    /// Tells it that its ids are mapped.
    fn go_on(&mut self) -> io::Result<()> {
        let mut input = self.child.stdin.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        input.write_all(b"\n")
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Our own child, not reaped yet.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the subcommand; `arguments` are those after its name.
pub fn run(mut arguments: impl Iterator<Item = OsString>) -> i32 {
    let say = |text: &str| io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
    let in_user_namespace = arguments.next().is_some_and(|argument| argument == USER);
    if in_user_namespace {
        let made = unshare(CloneFlags::CLONE_NEWUSER);
        let said = made.map_or_else(|error| say(&format!("{error}\n")), |()| say(MADE));
        // A byte tells that the ids are mapped.
        if made.is_err() || said.is_err() || io::stdin().read_exact(&mut [0]).is_err() {
            return 1;
        }
    }
    let tried = try_all();
    let told = tried.as_ref().map_or_else(|why| say(&format!("{why}\n")), |()| say(FINE));
    // Its namespaces are there until they are opened.
    let waited = io::stdin().read_to_end(&mut Vec::new());
    i32::from(tried.is_err() || told.is_err() || waited.is_err())
}

/// Does what making a jail takes.
fn try_all() -> Result<(), String> {
    let with = |step: &'static str| move |error: io::Error| format!("{step}: {error}");
    let namespaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(namespaces | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|error| with("making namespaces")(error.into()))?;
    jail::try_mounts().map_err(with("mounting (Linux 5.12 and later can do it)"))
}
