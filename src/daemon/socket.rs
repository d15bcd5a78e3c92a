//! The daemon's socket file: made complete (listening, 0600) under another name and then renamed,
//! so that whoever finds it can connect. Only the holder of the state directory's lock calls this,
//! hence whatever lies at the path is stale.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use sandpen_types::state_dir::StateDir;

/// A failure to listen.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path:?}")]
pub struct SocketError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The published socket; [`Published::remove`] takes it away again.
#[derive(Debug)]
pub struct Published {
    path: PathBuf,
}

impl Published {
    /// Listens at the directory's socket path, in place of whatever is there.
    pub fn new(dir: &StateDir) -> Result<(Self, UnixListener), SocketError> {
        let path = dir.socket();
        // Shorter than the socket's own name: its length needs no check of its own.
        let draft = dir.path().join("new.sock");
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| SocketError { action, path, source }
        };
        match std::fs::remove_file(&draft) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(failed("removing the stale socket", &draft)(e));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&draft).map_err(failed("listening on", &draft))?;
        std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o600))
            .map_err(failed("setting the permissions of", &draft))?;
        listener.set_nonblocking(true).map_err(failed("preparing", &draft))?;
        std::fs::rename(&draft, &path).map_err(failed("putting the socket at", &path))?;
        Ok((Self { path }, listener))
    }

    /// Removes the socket file: new clients start a daemon of their own, which waits for our lock.
    pub fn remove(self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = ?self.path, %error, "cannot remove the socket; the next daemon replaces it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_ours_removed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::new(temp.path().to_owned());
        drop(UnixListener::bind(dir.socket()).unwrap());
        drop(UnixListener::bind(dir.path().join("new.sock")).unwrap());
        let (published, _listener) = Published::new(&dir).unwrap();
        UnixStream::connect(dir.socket()).unwrap();
        assert_eq!(std::fs::metadata(dir.socket()).unwrap().permissions().mode() & 0o777, 0o600);
        published.remove();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_in_its_place_is_an_error_that_names_it() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::new(temp.path().to_owned());
        std::fs::create_dir(dir.socket()).unwrap();
        let text = Published::new(&dir).unwrap_err().to_string();
        assert!(text.contains("sandpen.sock"), "{text}");
    }
}
