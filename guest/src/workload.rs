//! From a [`Start`] message to a running process: where the program is looked up, what its
//! environment is, and what a user is told when it cannot be executed.

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use sandpen_guest::protocol::{Rlimit, Settings, Start, StartFailure, StartFailureCode};

use crate::launch::{Launched, Streams, Whose, launch, not_executable};
use crate::log::log;
pub use crate::process::Program;
use crate::process::{self, SpawnError, Step, spawn, spawn_own};
use crate::users::{self, User};

/// The workload's `PATH` where its environment names none.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The workload's `TERM` where it has a terminal and its environment names none.
const DEFAULT_TERM: &str = "xterm";
/// The workload's `HOME` where its environment names none.
const DEFAULT_HOME: &str = "/root";

/// Names of limits by their number in asm-generic/resource.h, for messages.
const RLIMIT_NAMES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// Executes the workload; `null` is an open `/dev/null` (the root may have none).
pub fn start(start: &Start, user: Option<User>, null: &OwnedFd) -> Result<Launched, StartFailure> {
    let program = program(start, user)?;
    let streams = Streams { of: Whose::Workload, terminal: start.terminal, stdin: start.stdin };
    launch(streams, program.user.as_ref(), null, |stdio| {
        spawn(&program, stdio).map_err(|error| explain(&error, start, &program, Whose::Workload))
    })
}

/// What stands for the workload where there is none.
pub fn idle(start: &Start, user: Option<&User>, null: &OwnedFd) -> Result<Launched, StartFailure> {
    let streams = Streams { of: Whose::Workload, terminal: start.terminal, stdin: start.stdin };
    launch(streams, user, null, |stdio| {
        spawn_own(process::idle(user, start.terminal.is_some()), stdio)
            .map_err(|error| explain_own(&error, Whose::Workload))
    })
}

/// Makes the working directory where it is missing. What is in the way is told when the workload changes into it.
pub fn make_workdir(start: &Start) {
    let Some(workdir) = start.workdir.as_ref().map(|dir| Path::new(std::ffi::OsStr::from_bytes(dir))) else { return };
    if let Err(error) = fs::create_dir_all(workdir) {
        log!("making the working directory {}: {error}", workdir.display());
    }
}

/// Opens `/dev/null` for workloads without standard input.
pub fn open_null() -> Result<OwnedFd, Errno> {
    open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
}

/// Whom the workload runs as, found once: what it does to the files that say so later changes nothing for what runs beside it.
pub fn user(settings: &Settings) -> Result<Option<User>, StartFailure> {
    settings.user.as_deref().map(users::find).transpose().map_err(|error| not_executable(error.to_string()))
}

/// What is executed for `start`.
pub fn program(start: &Start, user: Option<User>) -> Result<Program, StartFailure> {
    let text = |bytes: Vec<u8>| {
        CString::new(bytes).map_err(|_| not_executable("a NUL byte in command, environment or workdir".to_owned()))
    };
    let name = match start.command.first() {
        Some(name) if !name.is_empty() => name.as_slice(),
        _ => return Err(not_executable("the command is empty".to_owned())),
    };
    let mut env = Vec::with_capacity(start.env.len() + 3);
    for (name, value) in &start.env {
        env.push(text([name.as_slice(), b"=", value].concat())?);
    }
    let value_of = |wanted: &str| start.env.iter().rev().find(|(name, _)| name.as_slice() == wanted.as_bytes());
    let home = user.as_ref().map_or(DEFAULT_HOME.as_bytes(), |user| user.home.as_bytes());
    let defaults = [("PATH", DEFAULT_PATH.as_bytes(), true), ("HOME", home, true)];
    let term = ("TERM", DEFAULT_TERM.as_bytes(), start.terminal.is_some());
    for (name, value, applies) in defaults.into_iter().chain([term]) {
        if applies && value_of(name).is_none() {
            env.push(text([name.as_bytes(), b"=", value].concat())?);
        }
    }
    let path = value_of("PATH").map_or(DEFAULT_PATH.as_bytes(), |(_, value)| value.as_slice());
    Ok(Program {
        candidates: candidates(name, path).into_iter().map(text).collect::<Result<_, _>>()?,
        args: start.command.iter().map(|arg| text(arg.to_vec())).collect::<Result<_, _>>()?,
        env,
        workdir: text(start.workdir.as_ref().map_or_else(|| b"/".to_vec(), |dir| dir.to_vec()))?,
        controls_terminal: start.terminal.is_some(),
        rlimits: start.rlimits.clone(),
        user,
    })
}

