//! Keeping credentials, and forgetting them: in a file of Podman's kind, which other tools read as well.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::file::{CredentialFile, TOKEN_USERNAME, of_json, read_text};
use super::{CredentialError, Places, helper, registry_of, shown};
use crate::auth::Credentials;

/// Keeps credentials for a registry or a namespace in it, in a file that its owner alone can read; what else is in the
/// file stays. Whether they are right is for the caller to try out before
/// ([`Registry::check`](crate::Registry::check)).
///
/// # Errors
/// [`CredentialError::Io`] and [`CredentialError::File`]; the file is unchanged then.
pub fn login(path: &Path, registry: &str, credentials: &Credentials) -> Result<(), CredentialError> {
    let entry = match credentials {
        Credentials::Password { username, password } => {
            check_username(username)?;
            json!({ "auth": STANDARD.encode(format!("{username}:{}", password.expose())) })
        }
        Credentials::IdentityToken(token) => json!({ "auth": "", "identitytoken": token.expose() }),
    };
    change(path, |content| {
        let auths = content.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        if let Some(auths) = auths.as_object_mut() {
            auths.retain(|key, _| registry_of(key) != registry);
            auths.insert(registry.to_owned(), entry);
        }
        true
    })
    .map(drop)
}

/// Looks at a name before anything is done with it.
///
/// # Errors
/// [`CredentialError::Username`].
pub fn check_username(username: &str) -> Result<(), CredentialError> {
    let is_fit = !username.is_empty() && !username.contains(|c: char| c == ':' || c.is_control());
    if is_fit { Ok(()) } else { Err(CredentialError::Username) }
}

/// Forgets the credentials for a registry that a file has; whether it had any.
///
/// # Errors
/// [`CredentialError::Io`] and [`CredentialError::File`]; the file is unchanged then.
pub fn logout(path: &Path, registry: &str) -> Result<bool, CredentialError> {
    if !path.exists() {
        return Ok(false);
    }
    change(path, |content| {
        let Some(auths) = content.get_mut("auths").and_then(Value::as_object_mut) else { return false };
        let before = auths.len();
        auths.retain(|key, _| registry_of(key) != registry);
        auths.len() < before
    })
}

/// Where credentials were put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In this file.
    File(PathBuf),
    /// By the program that a file names for them.
    Helper {
        /// Its name.
        program: String,
        /// The file.
        path: PathBuf,
    },
}

impl Places {
    /// The file that is written to.
    ///
    /// # Errors
    /// [`CredentialError::NoPlace`].
    pub fn own(&self) -> Result<&Path, CredentialError> {
        self.own.as_deref().ok_or(CredentialError::NoPlace)
    }

    /// Keeps a name and a password for a registry where they are looked for: in the file, or, as Podman does it, with the
    /// helper that the file names for the registry or for all.
    ///
    /// # Errors
    /// Those of [`login`], and [`CredentialError::Helper`].
    pub async fn log_in(&self, registry: &str, credentials: &Credentials) -> Result<Kept, CredentialError> {
        let own = self.own()?;
        if let Some(file) = CredentialFile::read(own)?
            && let Some((helper, key)) = file.keeper(registry, self.helper_timeout)
        {
            let (username, secret) = match credentials {
                Credentials::Password { username, password } => (username.as_str(), password),
                Credentials::IdentityToken(token) => (TOKEN_USERNAME, token),
            };
            check_username(username)?;
            helper::store(&helper, key, username, secret).await?;
            return Ok(Kept::Helper { program: helper.program(), path: own.to_owned() });
        }
        login(own, registry, credentials)?;
        Ok(Kept::File(own.to_owned()))
    }

    /// Forgets what the own file, or a helper that it names, keeps for a registry; who had any.
    ///
    /// # Errors
    /// Those of [`logout`], and [`CredentialError::Helper`].
    pub async fn log_out(&self, registry: &str) -> Result<Vec<Kept>, CredentialError> {
        let own = self.own()?;
        let mut had = Vec::new();
        if let Some(file) = CredentialFile::read(own)?
            && let Some((helper, key)) = file.keeper(registry, self.helper_timeout)
            && helper::erase(&helper, key).await?
        {
            had.push(Kept::Helper { program: helper.program(), path: own.to_owned() });
        }
        if logout(own, registry)? {
            had.push(Kept::File(own.to_owned()));
        }
        Ok(had)
    }

    /// The registries that the own file knows, and those that it names helpers for.
    ///
    /// # Errors
    /// [`CredentialError::Io`] and [`CredentialError::File`].
    pub fn known(&self) -> Result<BTreeSet<String>, CredentialError> {
        let Some(file) = CredentialFile::read(self.own()?)? else { return Ok(BTreeSet::new()) };
        Ok(file.known().map(str::to_owned).collect())
    }

    /// The first file that knows a registry, itself or by a helper, of those that are looked at before the own one.
    ///
    /// # Errors
    /// As [`Places::find`](super::Places::find).
    pub async fn before(&self, registry: &str) -> Result<Option<&Path>, CredentialError> {
        let is_other = |path: &&PathBuf| Some(*path) != self.own.as_ref();
        self.first_that_knows(registry, self.files.iter().take_while(is_other)).await
    }

    /// The same of all others.
    ///
    /// # Errors
    /// As [`Places::find`](super::Places::find).
    pub async fn elsewhere(&self, registry: &str) -> Result<Option<&Path>, CredentialError> {
        let is_other = |path: &&PathBuf| Some(*path) != self.own.as_ref();
        self.first_that_knows(registry, self.files.iter().filter(is_other)).await
    }

    async fn first_that_knows<'a>(
        &self,
        registry: &str,
        paths: impl Iterator<Item = &'a PathBuf>,
    ) -> Result<Option<&'a Path>, CredentialError> {
        for path in paths {
            if let Some(file) = CredentialFile::read(path)?
                && file.find(registry, "", self.helper_timeout).await?.is_some()
            {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

/// Writes a file anew, whole or not at all, if something changed in it.
fn change(path: &Path, edit: impl FnOnce(&mut Map<String, Value>) -> bool) -> Result<bool, CredentialError> {
    let failed = |source| CredentialError::Io { path: shown(path), source };
    // One that is a link to another place stays one.
    let path: PathBuf = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().ok_or(CredentialError::NoPlace)?;
    sandpen_cache::make_directory(directory).map_err(failed)?;
    // Of two who change it at once the second one sees what the first one wrote.
    let lock = File::open(directory).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let text = read_text(&path)?.filter(|text| !text.trim_ascii().is_empty());
    let content = text.map_or_else(|| Ok(Map::new()), |text| serde_json::from_slice(&text));
    let mut content = content.map_err(|error| of_json(&path, &error))?;
    if !edit(&mut content) {
        return Ok(false);
    }
    let mut text = serde_json::to_vec_pretty(&content).map_err(|error| of_json(&path, &error))?;
    text.push(b'\n');
    sandpen_cache::write(&path, 0o600, &text).map_err(failed)?;
    Ok(true)
}
