//! This host's end of a copy: a thread, since files block, and the channel between it and the session.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use bytes::{Buf as _, Bytes};
use sandpen_tree::{
    Attributes, Destination, Owners, PackError, PackOptions, Report, Special, Top, UnpackError, UnpackOptions, Wait,
};
use tokio::sync::{mpsc, oneshot};

use super::super::{CliError, stdio};

/// Pieces that may wait.
const PIECES: usize = 16;
/// Most bytes of a piece that comes from standard input.
const PIECE_BYTES: usize = 64 << 10;

/// Why this end stopped.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Nothing can be read.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Nothing more can be made.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Standard input fails.
    #[error("the tar cannot be read from standard input")]
    Stdin(#[source] io::Error),
    /// Standard output fails.
    #[error("the tar cannot be written to standard output")]
    Stdout(#[source] io::Error),
    /// Its thread is gone.
    #[error("this program's own part of it broke off; run it again, and report this")]
    Lost,
}

/// The other end of the channel.
pub enum Pieces {
    /// What is to go to the sandbox.
    ToSandbox(mpsc::Receiver<Bytes>),
    /// Where what comes from there goes.
    FromSandbox(mpsc::Sender<Bytes>),
}

/// An end at work.
pub struct HostEnd {
    /// Its bytes.
    pub pieces: Pieces,
    /// The first of them, where that was waited for.
    pub first: Option<Bytes>,
    /// Whether it ends when there is nobody for its bytes: who waits for standard input does not.
    pub ends_alone: bool,
    /// What became of it.
    pub done: oneshot::Receiver<Result<Report, HostError>>,
}

impl HostEnd {
    fn start(
        name: &str,
        pieces: Pieces,
        work: impl FnOnce() -> Result<Report, HostError> + Send + 'static,
    ) -> Result<Self, CliError> {
        let (tell, done) = oneshot::channel();
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Whoever is gone wants to know nothing.
            let _ = tell.send(work());
        });
        spawned.map_err(CliError::Thread)?;
        Ok(Self { pieces, first: None, ends_alone: true, done })
    }

    /// Waits for the first piece to go to the sandbox; why there is none.
    pub async fn is_lost(&mut self) -> Option<HostError> {
        let Pieces::ToSandbox(pieces) = &mut self.pieces else { return None };
        self.first = pieces.recv().await;
        if self.first.is_some() {
            return None;
        }
        match (&mut self.done).await {
            Ok(Err(error)) => Some(error),
            Ok(Ok(report)) => {
                // It is asked once more when all has been sent.
                let (tell, done) = oneshot::channel();
                let _ = tell.send(Ok(report));
                self.done = done;
                None
            }
            Err(_) => Some(HostError::Lost),
        }
    }
}

/// Packs a path.
pub fn pack(path: &Path, follow: bool, archive: bool) -> Result<HostEnd, CliError> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let path = path.to_owned();
    let options = PackOptions { follow, attributes: attributes(archive) };
    HostEnd::start("pack", Pieces::ToSandbox(receiver), move || {
        Ok(sandpen_tree::pack(&path, options, ToChannel(sender))?)
    })
}

/// Sends standard input.
pub fn stdin() -> Result<HostEnd, CliError> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let end = HostEnd::start("stdin", Pieces::ToSandbox(receiver), move || {
        let mut stdin = stdio::stdin();
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let count = match stdin.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(HostError::Stdin(error)),
            };
            // A sandbox that wants no more has said why.
            if count == 0 || sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                return Ok(Report::default());
            }
        }
    })?;
    Ok(HostEnd { ends_alone: false, ..end })
}

/// Unpacks what comes, which has to be what `top` names.
pub fn unpack(path: &Path, top: Top<'_>, archive: bool) -> Result<HostEnd, CliError> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let (path, name): (PathBuf, _) = (path.to_owned(), top.name().to_owned());
    let options = UnpackOptions {
        owners: if archive { Owners::Keep } else { Owners::Caller },
        special: Special::Refuse,
        attributes: attributes(archive),
        wait: Wait::ForFew,
    };
    HostEnd::start("unpack", Pieces::FromSandbox(sender), move || {
        let destination = Destination::Path { path: &path, name: Some(&name) };
        Ok(sandpen_tree::unpack(FromChannel { receiver, piece: Bytes::new() }, destination, options)?)
    })
}

/// Writes what comes to standard output.
pub fn stdout() -> Result<HostEnd, CliError> {
    let (sender, receiver) = mpsc::channel(PIECES);
    HostEnd::start("stdout", Pieces::FromSandbox(sender), move || {
        let mut from = FromChannel { receiver, piece: Bytes::new() };
        let mut stdout = stdio::stdout();
        let copied = io::copy(&mut from, &mut stdout).and_then(|_| stdout.flush());
        copied.map_err(HostError::Stdout)?;
        Ok(Report::default())
    })
}

fn attributes(archive: bool) -> Attributes {
    if archive { Attributes::All } else { Attributes::User }
}

struct ToChannel(mpsc::Sender<Bytes>);

impl Write for ToChannel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct FromChannel {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for FromChannel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
