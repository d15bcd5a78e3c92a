//! The key by which a client knows this server again: of a state directory, made when it is first asked for.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::wire::Writer;

/// Its kind.
pub(crate) const KIND: &str = "ssh-ed25519";
/// Most bytes of a file with one.
const FILE_MAX: u64 = 4 << 10;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// Its file cannot be read or written.
    #[error("the host key {path:?} cannot be used")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{path:?} holds no host key of sandpen's; remove it, and a new one is made")]
    Content {
        /// Which.
        path: PathBuf,
    },
    /// Somebody else might know it.
    #[error("{path:?} can be read by others (mode {mode:04o}); remove it, and a new one is made")]
    Shown {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// No random bytes.
    #[error("no host key can be made: the system gives no random bytes")]
    Random,
}

/// A key.
pub struct HostKey(Ed25519KeyPair);

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HostKey").field(&self.known()).finish()
    }
}

impl HostKey {
    /// That of a file, which is made whole or not at all where it is not there. Blocks for as long as a disk does.
    ///
    /// # Errors
    /// [`HostKeyError`].
    pub fn of_file(path: &Path) -> Result<Self, HostKeyError> {
        let failed = |source| HostKeyError::File { path: path.to_owned(), source };
        match File::open(path) {
            Ok(file) => return Self::read(path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| HostKeyError::Random)?;
        // Several may make one at once: the first one's is that of all. Drafts are for nobody else (0600), too.
        let made = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/"))).and_then(|mut draft| {
            draft.write_all(key.as_ref())?;
            draft.as_file().sync_all()?;
            draft.persist_noclobber(path).map_err(|error| error.error)
        });
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
            _ => Self::read(path, File::open(path).map_err(failed)?),
        }
    }

    fn read(path: &Path, file: File) -> Result<Self, HostKeyError> {
        let failed = |source| HostKeyError::File { path: path.to_owned(), source };
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(HostKeyError::Shown { path: path.to_owned(), mode });
        }
        let mut bytes = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut bytes).map_err(failed)?;
        let key = Ed25519KeyPair::from_pkcs8(&bytes);
        key.map(Self).map_err(|_| HostKeyError::Content { path: path.to_owned() })
    }

    /// Its public half, as the protocol has it.
    pub(crate) fn public(&self) -> Vec<u8> {
        Writer::default().bytes(KIND.as_bytes()).bytes(self.0.public_key().as_ref()).done()
    }

    /// What it says of these bytes, as the protocol has it.
    pub(crate) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        Writer::default().bytes(KIND.as_bytes()).bytes(self.0.sign(bytes).as_ref()).done()
    }

    /// Its public half as a `known_hosts` file has it behind the name of a host.
    pub fn known(&self) -> String {
        format!("{KIND} {}", BASE64_STANDARD.encode(self.public()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn one_is_made_once_and_for_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ssh_host_key");
        let made = HostKey::of_file(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(HostKey::of_file(&path).unwrap().known(), made.known());
        assert!(made.known().starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA"), "{made:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no drafts");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(HostKey::of_file(&path), Err(HostKeyError::Shown { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "half a ke").unwrap();
        assert!(matches!(HostKey::of_file(&path), Err(HostKeyError::Content { .. })));
        assert!(matches!(HostKey::of_file(&dir.path().join("no/such")), Err(HostKeyError::File { .. })));
    }

    #[test]
    fn many_that_make_it_at_once_have_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ssh_host_key");
        let known: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
            let one = || HostKey::of_file(&path);
            let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            all.into_iter().map(|one| one.join().unwrap().unwrap().known()).collect()
        });
        assert_eq!(known.len(), 1);
    }
}