/// The paths that `execvp` would try: the name itself if it has a slash, else in each directory of
/// `path`, where an empty one is the working directory.
fn candidates(name: &[u8], path: &[u8]) -> Vec<Vec<u8>> {
    if name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    path.split(|byte| *byte == b':')
        .map(|dir| match dir {
            [] => [b"./", name].concat(),
            dir => [dir, b"/", name].concat(),
        })
        .collect()
}

/// The shell's code and words for users.
pub fn explain(error: &SpawnError, start: &Start, program: &Program, whose: Whose) -> StartFailure {
    let name = start.command.first().map(|name| String::from_utf8_lossy(name)).unwrap_or_default();
    let (step, errno, limit) = match error {
        SpawnError::Fork(_) | SpawnError::Stuck => return explain_own(error, whose),
        SpawnError::Child { step, errno, limit } => (*step, *errno, usize::from(*limit)),
    };
    match (step, errno) {
        (Step::Limits, errno) => not_executable(match program.rlimits.get(limit) {
            Some(limit) => explain_limit(limit, errno),
            None => format!("setting the limits of the {whose}: {}", errno.desc()),
        }),
        (Step::Setup | Step::User, _) => explain_own(error, whose),
        (Step::Workdir, Errno::ENOENT) => not_executable(format!(
            "the working directory {} does not exist in the rootfs{}",
            program.workdir.to_string_lossy(),
            if whose == Whose::Workload { " and could not be made" } else { "" }
        )),
        (Step::Workdir, errno) => not_executable(format!(
            "changing into the working directory {}: {}",
            program.workdir.to_string_lossy(),
            errno.desc()
        )),
        (Step::Exec, Errno::ENOENT | Errno::ENOTDIR) => {
            let message = match existing(program) {
                Some(path) => format!(
                    "{path}: exists, but the interpreter or dynamic loader that it names does not exist in the rootfs"
                ),
                None if name.contains('/') => format!("{name}: no such file in the rootfs"),
                None => format!("{name}: not found in the {whose}'s PATH"),
            };
            StartFailure::new(StartFailureCode::NotFound, message)
        }
        (Step::Exec, Errno::EACCES) => {
            let path = existing(program).unwrap_or_else(|| name.into_owned());
            let is_dir = Path::new(&path).is_dir();
            let why = if is_dir { "is a directory" } else { "permission denied: is it executable (chmod +x)?" };
            not_executable(format!("{path}: {why}"))
        }
        (Step::Exec, Errno::ENOEXEC) => {
            let path = existing(program).unwrap_or_else(|| name.into_owned());
            not_executable(format!(
                "{path}: not a program for this machine: another architecture, or a script without a #! line"
            ))
        }
        (Step::Exec, Errno::E2BIG) => not_executable(format!("{name}: arguments and environment are too large")),
        (Step::Exec, errno) => not_executable(format!("{name}: {}", errno.desc())),
    }
}

/// The same of a process that executes nothing.
pub fn explain_own(error: &SpawnError, whose: Whose) -> StartFailure {
    not_executable(match error {
        SpawnError::Fork(source) => format!("{error}: {source}"),
        SpawnError::Stuck => error.to_string(),
        SpawnError::Child { step: Step::User, errno, .. } => {
            format!("becoming the user of the {whose}: {}", errno.desc())
        }
        SpawnError::Child { errno, .. } => format!("setting up the {whose}'s process: {}", errno.desc()),
    })
}

fn explain_limit(limit: &Rlimit, errno: Errno) -> String {
    let name = RLIMIT_NAMES.get(limit.resource as usize).copied().unwrap_or("?");
    // Raised as far as it goes before; the file says how far that was.
    let most = fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    match (name, errno) {
        ("nofile", Errno::EPERM) if !most.is_empty() => format!(
            "the limit nofile of {} is more than the {} open files that this kernel allows (fs.nr_open)",
            limit.hard,
            most.trim()
        ),
        _ => format!("setting the limit {name}: {}", errno.desc()),
    }
}

/// The first candidate that exists, seen from the workload's working directory.
fn existing(program: &Program) -> Option<String> {
    let workdir = Path::new(std::ffi::OsStr::from_bytes(program.workdir.as_bytes()));
    program
        .candidates
        .iter()
        .map(|path| workdir.join(std::ffi::OsStr::from_bytes(path.as_bytes())))
        .find(|path| path.exists())
        .map(|path| path.to_string_lossy().into_owned())
}
