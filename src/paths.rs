//! Where things lie by default, following the XDG base directory specification.

use std::path::{Path, PathBuf};

use directories::BaseDirs;
use sandpen_types::state_dir::StateDir;
use sha2::{Digest as _, Sha256};

pub use sandpen_kernels::default_data_dir;

/// `$XDG_STATE_HOME/sandpen`, else `~/.local/state/sandpen`, else `/var/lib/sandpen` for a user
/// without a home.
pub fn default_state_dir() -> PathBuf {
    let dirs = BaseDirs::new();
    let base = dirs.as_ref().and_then(BaseDirs::state_dir).unwrap_or_else(|| Path::new("/var/lib"));
    base.join("sandpen")
}

/// Directories of certificates of registries, `HOST[:PORT]/*.crt`. The last one is the user's own.
pub fn certificates(data_dir: &Path) -> Vec<PathBuf> {
    vec!["/etc/docker/certs.d".into(), "/etc/containers/certs.d".into(), data_dir.join("certs.d")]
}

/// A short tag of a state directory for the argv of its processes: who looks at the process list
/// sees which belong together, and not where the directory is.
pub fn state_id(state_dir: &StateDir) -> String {
    let digest = Sha256::digest(state_dir.path().as_os_str().as_encoded_bytes());
    sandpen_cache::hex(&digest[..6])
}
