//! Volumes with names of their own.

use std::path::PathBuf;

use sandpen_types::spec::VolumeName;
use sandpen_types::state_dir::StateDir;
use sandpen_types::volume::NamedVolume;
use serde::{Deserialize, Serialize};

/// A volume with a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeEntry {
    /// Its name.
    pub name: VolumeName,
    /// Its directory on the host.
    pub path: PathBuf,
    /// The sandboxes that have it, live ones and others, as CONFIG/NAME.
    pub used_by: Vec<String>,
}

impl VolumeEntry {
    /// The view of one in a state directory.
    pub fn new(NamedVolume { name, used_by }: NamedVolume, dir: &StateDir) -> Self {
        let path = dir.named_volume(&name);
        Self { name, path, used_by: used_by.iter().map(ToString::to_string).collect() }
    }
}
