//! The files of a running sandbox: one request each. None goes on at the next daemon: what is read or changed again may be
//! another file by then.

use bytes::Bytes;
use hyper::Method;
use sandpen_api::file::{FileChange, FileEntry, FileEvent, FileEventLine, FileLine, FileRename, FileWritten};
use sandpen_api::{ErrorBody, ErrorCode};
use sandpen_types::spec::{ByteString, SandboxKey, WorkloadUser};
use serde::Serialize;

use super::connection::{Body, Connection, Reply};
use super::lines::LineReader;
use super::stdin::StdinReceiver;
use super::{Client, ClientError, encoded, path};

/// Most entries of a directory that are kept at once.
pub(crate) const ENTRIES_MAX: usize = 1_000_000;
/// Most bytes of their names, and of what symbolic links lead to.
pub(crate) const NAMES_MAX: usize = 256 << 20;

/// The files of a running sandbox, as one of its users sees them. Paths are absolute in the sandbox, of any bytes but NUL.
///
/// Every method may fail with codes [`NotFound`](ErrorCode::NotFound), [`NotLive`](ErrorCode::NotLive),
/// [`GuestTooOld`](ErrorCode::GuestTooOld), [`GuestUnreachable`](ErrorCode::GuestUnreachable) and those of files:
/// [`InvalidPath`](ErrorCode::InvalidPath), [`FileNotFound`](ErrorCode::FileNotFound),
/// [`PermissionDenied`](ErrorCode::PermissionDenied) and the like.
#[derive(Debug, Clone)]
pub struct SandboxFiles {
    client: Client,
    key: SandboxKey,
    user: Option<WorkloadUser>,
}

impl Client {
    /// The files of a sandbox, for one of its users; without one for root. Nothing is asked yet.
    pub fn files(&self, key: &SandboxKey, user: Option<WorkloadUser>) -> SandboxFiles {
        SandboxFiles { client: self.clone(), key: key.clone(), user }
    }
}

/// Each fails as [`SandboxFiles`] says.
#[expect(clippy::missing_errors_doc, reason = "said above")]
impl SandboxFiles {
    fn target(&self, route: &str, file: Option<&[u8]>, more: &str) -> String {
        let user = self.user.as_ref().map(|user| format!("&user={}", encoded(user.to_string().as_bytes())));
        let file = file.map(|file| format!("path={}", encoded(file)));
        let query = format!("{}{}{more}", file.unwrap_or_default(), user.unwrap_or_default());
        path(&self.key, &format!("/files{route}?{}", query.trim_start_matches('&')))
    }

    async fn ask(&self, method: Method, target: &str, body: Body) -> Result<(), ClientError> {
        self.client.send(method, target, body).await?.collect().await.map(drop)
    }

    async fn post(&self, target: &str, body: &impl Serialize) -> Result<(), ClientError> {
        self.ask(Method::POST, target, Body::json(body)?).await
    }

    /// What a file is like; `follow`: a symbolic link stands for what it leads to.
    pub async fn stat(&self, file: &[u8], follow: bool) -> Result<FileEntry, ClientError> {
        self.client.get(&self.target("", Some(file), &format!("&follow={follow}"))).await
    }

