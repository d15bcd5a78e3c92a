//! From a [`RunSession`] to its process: what the workload was started with, and what the session changes of it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sandpen_guest::protocol::session::{RunSession, SessionProgram, Tool};
use sandpen_guest::protocol::{Bytes, Start, StartFailure};

use super::processes;
use crate::launch::{Launched, Streams, Whose, launch, not_executable};
use crate::probe::Surroundings;
use crate::process::{Own, spawn, spawn_own};
use crate::tools;
use crate::users::{self, User};
use crate::workload;

/// The login shell of whom no other one is named for.
const DEFAULT_SHELL: &CStr = c"/bin/sh";
/// The name of whom the root has no name for, where that is its owner.
const ROOT: &str = "root";

/// Executes what the session runs.
pub fn start(around: &Surroundings, session: RunSession, null: &OwnedFd) -> Result<Launched, StartFailure> {
    let streams = Streams { of: Whose::Command, terminal: session.terminal, stdin: session.stdin };
    let command = match session.program {
        SessionProgram::Processes => {
            return start_own(streams, None, null, None, |_| processes::list());
        }
        SessionProgram::Tool(tool) => {
            let user = session.user.as_deref().map(users::find).transpose();
            let user = user.map_err(|error| not_executable(error.to_string()))?;
            let upper = if tool == Tool::Changes { around.upper.as_ref() } else { None };
            return start_own(streams, user.as_ref(), null, upper.map(AsFd::as_fd), move |kept| {
                tools::run(&tool, kept)
            });
        }
        SessionProgram::Command(command) => Some(command),
        SessionProgram::Shell => None,
    };
    let user = match &session.user {
        Some(user) => Some(users::find(user).map_err(|error| not_executable(error.to_string()))?),
        None => around.user.clone(),
    };
    let shell = command.is_none().then(|| Shell::of(user.as_ref()));
    let mut env = merged(&around.start.env, session.env);
    if let Some(shell) = &shell {
        shell.complete(&mut env);
    }
    let start = Start {
        command: command.unwrap_or_else(|| shell.iter().map(|shell| Bytes::from(shell.path.as_bytes())).collect()),
        env,
        workdir: session.workdir.or_else(|| around.start.workdir.clone()),
        terminal: session.terminal,
        stdin: session.stdin,
        rlimits: around.start.rlimits.clone(),
        ..bare(&around.start)
    };
    let mut program = workload::program(&start, user)?;
    if let Some(shell) = shell {
        program.args = vec![shell.login_name()];
    }
    launch(streams, program.user.as_ref(), null, |stdio| {
        spawn(&program, stdio).map_err(|error| workload::explain(&error, &start, &program, Whose::Command))
    })
}

/// Runs a piece of this program.
fn start_own(
    streams: Streams,
    user: Option<&User>,
    null: &OwnedFd,
    keep: Option<BorrowedFd<'_>>,
    run: impl FnOnce(Option<OwnedFd>) -> u8,
) -> Result<Launched, StartFailure> {
    launch(streams, user, null, |stdio| {
        let controls_terminal = streams.terminal.is_some();
        let own = Own { user, controls_terminal, prepare: || {}, keep, run: Box::new(run) };
        spawn_own(own, stdio).map_err(|error| workload::explain_own(&error, Whose::Command))
    })
}

/// What a session does not ask for, without what may be large.
fn bare(start: &Start) -> Start {
    Start {
        command: Vec::new(),
        env: Vec::new(),
        workdir: None,
        hostname: String::new(),
        stdin: false,
        rootfs: start.rootfs.clone(),
        wall_clock: start.wall_clock,
        entropy: Default::default(),
        power_off: start.power_off,
        terminal: None,
        volumes: Vec::new(),
        rlimits: Vec::new(),
        network: start.network.clone(),
        resolv_conf: None,
    }
}

/// Both environments; of several of one name the last one.
fn merged(workload: &[(Bytes, Bytes)], session: Vec<(Bytes, Bytes)>) -> Vec<(Bytes, Bytes)> {
    let mut env: Vec<_> = workload.iter().cloned().chain(session).collect();
    // There may be some hundred thousand of them.
    let mut places: Vec<_> = (0..env.len()).collect();
    places.sort_unstable_by(|a, b| env[*a].0.cmp(&env[*b].0).then(a.cmp(b)));
    let mut is_last = vec![true; env.len()];
    for pair in places.windows(2) {
        is_last[pair[0]] = env[pair[0]].0 != env[pair[1]].0;
    }
    let mut is_last = is_last.into_iter();
    env.retain(|_| is_last.next().unwrap_or(true));
    env
}

/// A login shell.
#[derive(Debug)]
struct Shell {
    path: CString,
    user: String,
    home: Option<CString>,
}

impl Shell {
    /// That of a process's user, `None` for root.
    fn of(user: Option<&User>) -> Self {
        let root = if user.is_none() { users::with_number(0) } else { None };
        let account = user.or(root.as_ref());
        let number = account.map_or(0, |account| account.uid);
        let unnamed = || if number == 0 { ROOT.to_owned() } else { number.to_string() };
        Self {
            path: account.and_then(|account| account.shell.clone()).unwrap_or_else(|| DEFAULT_SHELL.to_owned()),
            user: account.and_then(|account| account.name.clone()).unwrap_or_else(unnamed),
            home: account.map(|account| account.home.clone()),
        }
    }

    /// As login(1) has it: a shell of such a name reads the profile.
    fn login_name(&self) -> CString {
        let name = self.path.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        CString::new([b"-", name].concat()).unwrap_or_default()
    }

    /// Adds what a login sets, where it is not set.
    fn complete(&self, env: &mut Vec<(Bytes, Bytes)>) {
        let user = Some(self.user.as_bytes());
        let home = self.home.as_deref().map(CStr::to_bytes);
        let wanted = [("HOME", home), ("USER", user), ("LOGNAME", user), ("SHELL", Some(self.path.as_bytes()))];
        for (name, value) in wanted {
            if let Some(value) = value
                && !env.iter().any(|(known, _)| known.as_slice() == name.as_bytes())
            {
                env.push((Bytes::from(name.as_bytes()), Bytes::from(value)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(text: &str) -> Vec<(Bytes, Bytes)> {
        let variable = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap();
            (Bytes::from(name.as_bytes()), Bytes::from(value.as_bytes()))
        };
        text.split_whitespace().map(variable).collect()
    }

    #[test]
    fn what_is_said_later_counts() {
        assert_eq!(merged(&env("A=1 B=2 A=3 C=4"), env("B=5 D=6 D=7")), env("A=3 C=4 B=5 D=7"));
        assert_eq!(merged(&[], vec![]), []);
    }

    #[test]
    fn a_login_shell_has_its_name_and_what_a_login_sets() {
        let user = User {
            uid: 33,
            gid: 33,
            groups: vec![],
            home: c"/var/www".to_owned(),
            name: Some("web".into()),
            shell: Some(c"/usr/bin/bash".to_owned()),
        };
        let shell = Shell::of(Some(&user));
        assert_eq!(shell.login_name().as_c_str(), c"-bash");
        let mut given = env("USER=other A=1");
        shell.complete(&mut given);
        assert_eq!(given, env("USER=other A=1 HOME=/var/www LOGNAME=web SHELL=/usr/bin/bash"));
        let nobody = User { uid: 5, name: None, shell: None, ..user };
        let shell = Shell::of(Some(&nobody));
        assert_eq!((shell.login_name().as_c_str(), shell.user.as_str()), (c"-sh", "5"));
    }
}
