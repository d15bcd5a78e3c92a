//! The guest's side: requests come by one stream and are answered on another one, in their order, by whoever runs this:
//! what its user may do is what can be asked for.
//!
//! ```text
//!   next frame ──▶ done ──▶ answered ─┐
//!      ▲  └─ the stream ends: all that is open is closed, what was begun and not committed is gone
//!      └──────────────────────────────┘
//! ```

mod directory;
mod files;
mod handles;
mod names;
mod replace;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};

use rustix::io::Errno;

use crate::answer::Answer;
use crate::error::{FileError, FileErrorKind};
use crate::frame::{self, Frame, FrameError, HEADER_LEN};
use crate::path::checked;
use crate::request::Request;
use handles::{Handles, Open};

/// Why nobody is served any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// What came is no request.
    #[error("what was asked for cannot be understood")]
    Frame(#[from] FrameError),
    /// A stream broke, or ended in the middle of a request.
    #[error("the streams of requests and answers")]
    Stream(#[from] io::Error),
}

/// Serves until the requests end.
///
/// # Errors
/// [`ServeError`]; also then all that is open is closed.
pub fn serve(mut requests: impl Read, mut answers: impl Write) -> Result<(), ServeError> {
    let mut server = Server::default();
    while let Some(asked) = next_frame(&mut requests)? {
        let answer = server.answer(&asked);
        answers.write_all(&frame::encode(asked.number, &answer)?)?;
        answers.flush()?;
    }
    Ok(())
}

/// `None` at the stream's end, between two frames.
fn next_frame(requests: &mut impl Read) -> Result<Option<Frame>, ServeError> {
    let mut header = [0; HEADER_LEN];
    let first = loop {
        match requests.read(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            first => break first?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    requests.read_exact(&mut header[first..])?;
    let (length, number) = frame::header(header)?;
    let mut payload = vec![0; length];
    requests.read_exact(&mut payload)?;
    Ok(Some(Frame { number, payload }))
}

/// What is open.
#[derive(Default)]
struct Server {
    handles: Handles,
}

impl Server {
    fn answer(&mut self, asked: &Frame) -> Answer {
        let Ok(request) = asked.message() else {
            // Of a later version.
            return Answer::Error(FileError { kind: FileErrorKind::Unsupported, path: Vec::new() });
        };
        self.perform(request).unwrap_or_else(Answer::Error)
    }

    fn perform(&mut self, request: Request) -> Result<Answer, FileError> {
        let done = |()| Answer::Done;
        match request {
            Request::Open { path, flags, mode } => {
                self.open(&path, |path| files::open(path, flags, mode).map(|file| Open::file(file, path)))
            }
            Request::ReadAt { handle, offset, length } => {
                self.on(handle, |open| files::read_at(open.readable()?, offset, length)).map(Answer::Data)
            }
            Request::WriteAt { handle, offset, data } => {
                self.on(handle, |open| files::write_at(open.writable()?, offset, &data)).map(done)
            }
            Request::Close { handle } => self.handles.remove(handle).map(drop).map(done),
            Request::Stat { path, follow } => at(&path, |path| files::stat(path, follow)).map(Answer::Stat),
            Request::StatOpen { handle } => self.on(handle, |open| files::stat_open(open.fd())).map(Answer::Stat),
            Request::Change { path, follow, change } => at(&path, |path| files::change(path, follow, change)).map(done),
            Request::ChangeOpen { handle, change } => {
                self.on(handle, |open| files::change_open(open.fd(), change)).map(done)
            }
            Request::OpenDirectory { path } => {
                self.open(&path, |path| directory::Directory::open(path).map(|dir| Open::directory(dir, path)))
            }
            Request::ReadDirectory { handle } => {
                self.on(handle, |open| open.listed()?.next_page()).map(Answer::Entries)
            }
            Request::MakeDirectory { path, mode, parents } => {
                at(&path, |path| names::make_directory(path, mode, parents)).map(done)
            }
            Request::RemoveDirectory { path } => at(&path, |path| Ok(rustix::fs::rmdir(path)?)).map(done),
            Request::Remove { path } => at(&path, |path| Ok(rustix::fs::unlink(path)?)).map(done),
            Request::RemoveTree { path } => at(&path, names::remove_tree).map(done),
            Request::Rename { from, to, replace } => {
                let from = checked(&from)?;
                at(&to, |to| names::rename(from, to, replace)).map_err(|error| names::of_rename(error, from)).map(done)
            }
            Request::Symlink { target, path } => at(&path, |path| Ok(rustix::fs::symlink(&target, path)?)).map(done),
            Request::ReadLink { path } => {
                at(&path, |path| Ok(rustix::fs::readlink(path, Vec::new())?.into_bytes())).map(Answer::Path)
            }
            Request::Link { from, to } => {
                let from = checked(&from)?;
                at(&to, |to| Ok(rustix::fs::link(from, to)?)).map_err(|error| names::of_rename(error, from)).map(done)
            }
            Request::RealPath { path } => at(&path, names::real_path).map(Answer::Path),
            Request::Sync { handle } => self.on(handle, |open| Ok(rustix::fs::fsync(open.fd())?)).map(done),
            Request::Space { path } => at(&path, files::space).map(Answer::Space),
            Request::Replace { path, mode, new_mode } => self.open(&path, |path| {
                replace::Replacement::begin(path, mode, new_mode).map(|begun| Open::replacement(begun, path))
            }),
            Request::Commit { handle } => {
                self.on(handle, Open::commit)?;
                self.handles.remove(handle).map(drop).map(done)
            }
        }
    }

    /// Opens something, where there is room for it.
    fn open(&mut self, path: &[u8], open: impl FnOnce(&[u8]) -> Result<Open, Fault>) -> Result<Answer, FileError> {
        at(path, |path| {
            self.handles.check_room()?;
            Ok(Answer::Opened { handle: self.handles.add(open(path)?) })
        })
    }

    /// Does something with what is open.
    fn on<T>(&mut self, handle: u32, work: impl FnOnce(&mut Open) -> Result<T, Fault>) -> Result<T, FileError> {
        let open = self.handles.get(handle)?;
        work(open).map_err(|Fault(kind)| FileError { kind, path: open.path().to_vec() })
    }
}

/// Does something with a path.
fn at<T>(path: &[u8], work: impl FnOnce(&[u8]) -> Result<T, Fault>) -> Result<T, FileError> {
    let path = checked(path)?;
    work(path).map_err(|Fault(kind)| FileError { kind, path: path.to_vec() })
}

/// What went wrong, before anybody has said with what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) FileErrorKind);

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self(FileErrorKind::of(errno))
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).unwrap_or(Errno::IO).into()
    }
}