    /// What is in a directory, in the order of names.
    pub async fn list(&self, directory: &[u8]) -> Result<Vec<FileEntry>, ClientError> {
        let reply = self.client.send(Method::GET, &self.target("/list", Some(directory), ""), Body::Empty).await?;
        let mut lines = LineReader::new(self.client.dir.socket(), reply);
        let mut entries = Listed::default();
        while let Some(line) = lines.next().await? {
            match line {
                FileLine::Entry(entry) => entries.add(entry)?,
                FileLine::Error(body) => return Err(said(body)),
            }
        }
        let mut entries = entries.entries;
        entries.sort_unstable_by(|a: &FileEntry, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Ok(entries)
    }

    /// Reads a file from `offset` on, all of it or `length` bytes at most. Where something but all is wanted, the first byte
    /// has to be there: code [`RangeBeyondEnd`](ErrorCode::RangeBeyondEnd).
    pub async fn read(&self, file: &[u8], offset: u64, length: Option<u64>) -> Result<FileContentReader, ClientError> {
        let range = match (offset, length) {
            (0, None) => None,
            (offset, None) => Some(format!("bytes={offset}-")),
            // No range is of no bytes, but one that begins in the file.
            (offset, Some(length)) => {
                let last = offset.saturating_add(length.max(1) - 1);
                Some(format!("bytes={offset}-{last}"))
            }
        };
        self.client.check_version()?;
        let target = self.target("/content", Some(file), "");
        let connection = Connection::open(&self.client.dir).await?;
        let reply = connection.send_for(Method::GET, &target, Body::Empty, range.as_deref()).await?;
        if !reply.status().is_success() {
            return Err(self.client.refusal(reply).await);
        }
        Ok(FileContentReader { reply, is_empty: length == Some(0) })
    }

    /// Writes a file that is new or takes the place of another one, whole or not at all. `mode` are its permission bits;
    /// without them it has those of the one before, or 0o644.
    pub async fn write(
        &self,
        file: &[u8],
        mode: Option<u32>,
        content: StdinReceiver,
    ) -> Result<FileWritten, ClientError> {
        let target = self.target("/content", Some(file), &with_mode(mode));
        let reply = self.client.send(Method::PUT, &target, Body::Stream(content)).await?;
        self.client.decode(reply).await
    }

    /// Writes at the end of a file, which is made where it is not there.
    pub async fn append(
        &self,
        file: &[u8],
        mode: Option<u32>,
        content: StdinReceiver,
    ) -> Result<FileWritten, ClientError> {
        let target = self.target("/append", Some(file), &with_mode(mode));
        let reply = self.client.send(Method::POST, &target, Body::Stream(content)).await?;
        self.client.decode(reply).await
    }

    /// Makes a directory with `mode` or 0o755; `parents`: those above it as well, and one that is there is good.
    pub async fn make_directory(&self, directory: &[u8], mode: Option<u32>, parents: bool) -> Result<(), ClientError> {
        let more = format!("{}&parents={parents}", with_mode(mode));
        self.ask(Method::POST, &self.target("/directory", Some(directory), &more), Body::Empty).await
    }

    /// Removes a file; `recursive`: or a directory with all that is in it.
    pub async fn remove(&self, file: &[u8], recursive: bool) -> Result<(), ClientError> {
        let target = self.target("", Some(file), &format!("&recursive={recursive}"));
        self.ask(Method::DELETE, &target, Body::Empty).await
    }

    /// Renames within a file system; `replace`: what is there goes.
    pub async fn rename(&self, from: ByteString, to: ByteString, replace: bool) -> Result<(), ClientError> {
        self.post(&self.target("/rename", None, ""), &FileRename { from, to, replace }).await
    }

    /// Changes attributes, through symbolic links.
    pub async fn change(&self, file: &[u8], change: &FileChange) -> Result<(), ClientError> {
        self.post(&self.target("/change", Some(file), ""), change).await
    }

    /// Tells what happens to a file or in a directory; `recursive`: also in all directories below.
    pub async fn watch(&self, file: &[u8], recursive: bool) -> Result<FileEventReader, ClientError> {
        let target = self.target("/watch", Some(file), &format!("&recursive={recursive}"));
        let reply = self.client.send(Method::GET, &target, Body::Empty).await?;
        Ok(FileEventReader { lines: LineReader::new(self.client.dir.socket(), reply) })
    }
}

/// What is in a directory, as far as it is kept.
#[derive(Default)]
struct Listed {
    entries: Vec<FileEntry>,
    /// Bytes of names and targets.
    bytes: usize,
}

impl Listed {
    fn add(&mut self, entry: FileEntry) -> Result<(), ClientError> {
        let target = entry.target.as_ref().map_or(0, |target| target.as_bytes().len());
        self.bytes = self.bytes.saturating_add(entry.name.as_bytes().len() + target);
        if self.entries.len() >= ENTRIES_MAX || self.bytes > NAMES_MAX {
            return Err(ClientError::DirectoryTooLarge);
        }
        self.entries.push(entry);
        Ok(())
    }
}

fn with_mode(mode: Option<u32>) -> String {
    mode.map_or_else(String::new, |mode| format!("&mode={mode:o}"))
}

/// The daemon's last word in an answer that is not complete.
fn said(ErrorBody { error }: ErrorBody) -> ClientError {
    let status = error.code.known().map_or(500, ErrorCode::http_status);
    ClientError::Api { status, error }
}

/// The content of a file, piece by piece.
pub struct FileContentReader {
    reply: Reply,
    /// Nothing is wanted of it.
    is_empty: bool,
}

impl FileContentReader {
    /// The next bytes; `None` when all have come. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError::FileCut`] where not all came.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.is_empty {
            return Ok(None);
        }
        self.reply.next().await.map_err(|error| ClientError::FileCut(Box::new(error)))
    }
}

/// What happens to files, line by line.
pub struct FileEventReader {
    lines: LineReader<FileEventLine>,
}

impl FileEventReader {
    /// The next event; the first one says that watching has begun. `None` where the daemon ended without a word. Safe to
    /// cancel.
    ///
    /// # Errors
    /// Why nothing more is told: codes of files, [`ShuttingDown`](ErrorCode::ShuttingDown), or what became of the connection.
    pub async fn next(&mut self) -> Result<Option<FileEvent>, ClientError> {
        match self.lines.next().await? {
            Some(FileEventLine::Event(event)) => Ok(Some(event)),
            Some(FileEventLine::Error(body)) => Err(said(body)),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use sandpen_api::file::FileKind;

    use super::*;

    #[test]
    fn no_more_of_a_directory_is_kept_than_there_is_room_for() {
        let entry = |target: Option<String>| FileEntry {
            name: "a".into(),
            kind: FileKind::Symlink,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            allocated: 0,
            links: 1,
            inode: 1,
            device: 1,
            accessed: DateTime::UNIX_EPOCH,
            modified: DateTime::UNIX_EPOCH,
            changed: DateTime::UNIX_EPOCH,
            target: target.map(Into::into),
        };
        let mut listed = Listed { bytes: NAMES_MAX - 10, ..Listed::default() };
        listed.add(entry(Some("x".repeat(9)))).unwrap();
        assert!(matches!(listed.add(entry(None)), Err(ClientError::DirectoryTooLarge)));
        let mut listed = Listed::default();
        let kept = (0..=ENTRIES_MAX).take_while(|_| listed.add(entry(None)).is_ok()).count();
        assert_eq!(kept, ENTRIES_MAX);
    }
}
