//! A file of credentials, Docker's or Podman's: the same but for the keys.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use sandpen_types::image::DEFAULT_REGISTRY;
use serde::Deserialize;

use super::helper::{self, Helper};
use super::{CredentialError, registry_of, shown};
use crate::auth::Credentials;
use crate::secret::Secret;

/// Most bytes of such a file.
const FILE_MAX: u64 = 1 << 20;
/// How Docker calls the default registry.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";
/// The name that says that the password is an identity token (docker-credential-helpers).
pub(super) const TOKEN_USERNAME: &str = "<token>";
/// Some tools write no padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A file of credentials.
pub(super) struct CredentialFile {
    path: PathBuf,
    content: Content,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Content {
    auths: BTreeMap<String, Option<Entry>>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl CredentialFile {
    /// `None` where it is not there.
    pub fn read(path: &Path) -> Result<Option<Self>, CredentialError> {
        let Some(text) = read_text(path)? else { return Ok(None) };
        let content = if text.trim_ascii().is_empty() { Ok(Content::default()) } else { serde_json::from_slice(&text) };
        let content = content.map_err(|error| of_json(path, &error))?;
        Ok(Some(Self { path: path.to_owned(), content }))
    }

    /// What it knows of a registry: of the longest namespace first.
    pub async fn find(
        &self,
        registry: &str,
        repository: &str,
        timeout: Duration,
    ) -> Result<Option<Credentials>, CredentialError> {
        let full = if repository.is_empty() { registry.to_owned() } else { format!("{registry}/{repository}") };
        let wanted = std::iter::successors(Some(full.as_str()), |key| key.rsplit_once('/').map(|(above, _)| above));
        for wanted in wanted {
            if let Some((helper, key)) = self.named_helper(wanted, timeout)
                && let Some(found) = helper::get(&helper, key).await?
            {
                return Ok(Some(credentials(found)));
            }
            if let Some((helper, key)) = self.helper_for_all(wanted, timeout).filter(|_| wanted == registry)
                && let Some(found) = helper::get(&helper, key).await?
            {
                return Ok(Some(credentials(found)));
            }
            if let Some(found) = self.entry(wanted)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The helper that is named for a registry, and as what it knows that.
    fn named_helper(&self, wanted: &str, timeout: Duration) -> Option<(Helper<'_>, &str)> {
        let (key, name) = self.content.cred_helpers.iter().find(|(key, _)| registry_of(key) == wanted)?;
        Some((Helper { name, directory: None, path: &self.path, timeout }, key))
    }

    /// The helper for all registries, and as what it knows one.
    fn helper_for_all<'a>(&'a self, wanted: &'a str, timeout: Duration) -> Option<(Helper<'a>, &'a str)> {
        let name = self.content.creds_store.as_deref().filter(|name| !name.is_empty())?;
        let key = if wanted == DEFAULT_REGISTRY { DOCKER_KEY } else { wanted };
        Some((Helper { name, directory: None, path: &self.path, timeout }, key))
    }

    /// The helper that keeps the credentials for a registry, if it is not the file.
    pub fn keeper<'a>(&'a self, wanted: &'a str, timeout: Duration) -> Option<(Helper<'a>, &'a str)> {
        self.named_helper(wanted, timeout).or_else(|| self.helper_for_all(wanted, timeout))
    }

    /// The registries, and namespaces, that it has entries or helpers for.
    pub fn known(&self) -> impl Iterator<Item = &str> {
        self.content.auths.keys().chain(self.content.cred_helpers.keys()).map(|key| registry_of(key))
    }

    fn entry(&self, wanted: &str) -> Result<Option<Credentials>, CredentialError> {
        // As it is called first, then by other names of the same.
        let exact = self.content.auths.get(wanted);
        let others = self.content.auths.iter().filter(|(key, _)| registry_of(key) == wanted).map(|(_, entry)| entry);
        for entry in exact.into_iter().chain(others).flatten() {
            if let Some(found) = entry.credentials(&self.path, wanted)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

impl Entry {
    /// `None` where it is empty: a helper has them, or nobody.
    fn credentials(&self, path: &Path, registry: &str) -> Result<Option<Credentials>, CredentialError> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = set(&self.identitytoken) {
            return Ok(Some(Credentials::IdentityToken(Secret::new(token))));
        }
        if let Some(auth) = set(&self.auth) {
            let refused = || CredentialError::Entry { path: shown(path), registry: registry.to_owned() };
            let decoded = BASE64.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let decoded = decoded.ok_or_else(refused)?;
            let (username, password) = decoded.split_once(':').ok_or_else(refused)?;
            // Docker once ended passwords with a zero byte.
            let found = (username.to_owned(), Secret::new(password.trim_end_matches('\0')));
            return Ok(Some(credentials(found)));
        }
        let (Some(username), Some(password)) = (set(&self.username), set(&self.password)) else { return Ok(None) };
        Ok(Some(credentials((username, Secret::new(password)))))
    }
}

fn credentials((username, password): (String, Secret)) -> Credentials {
    match username.as_str() {
        TOKEN_USERNAME => Credentials::IdentityToken(password),
        _ => Credentials::Password { username, password },
    }
}

/// The bytes of such a file; `None` where it is not there.
pub(super) fn read_text(path: &Path) -> Result<Option<Vec<u8>>, CredentialError> {
    let failed = |source| CredentialError::Io { path: shown(path), source };
    let file = match File::open(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        file => file.map_err(failed)?,
    };
    let mut text = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_MAX {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(Some(text))
}

/// Where a file is wrong. The parser's own words may quote it.
pub(super) fn of_json(path: &Path, error: &serde_json::Error) -> CredentialError {
    CredentialError::File { path: shown(path), line: error.line(), column: error.column() }
}
