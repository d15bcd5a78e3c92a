//! Who asks a registry, and which way.

use std::path::PathBuf;

use sandpen_registry::{Credentials, Options, Proxies};

/// Who asks a registry, and which way: nobody in particular, and straight. Its debug output shows no secret.
#[derive(Debug, Clone, Default)]
pub struct RegistryAccess {
    /// Who asks.
    pub credentials: Option<Credentials>,
    /// Whether the registry's certificate is not looked at, and plain HTTP is spoken with one that has none.
    pub insecure: bool,
    /// Ways out of this network.
    pub proxies: Proxies,
}

impl RegistryAccess {
    /// What a client of the registry of this name is told, with directories of certificates.
    pub(super) fn options(&self, name: &str, certificates: Vec<PathBuf>) -> Options {
        let credentials = self.credentials.clone().map(|credentials| (name.to_owned(), credentials));
        Options {
            credentials: credentials.into_iter().collect(),
            insecure: self.insecure.then(|| name.to_owned()).into_iter().collect(),
            proxies: self.proxies.clone(),
            certificates,
            ..Options::default()
        }
    }
}
