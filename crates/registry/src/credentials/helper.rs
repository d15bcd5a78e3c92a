//! Programs that keep credentials: `docker-credential-NAME get` reads a registry from its standard input and writes
//! `{"ServerURL", "Username", "Secret"}`, `store` reads that, and `erase` reads a registry.
//!
//! One may hang, on a locked keychain say, write without an end, or have secrets in its errors: it has a time limit,
//! and a bound on what it writes; its process group is killed with it, and what it writes is shown to nobody.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::{CredentialError, HelperProblem, shown};
use crate::secret::Secret;

/// Most bytes of an answer.
const ANSWER_MAX: u64 = 64 << 10;
/// Most bytes of a helper's name.
const NAME_MAX: usize = 64;
/// What a helper says of a registry that it does not know (docker-credential-helpers, `credentials/error.go`).
const NOT_FOUND: &[u8] = b"credentials not found";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    secret: String,
}

/// A helper and what was started by it: dead when this is dropped, unless it has ended by itself.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        // The helper is not reaped yet, so that the number is its own.
        if let Some(group) = self.0.take() {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// A helper that a file names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Helper<'a> {
    /// Without `docker-credential-`.
    pub name: &'a str,
    /// Where it is, in the place of the directories of `PATH`.
    pub directory: Option<&'a Path>,
    /// The file that names it.
    pub path: &'a Path,
    /// How long it may take.
    pub timeout: Duration,
}

/// What a helper says.
enum Said {
    /// It did it, and wrote this.
    Done(Vec<u8>),
    /// It does not know the registry.
    NotFound,
}

impl Helper<'_> {
    /// What it is called.
    pub fn program(&self) -> String {
        format!("docker-credential-{}", self.name)
    }

    fn failed(&self, registry: &str, problem: HelperProblem) -> CredentialError {
        CredentialError::Helper {
            program: crate::error::shown(&self.program()),
            registry: crate::error::shown(registry),
            path: shown(self.path),
            problem,
        }
    }

    async fn ask(&self, verb: &str, registry: &str, input: &str) -> Result<Said, CredentialError> {
        let failed = |problem| self.failed(registry, problem);
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if self.name.is_empty() || self.name.len() > NAME_MAX || !self.name.bytes().all(is_fit) {
            return Err(failed(HelperProblem::Name));
        }
        let program = self.program();
        let found = self.directory.map_or_else(|| PathBuf::from(&program), |directory| directory.join(&program));
        let asked = tokio::time::timeout(self.timeout, run(&found, verb, input)).await;
        let (status, bytes) = asked.map_err(|_| failed(HelperProblem::Silent(self.timeout)))?.map_err(failed)?;
        if status.success() {
            return Ok(Said::Done(bytes));
        }
        if bytes.trim_ascii().starts_with(NOT_FOUND) {
            return Ok(Said::NotFound);
        }
        Err(failed(match (status.code(), status.signal()) {
            (Some(code), _) => HelperProblem::Exit(code),
            (None, signal) => HelperProblem::Signal(signal.unwrap_or_default()),
        }))
    }
}

/// Asks a helper; `None` where it does not know the registry.
pub(super) async fn get(helper: &Helper<'_>, registry: &str) -> Result<Option<(String, Secret)>, CredentialError> {
    let Said::Done(bytes) = helper.ask("get", registry, registry).await? else { return Ok(None) };
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| helper.failed(registry, HelperProblem::Answer))?;
    // Some answer with nothing instead of an error.
    let is_there = !answer.secret.is_empty();
    Ok(is_there.then(|| (answer.username, Secret::new(answer.secret))))
}

/// Has a helper keep credentials.
pub(super) async fn store(
    helper: &Helper<'_>,
    registry: &str,
    username: &str,
    secret: &Secret,
) -> Result<(), CredentialError> {
    let text = serde_json::json!({ "ServerURL": registry, "Username": username, "Secret": secret.expose() });
    match helper.ask("store", registry, &text.to_string()).await? {
        Said::Done(_) => Ok(()),
        Said::NotFound => Err(helper.failed(registry, HelperProblem::Answer)),
    }
}

/// Has a helper forget credentials; whether it had any.
pub(super) async fn erase(helper: &Helper<'_>, registry: &str) -> Result<bool, CredentialError> {
    // Some say nothing of what they had not.
    if get(helper, registry).await?.is_none() {
        return Ok(false);
    }
    Ok(matches!(helper.ask("erase", registry, registry).await?, Said::Done(_)))
}

async fn run(program: &Path, verb: &str, input: &str) -> Result<(ExitStatus, Vec<u8>), HelperProblem> {
    let started = Command::new(program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = started.map_err(|error| HelperProblem::Start(of_start(&error)))?;
    // Behind `child`, so that it is dropped first.
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let bytes = talk(&mut child, input).await?;
    let status = child.wait().await.map_err(|error| HelperProblem::Start(of_start(&error)))?;
    // What it left behind, the agent of a keychain say, is none of ours.
    group.0 = None;
    Ok((status, bytes))
}

async fn talk(child: &mut Child, text: &str) -> Result<Vec<u8>, HelperProblem> {
    if let Some(mut input) = child.stdin.take() {
        // One that does not listen may know the answer all the same.
        let _ = input.write_all(text.as_bytes()).await;
    }
    let mut bytes = Vec::new();
    if let Some(output) = child.stdout.take() {
        let read = output.take(ANSWER_MAX + 1).read_to_end(&mut bytes).await;
        read.map_err(|error| HelperProblem::Start(of_start(&error)))?;
    }
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > ANSWER_MAX {
        return Err(HelperProblem::Flood(ANSWER_MAX));
    }
    Ok(bytes)
}

fn of_start(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it is not installed".to_owned(),
        kind => kind.to_string(),
    }
}
