//! Keeping credentials, and forgetting them: in a file of Podman's kind, which other tools read as well.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::file::{of_json, read_text};
use super::{CredentialError, registry_of, shown};
use crate::auth::Credentials;

/// Keeps credentials for a registry or a namespace in it, in a file that its owner alone can read; what else is in the
/// file stays. Whether they are right is for the caller to try out before
/// ([`Registry::check`](crate::Registry::check)).
///
/// # Errors
/// [`CredentialError::Io`] and [`CredentialError::File`]; the file is unchanged then.
pub fn login(path: &Path, registry: &str, credentials: &Credentials) -> Result<(), CredentialError> {
    let entry = match credentials {
        Credentials::Password { username, .. } if username.contains([':', '\n']) => {
            return Err(CredentialError::Username);
        }
        Credentials::Password { username, password } => {
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
