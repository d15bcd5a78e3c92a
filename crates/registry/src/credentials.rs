//! Credentials as other tools keep them: whoever asks a registry for something has them, and hands them over.
//!
//! ```text
//!   places ─▶ file ─▶ its helper for the registry ─▶ its helper for all ─▶ its own entries
//!     (the next file where there is none)             for registry/owner/name, registry/owner, registry
//! ```
//!
//! Sources: Docker's `config.json` (docker/cli, `cli/config`), Podman's `auth.json` (containers-auth.json(5)), and
//! `docker-credential-helpers`.

mod file;
mod helper;
mod login;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandpen_types::image::{ImageReference, registry_at};

use crate::auth::Credentials;
use file::CredentialFile;
pub use login::{Kept, check_username, login, logout};

/// How long a helper may take.
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where credentials are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Files, the first one that knows a registry counts.
    pub files: Vec<PathBuf>,
    /// The one of them that [`login`] writes to, if there is any place for it.
    pub own: Option<PathBuf>,
    /// How long a helper may take.
    pub helper_timeout: Duration,
}

/// Credentials that cannot be had, or kept.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read or written.
    #[error("the credentials in {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is no such file. Its text is not shown: there are passwords in it.
    #[error("the credentials in {path} cannot be read: line {line}, column {column} is not what is expected there")]
    File {
        /// The file.
        path: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// An entry that is not of a name and a password.
    #[error("the credentials in {path} for {registry} cannot be read: they are not NAME:PASSWORD in base64")]
    Entry {
        /// The file.
        path: String,
        /// Whose.
        registry: String,
    },
    /// A helper that fails.
    #[error("the program {program}, which keeps the credentials for {registry} ({path} says so), {problem}")]
    Helper {
        /// Its name.
        program: String,
        /// Whose credentials it was asked for.
        registry: String,
        /// The file that names it.
        path: String,
        /// What it did.
        problem: HelperProblem,
    },
    /// There is no place for them.
    #[error("there is no place to keep credentials: neither REGISTRY_AUTH_FILE nor a home directory is set")]
    NoPlace,
    /// Something that could not be kept.
    #[error("the name of who logs in is not empty, and has no colon and no control character in it")]
    Username,
}

/// What a helper did. What it wrote is not told: it may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelperProblem {
    /// It is not there, or is not started.
    #[error("cannot be started: {0}")]
    Start(String),
    /// It ended with an error.
    #[error("ended with exit code {0}; run it by hand to see why")]
    Exit(i32),
    /// It was killed by a signal.
    #[error("was killed by signal {0}")]
    Signal(i32),
    /// It took too long.
    #[error("has not answered for {} s and was killed", .0.as_secs_f64())]
    Silent(Duration),
    /// It wrote too much.
    #[error("wrote more than {0} bytes and was killed")]
    Flood(u64),
    /// It wrote something else.
    #[error("answered with something other than credentials")]
    Answer,
    /// A name that is none of a program.
    #[error("has a name that no such program has")]
    Name,
}

impl Places {
    /// As a person's environment says. `variable` looks one up; an empty one is none.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = path("HOME");
        let config_home = path("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let kept = config_home.map(|directory| directory.join("containers/auth.json"));
        let docker = path("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
        let docker = docker.map(|directory| directory.join("config.json"));
        let (files, own) = if let Some(only) = path("REGISTRY_AUTH_FILE") {
            (vec![only.clone()], Some(only))
        } else {
            let runtime = path("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json"));
            ([runtime, kept.clone(), docker].into_iter().flatten().collect(), kept)
        };
        Self { files, own, helper_timeout: HELPER_TIMEOUT }
    }

    /// The credentials for a reference, if there are any.
    ///
    /// # Errors
    /// A file or a helper that fails, rather than going on without: a registry would only say that it does not allow
    /// it.
    pub async fn find(&self, reference: &ImageReference) -> Result<Option<Credentials>, CredentialError> {
        self.find_for(reference.registry(), reference.repository()).await
    }

    /// The same for a registry alone.
    pub async fn find_for_registry(&self, registry: &str) -> Result<Option<Credentials>, CredentialError> {
        self.find_for(registry, "").await
    }

    /// The same for a mirror with what stands before its names.
    ///
    /// # Errors
    /// As [`Places::find`].
    pub async fn find_at(&self, host: &str, prefix: &str) -> Result<Option<Credentials>, CredentialError> {
        self.find_for(host, prefix).await
    }

    async fn find_for(&self, registry: &str, repository: &str) -> Result<Option<Credentials>, CredentialError> {
        for path in &self.files {
            let Some(file) = CredentialFile::read(path)? else { continue };
            if let Some(found) = file.find(registry, repository, self.helper_timeout).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// The registry, or the namespace, that a key of a file is for. Docker writes some with a scheme and a path of the
/// protocol's first version.
fn registry_of(key: &str) -> &str {
    let (bare, has_scheme) = match key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")) {
        Some(bare) => (bare, true),
        None => (key, false),
    };
    let bare = bare.trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    registry_at(if has_scheme || matches!(path, "v1" | "v2") { host } else { bare })
}

/// As a message has a path.
fn shown(path: &Path) -> String {
    crate::error::shown(&path.to_string_lossy())
}
