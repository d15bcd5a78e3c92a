//! A guest's start message on disk, from before the microVM exists: a daemon that dies while a guest
//! boots leaves the message to the next one, which sends it when the guest says that it waits.
//!
//! It lies in the runtime directory (0700, as secret as the database, which holds the same
//! environment) as the frame that goes over the control port. So its header tells the version of the
//! control protocol that the guest speaks, too.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use sandpen_guest::protocol::{FrameError, FrameReader, Garbage, HostMessage, encode};

use crate::control::StartFrame;

/// Its name in the runtime directory.
pub const FILE: &str = "start";

/// Why the message cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum StartMessageError {
    /// The system.
    #[error("{action} the start message of the guest")]
    File {
        /// What was tried.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is of another version, or no message.
    #[error("the start message of the guest cannot be used")]
    Frame(#[from] FrameError),
    /// It ends before its end, or is another message.
    #[error("the start message of the guest is damaged")]
    Damaged,
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> StartMessageError {
    move |source| StartMessageError::File { action, source }
}

/// Keeps `start` in a runtime directory in which nothing runs yet. Blocks on the disk. A process that
/// dies halfway has started nothing, so nobody reads what it leaves.
///
/// # Errors
/// [`StartMessageError::File`], or a message that is too large.
pub(super) fn write(runtime_dir: &Path, start: &StartFrame) -> Result<(), StartMessageError> {
    let frame = encode(&HostMessage::from(start.clone()))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    let written = options.open(runtime_dir.join(FILE)).and_then(|mut file| file.write_all(&frame));
    written.map_err(failed("writing"))
}

/// The message of the microVM that runs here; `None` where its daemon kept none. Blocks on the disk.
///
/// # Errors
/// See [`StartMessageError`].
pub(super) fn read(runtime_dir: &Path) -> Result<Option<Box<StartFrame>>, StartMessageError> {
    let mut options = OpenOptions::new();
    // Whatever lies there, opening it neither waits nor leads elsewhere.
    options.read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
    let file = match options.open(runtime_dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed("opening"))?,
    };
    let mut frame = Vec::new();
    let limit = FrameReader::<HostMessage>::CAPACITY as u64;
    file.take(limit).read_to_end(&mut frame).map_err(failed("reading"))?;
    let mut reader = FrameReader::<HostMessage>::new(Garbage::Refuse);
    if reader.push(&frame) != frame.len() {
        return Err(StartMessageError::Damaged);
    }
    match reader.next()?.and_then(StartFrame::of) {
        Some(start) => Ok(Some(Box::new(start))),
        None => Err(StartMessageError::Damaged),
    }
}

/// Whether this version can speak with the guest that runs here; so it can where nothing was kept. A
/// message that is damaged is that guest's own trouble, which this does not tell. Blocks on the disk.
///
/// # Errors
/// [`FrameError::Version`] names the version that the guest speaks.
pub fn check_version(runtime_dir: &Path) -> Result<(), FrameError> {
    match read(runtime_dir) {
        Err(StartMessageError::Frame(error @ FrameError::Version { .. })) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sandpen_guest::protocol::{PROTOCOL_VERSION, PowerOff, RootfsSource};
    use sandpen_types::spec::{Rootfs, SandboxName, SandboxSpec};

    use super::*;

    fn kept() -> (tempfile::TempDir, StartFrame) {
        let dir = tempfile::tempdir().unwrap();
        let name = SandboxName::new("box").unwrap();
        let mut spec = SandboxSpec::new(name, Rootfs::Native("/".into()), vec!["sh".into()]);
        spec.env = vec![("NAME".into(), "x".repeat(300_000).into())];
        let start = super::super::control::start_message(&spec, RootfsSource::Current, PowerOff::Reset).unwrap();
        write(dir.path(), &start).unwrap();
        (dir, start)
    }

    #[test]
    fn the_next_daemon_reads_what_was_kept() {
        let (dir, mut start) = kept();
        assert_eq!(*read(dir.path()).unwrap().unwrap(), start);
        // What a program of before could say is kept as it did.
        assert!(matches!(HostMessage::from(start.clone()), HostMessage::Start(_)));
        start.begin.settings.user = Some("web".to_owned());
        assert!(matches!(HostMessage::from(start.clone()), HostMessage::Begin(_)));
        write(dir.path(), &start).unwrap();
        assert_eq!(*read(dir.path()).unwrap().unwrap(), start);
        start.idle = true;
        write(dir.path(), &start).unwrap();
        assert_eq!(*read(dir.path()).unwrap().unwrap(), start);
        check_version(dir.path()).unwrap();
        let empty = tempfile::tempdir().unwrap();
        assert!(read(empty.path()).unwrap().is_none());
        check_version(empty.path()).unwrap();
    }

    #[test]
    fn another_version_and_damage_are_told() {
        let (dir, _) = kept();
        let path = dir.path().join(FILE);
        // A frame of version 2 without a payload, and its checksum.
        assert_eq!(PROTOCOL_VERSION, 1);
        let other = [0xF5, b'S', b'p', 0xFF, 2, 1, 0, 0, 0, 0, 0x18, 0x29, 0x6A, 0xC1];
        fs::write(&path, other).unwrap();
        assert_eq!(check_version(dir.path()), Err(FrameError::Version { theirs: 2 }));
        assert!(matches!(read(dir.path()), Err(StartMessageError::Frame(FrameError::Version { theirs: 2 }))));

        let (dir, _) = kept();
        let path = dir.path().join(FILE);
        let frame = fs::read(&path).unwrap();
        fs::write(&path, &frame[..1000]).unwrap();
        assert!(matches!(read(dir.path()), Err(StartMessageError::Damaged)));
        fs::write(&path, "no message").unwrap();
        assert!(read(dir.path()).is_err());
        check_version(dir.path()).unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(matches!(read(dir.path()), Err(StartMessageError::File { .. })));
    }
}
