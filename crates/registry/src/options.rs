//! What a client of registries is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use crate::auth::Credentials;
use crate::proxies::Proxies;

/// What a client of registries is told by whoever asks for something.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// By registry or mirror as references name it (`docker.io`, `localhost:5000`), or by a namespace in it
    /// (`ghcr.io/owner`): the longest that fits counts.
    pub credentials: BTreeMap<String, Credentials>,
    /// Registries whose certificate is not looked at, and with which plain HTTP is spoken if they have no TLS.
    pub insecure: BTreeSet<String>,
    /// Where to look first, by registry: `HOST[:PORT][/PREFIX]`, tried in order. The registry itself comes last.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Ways out of this network.
    pub proxies: Proxies,
    /// Directories with one directory a registry in them, `HOST[:PORT]/{*.crt,*.cert,*.key}` (`certs.d`).
    pub certificates: Vec<PathBuf>,
    /// How long anything may take.
    pub times: Times,
}

/// How long anything may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// For a connection, its TLS included.
    pub connect: Duration,
    /// Between two signs of life.
    pub idle: Duration,
    /// Before the second try; each pause after it is twice as long.
    pub backoff: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { connect: Duration::from_secs(15), idle: Duration::from_secs(30), backoff: Duration::from_millis(500) }
    }
}
