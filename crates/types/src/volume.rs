//! Directories that outlive their sandboxes.

use crate::spec::{SandboxKey, VolumeName};

/// A directory that outlives its sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedVolume {
    /// Its name.
    pub name: VolumeName,
    /// All sandboxes that have it, live ones and others, by their names.
    pub used_by: Vec<SandboxKey>,
}
