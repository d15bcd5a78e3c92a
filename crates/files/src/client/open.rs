//! What is open in the sandbox. Dropped, it is closed, of which nobody hears.

use super::calls::{UNSUITABLE, checked_stat, done, stat};
use super::{Call, FilesClient, FilesError};
use crate::answer::{Answer, Entry, Stat};
use crate::request::{Change, Request};
use crate::{DATA_MAX, NAME_MAX, PATH_MAX};

/// An open file.
#[derive(Debug)]
pub struct OpenFile(Handle);

/// An open directory.
#[derive(Debug)]
pub struct OpenDirectory(Handle);

#[derive(Debug)]
struct Handle {
    client: FilesClient,
    number: u32,
    is_closed: bool,
}

impl Handle {
    fn call(&self, request: Request) -> Call {
        self.client.call(request)
    }

    /// Asked for once, whether it is answered or not.
    async fn end(mut self, request: Request) -> Result<(), FilesError> {
        let call = self.call(request);
        if call.is_sent() {
            self.is_closed = true;
        }
        let answer = call.await;
        self.is_closed = true;
        done(&answer?)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.is_closed {
            self.client.shared.state().abandon_open(self.number);
        }
    }
}

/// Each fails with what the guest says ([`FilesError::File`]), and with what is wrong with it.
#[expect(clippy::missing_errors_doc, reason = "said above")]
impl OpenFile {
    pub(super) fn new(client: &FilesClient, number: u32) -> Self {
        Self(Handle { client: client.clone(), number, is_closed: false })
    }

    /// Reads as many bytes as are wanted, at most [`DATA_MAX`], or what there is up to the file's end; none: there is its
    /// end.
    pub async fn read_at(&self, offset: u64, length: u32) -> Result<Vec<u8>, FilesError> {
        read(self.begin_read(offset, length).await?, length)
    }

    pub(super) fn begin_read(&self, offset: u64, length: u32) -> Call {
        self.0.call(Request::ReadAt { handle: self.0.number, offset, length })
    }

    /// Writes all bytes, at most [`DATA_MAX`].
    pub async fn write_at(&self, offset: u64, data: Vec<u8>) -> Result<(), FilesError> {
        done(&self.begin_write(offset, data).await?)
    }

    pub(super) fn begin_write(&self, offset: u64, data: Vec<u8>) -> Call {
        self.0.call(Request::WriteAt { handle: self.0.number, offset, data })
    }

    /// What it is like.
    pub async fn stat(&self) -> Result<Stat, FilesError> {
        stat(&self.0.call(Request::StatOpen { handle: self.0.number }).await?)
    }

    /// Changes attributes.
    pub async fn change(&self, change: Change) -> Result<(), FilesError> {
        done(&self.0.call(Request::ChangeOpen { handle: self.0.number, change }).await?)
    }

    /// Has all that was written on its disk.
    pub async fn sync(&self) -> Result<(), FilesError> {
        done(&self.0.call(Request::Sync { handle: self.0.number }).await?)
    }

    /// Puts what [`FilesClient::replace`] has begun in its place.
    pub async fn commit(self) -> Result<(), FilesError> {
        let handle = self.0.number;
        self.0.end_keeping(Request::Commit { handle }).await
    }

    /// Closes it, and hears of it.
    pub async fn close(self) -> Result<(), FilesError> {
        let handle = self.0.number;
        self.0.end(Request::Close { handle }).await
    }
}

impl Handle {
    /// What is refused stays open in the guest, and is closed when this is dropped.
    async fn end_keeping(mut self, request: Request) -> Result<(), FilesError> {
        let answer = self.call(request).await;
        self.is_closed = answer.is_ok();
        done(&answer?)
    }
}

/// The bytes of an answer.
pub(super) fn read(answer: Answer, length: u32) -> Result<Vec<u8>, FilesError> {
    match answer {
        Answer::Data(data) if data.len() as u64 <= u64::from(length) && data.len() <= DATA_MAX => Ok(data),
        Answer::Data(_) => Err(FilesError::Nonsense("more bytes than were asked for")),
        _ => Err(UNSUITABLE),
    }
}

/// Each fails with what the guest says ([`FilesError::File`]), and with what is wrong with it.
#[expect(clippy::missing_errors_doc, reason = "said above")]
impl OpenDirectory {
    pub(super) fn new(client: &FilesClient, number: u32) -> Self {
        Self(Handle { client: client.clone(), number, is_closed: false })
    }

    /// Some of what is left in it, in no order; none: that was all.
    pub async fn next_page(&self) -> Result<Vec<Entry>, FilesError> {
        match self.0.call(Request::ReadDirectory { handle: self.0.number }).await? {
            Answer::Entries(entries) => {
                for entry in &entries {
                    check(entry)?;
                }
                Ok(entries)
            }
            _ => Err(UNSUITABLE),
        }
    }

    /// What it itself is like.
    pub async fn stat(&self) -> Result<Stat, FilesError> {
        stat(&self.0.call(Request::StatOpen { handle: self.0.number }).await?)
    }

    /// Closes it, and hears of it.
    pub async fn close(self) -> Result<(), FilesError> {
        let handle = self.0.number;
        self.0.end(Request::Close { handle }).await
    }
}

fn check(entry: &Entry) -> Result<(), FilesError> {
    let is_name = !matches!(entry.name.as_slice(), b"" | b"." | b"..")
        && entry.name.len() <= NAME_MAX
        && !entry.name.iter().any(|byte| matches!(byte, b'/' | 0))
        && entry.target.as_ref().is_none_or(|target| target.len() <= PATH_MAX && !target.contains(&0));
    checked_stat(entry.stat)?;
    if is_name { Ok(()) } else { Err(FilesError::Nonsense("a name that no file has")) }
}
