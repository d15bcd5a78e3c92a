//! What a registry was sent.

use std::fs;

use crate::pull::Place;

/// Requests that a registry was sent, by method and the kind of what they are about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    pub uploads: usize,
    pub pieces: usize,
    pub mounts: usize,
    pub manifests: usize,
}

impl Place {
    /// What was sent until now.
    pub fn sent(&self) -> Sent {
        let log = fs::read_to_string(self.home.path().join("registry.log")).unwrap();
        let count = |what: &str| log.lines().filter(|line| line.contains("\" 20") && line.contains(what)).count();
        let mounts = log.lines().filter(|line| line.contains("\" 201 ") && line.contains("?mount=")).count();
        Sent {
            uploads: count("\"POST /v2/") - mounts,
            pieces: count("\"PATCH /v2/"),
            mounts,
            manifests: log.lines().filter(|line| line.contains("\"PUT ") && line.contains("/manifests/")).count(),
        }
    }
}
