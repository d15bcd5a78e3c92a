//! Programs that keep credentials: `docker-credential-NAME get` reads a registry from its standard input and writes
//! `{"ServerURL", "Username", "Secret"}`.
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

/// Asks a helper; `None` where it does not know the registry. `path` is the file that names it.
pub(super) async fn get(
    name: &str,
    registry: &str,
    path: &Path,
    timeout: Duration,
) -> Result<Option<(String, Secret)>, CredentialError> {
    get_in(None, name, registry, path, timeout).await
}

/// The same of a helper in a directory, instead of those of `PATH`.
pub(super) async fn get_in(
    directory: Option<&Path>,
    name: &str,
    registry: &str,
    path: &Path,
    timeout: Duration,
) -> Result<Option<(String, Secret)>, CredentialError> {
    let program = format!("docker-credential-{name}");
    let failed = |problem| CredentialError::Helper {
        program: crate::error::shown(&program),
        registry: crate::error::shown(registry),
        path: shown(path),
        problem,
    };
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(is_fit) {
        return Err(failed(HelperProblem::Name));
    }
    let found = directory.map_or_else(|| PathBuf::from(&program), |directory| directory.join(&program));
    let asked = tokio::time::timeout(timeout, ask(&found, registry)).await;
    let (status, bytes) = asked.map_err(|_| failed(HelperProblem::Silent(timeout)))?.map_err(failed)?;
    if status.success() {
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| failed(HelperProblem::Answer))?;
        // Some answer with nothing instead of an error.
        let is_there = !answer.secret.is_empty();
        return Ok(is_there.then(|| (answer.username, Secret::new(answer.secret))));
    }
    if bytes.trim_ascii().starts_with(NOT_FOUND) {
        return Ok(None);
    }
    Err(failed(match (status.code(), status.signal()) {
        (Some(code), _) => HelperProblem::Exit(code),
        (None, signal) => HelperProblem::Signal(signal.unwrap_or_default()),
    }))
}

async fn ask(program: &Path, registry: &str) -> Result<(ExitStatus, Vec<u8>), HelperProblem> {
    let started = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = started.map_err(|error| HelperProblem::Start(of_start(&error)))?;
    // Behind `child`, so that it is dropped first.
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let bytes = talk(&mut child, registry).await?;
    let status = child.wait().await.map_err(|error| HelperProblem::Start(of_start(&error)))?;
    // What it left behind, the agent of a keychain say, is none of ours.
    group.0 = None;
    Ok((status, bytes))
}

async fn talk(child: &mut Child, registry: &str) -> Result<Vec<u8>, HelperProblem> {
    if let Some(mut input) = child.stdin.take() {
        // One that does not listen may know the answer all the same.
        let _ = input.write_all(registry.as_bytes()).await;
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
