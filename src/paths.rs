//! Where things lie by default, following the XDG base directory specification.

use std::path::{Path, PathBuf};

use directories::BaseDirs;
use sandpen_actors::state_dir::StateDir;
use sha2::{Digest as _, Sha256};

/// `$XDG_STATE_HOME/sandpen`, else `~/.local/state/sandpen`, else `/var/lib/sandpen` for a user
/// without a home.
pub fn default_state_dir() -> PathBuf {
    base(BaseDirs::state_dir, "/var/lib")
}

/// Where kernels are installed: `$XDG_DATA_HOME/sandpen`, else `~/.local/share/sandpen`, else
/// `/usr/local/share/sandpen`.
pub fn default_data_dir() -> PathBuf {
    base(|dirs| Some(dirs.data_dir()), "/usr/local/share")
}

fn base(of: impl Fn(&BaseDirs) -> Option<&Path>, otherwise: &str) -> PathBuf {
    let dirs = BaseDirs::new();
    let base = dirs.as_ref().and_then(of).unwrap_or_else(|| Path::new(otherwise));
    base.join("sandpen")
}

/// A short tag of a state directory for the argv of its processes: who looks at the process list
/// sees which belong together, and not where the directory is.
pub fn state_id(state_dir: &StateDir) -> String {
    let digest = Sha256::digest(state_dir.path().as_os_str().as_encoded_bytes());
    sandpen_cache::hex(&digest[..6])
}
