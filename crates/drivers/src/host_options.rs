//! What a user says of all drivers together.

use std::path::PathBuf;

use crate::confine::rights::is_initial_root;

/// How the drivers of this host are to be; each has a default.
#[derive(Debug, Default, Clone)]
pub struct HostOptions {
    /// The libkrunfw to use; `None` for the one that is found.
    pub krunfw: Option<PathBuf>,
    /// Whether microVMs are started only where their processes can be confined; see
    /// [`HostOptions::demands_confinement`].
    pub require_confinement: Option<bool>,
    /// The budget of the cache in bytes; `None` for the [usual one](crate::cache::default_budget).
    pub cache: Option<u64>,
}

impl HostOptions {
    /// Whether a microVM is not started unless its processes are in jails and have lists of system calls: what was
    /// said, else whether this is the host's root.
    #[must_use]
    pub fn demands_confinement(&self) -> bool {
        self.require_confinement.unwrap_or_else(is_initial_root)
    }
}
