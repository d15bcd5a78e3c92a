//! The files of a running sandbox, for an application: a session with the guest's own tool, and what is asked of it.
//!
//! ```text
//!   Handle::files ──▶ a session ──▶ requests and answers, as many as one likes ──▶ dropped: its input ends, and it does
//!                          └── its sandbox ends, the user is unknown, a guest that lies: every request fails alike
//! ```

mod carry;
mod watch;

use std::collections::VecDeque;

use sandpen_files::client::{FileReader, FileWriter};
use sandpen_files::{Change, Entry, FileKind, FilesClient, OpenFlags, Stat};
use sandpen_types::session::{SessionEnd, SessionProgram, SessionSpec};
use sandpen_types::spec::{SandboxKey, WorkloadUser};
use tokio::sync::oneshot;

use super::error::SandpenError;
use super::handle::Handle;
use super::session::Session;

pub use watch::FileWatch;

/// Permission bits of a file that is made, and of a directory.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
/// Of a range of a file without a size so much is read before it is answered, to find its end.
const AHEAD_MAX: u64 = 1 << 20;

/// The files of a running sandbox as one of its users sees them, from [`Handle::files`]; clones share its session, which keeps
/// the sandbox awake as every session does. Paths are absolute in the sandbox, of any bytes but NUL, and symbolic links are
/// followed as any of its processes would. Use it on the runtime on which it was made.
///
/// Each method fails with what the guest says of the file ([`FilesError::File`](sandpen_files::FilesError::File) in
/// [`SandpenError::Files`]), and when the sandbox has ended.
#[derive(Debug, Clone)]
pub struct Files {
    client: FilesClient,
    handle: Handle,
    key: SandboxKey,
    user: Option<WorkloadUser>,
}

/// A file that is being read.
#[derive(Debug)]
pub struct FileRead {
    reader: FileReader,
    /// What was read before anybody asked for it.
    ahead: VecDeque<Vec<u8>>,
    /// What the file was like when it was opened.
    pub stat: Stat,
    /// Where the first byte is.
    pub offset: u64,
    /// How many bytes come, where that is known: of a part.
    pub length: Option<u64>,
}

/// Which bytes of a file are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FileRange {
    /// All, up to its end, wherever that is then.
    #[default]
    Whole,
    /// From one on, so many at most, or up to where the end is now; of a file without a size, wherever that is then. It has to
    /// be before the end.
    From {
        /// Its offset.
        offset: u64,
        /// How many.
        length: Option<u64>,
    },
    /// The last ones; not of a file without a size.
    Last(u64),
}

/// A file that is being written; dropped before [`FileWrite::finish`], one that was to be replaced is as it was.
#[derive(Debug)]
pub struct FileWrite {
    writer: FileWriter,
    is_replacement: bool,
}

impl Handle {
    /// The files of a running sandbox, for one of its users; without one for root, whoever the workload is. Call it on a
    /// tokio runtime (actix is one).
    ///
    /// # Errors
    /// `NotFound`, `NotLive`, [`SessionError`](sandpen_vmm::sessions::SessionError), [`SandpenError::FilesNotServed`].
    pub async fn files(&self, key: &SandboxKey, user: Option<WorkloadUser>) -> Result<Files, SandpenError> {
        let program = SessionProgram::Tool(sandpen_types::guest_tool::GuestTool::Files);
        let spec = SessionSpec { user: user.clone(), stdin: true, ..SessionSpec::new(program) };
        let (answer, opened) = oneshot::channel();
        let (handle, of) = (self.clone(), key.clone());
        // Observed by its clients, which hear of its end. Who does not wait for it leaves no session behind: without a client
        // it ends.
        drop(tokio::spawn(async move {
            match handle.tool(&of, spec).await {
                Ok(session) => {
                    let (client, carrier) = FilesClient::new();
                    drop(answer.send(Ok(client)));
                    carry::carry(carrier, session).await;
                }
                Err(error) => drop(answer.send(Err(error))),
            }
        }));
        let client = opened.await.map_err(|_| SandpenError::Gone)??;
        Ok(Files { client, handle: self.clone(), key: key.clone(), user })
    }

    /// Tells what happens to a file, or in a directory, of a running sandbox; `recursive`: also in all directories below. What
    /// the host does in a shared directory is not seen. Call it on a tokio runtime (actix is one).
    ///
    /// # Errors
    /// As [`Handle::files`], and where there is nothing to watch.
    pub async fn watch_files(
        &self,
        key: &SandboxKey,
        user: Option<WorkloadUser>,
        path: &[u8],
        recursive: bool,
    ) -> Result<FileWatch, SandpenError> {
        FileWatch::open(self, key, user, path, recursive).await
    }

    /// Begins a session of the guest's own.
    async fn tool(&self, key: &SandboxKey, spec: SessionSpec) -> Result<Session, SandpenError> {
        let mut session = self.exec(key, spec).await?;
        if let Some(SessionEnd::NotStarted { message, .. }) = session.info().end.clone() {
            // It is forgotten sooner so.
            let _ = session.wait().await;
            return Err(SandpenError::FilesNotServed(message));
        }
        Ok(session)
    }
}

/// Each fails as [`Files`] says.
#[expect(clippy::missing_errors_doc, reason = "said above")]
impl Files {
    /// What else can be asked for.
    pub fn client(&self) -> &FilesClient {
        &self.client
    }

    /// What is in a directory, in the order of names.
    pub async fn list(&self, path: &[u8]) -> Result<Vec<Entry>, SandpenError> {
        Ok(self.client.list(path).await?)
    }

    /// What a file is like; `follow`: a symbolic link stands for what it leads to.
    pub async fn stat(&self, path: &[u8], follow: bool) -> Result<Stat, SandpenError> {
        Ok(self.client.stat(path, follow).await?)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As the others, and [`SandpenError::RangeBeyondEnd`] and [`SandpenError::RangeUnknown`].
    pub async fn read(&self, path: &[u8], range: FileRange) -> Result<FileRead, SandpenError> {
        let file = self.client.open(path, OpenFlags::READ, 0).await?;
        let stat = file.stat().await?;
        let size = size(&stat);
        let (offset, most) = match (range, size) {
            (FileRange::Whole, _) => (0, None),
            (FileRange::Last(count), Some(size)) => (size.saturating_sub(count), Some(count)),
            (FileRange::Last(_), None) => {
                let problem = "so that its last ones cannot be found; read it whole";
                return Err(SandpenError::RangeUnknown { path: path.to_vec(), problem });
            }
            (FileRange::From { offset, length }, _) => (offset, length),
        };
        let length = match (range, size) {
            (FileRange::Whole, _) | (_, None) => None,
            (_, Some(size)) if offset >= size => {
                return Err(SandpenError::RangeBeyondEnd { path: path.to_vec(), offset, size });
            }
            (_, Some(size)) => Some(most.map_or(size - offset, |most| most.min(size - offset))),
        };
        let reader = FileReader::new(file, offset, length.or(most));
        let mut read = FileRead { reader, ahead: VecDeque::new(), stat, offset, length };
        if range != FileRange::Whole && size.is_none() && !read.look_ahead().await? && most != Some(0) {
            let problem = "and the range begins at its end or behind it";
            return Err(SandpenError::RangeUnknown { path: path.to_vec(), problem });
        }
        Ok(read)
    }

    /// Begins to write a file that is new or takes the place of another one, with [`FileWrite::finish`]: whole, or not at all.
    /// `mode` are its permission bits; without them it has those of the one that it takes the place of, or 0o644. Owner and
    /// group are as they were, as far as the user may give them.
    pub async fn write(&self, path: &[u8], mode: Option<u32>) -> Result<FileWrite, SandpenError> {
        let file = self.client.replace(path, mode, FILE_MODE).await?;
        Ok(FileWrite { writer: FileWriter::new(file, 0), is_replacement: true })
    }

    /// Begins to write at the end of a file, which is made where it is not there, with `mode` or 0o644.
    pub async fn append(&self, path: &[u8], mode: Option<u32>) -> Result<FileWrite, SandpenError> {
        let flags = OpenFlags { append: true, create: true, ..OpenFlags::default() };
        let file = self.client.open(path, flags, mode.unwrap_or(FILE_MODE)).await?;
        Ok(FileWrite { writer: FileWriter::new(file, 0), is_replacement: false })
    }

    /// Makes a directory with `mode` or 0o755; `parents`: those above it as well, and one that is there is good.
    pub async fn make_directory(&self, path: &[u8], mode: Option<u32>, parents: bool) -> Result<(), SandpenError> {
        Ok(self.client.make_directory(path, mode.unwrap_or(DIRECTORY_MODE), parents).await?)
    }

    /// Removes a file; `recursive`: or a directory with all that is in it.
    pub async fn remove(&self, path: &[u8], recursive: bool) -> Result<(), SandpenError> {
        let removed = if recursive { self.client.remove_tree(path).await } else { self.client.remove(path).await };
        Ok(removed?)
    }

    /// Renames within a file system; `replace`: what is there goes.
    pub async fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> Result<(), SandpenError> {
        Ok(self.client.rename(from, to, replace).await?)
    }

    /// Changes attributes, through symbolic links.
    pub async fn change(&self, path: &[u8], change: Change) -> Result<(), SandpenError> {
        Ok(self.client.change(path, true, change).await?)
    }

    /// Changes permission bits, through symbolic links.
    pub async fn chmod(&self, path: &[u8], mode: u32) -> Result<(), SandpenError> {
        self.change(path, Change { mode: Some(mode), ..Change::default() }).await
    }

    /// Changes owner and group, through symbolic links.
    pub async fn chown(&self, path: &[u8], uid: Option<u32>, gid: Option<u32>) -> Result<(), SandpenError> {
        self.change(path, Change { uid, gid, ..Change::default() }).await
    }

    /// As [`Handle::watch_files`], in a session of its own.
    pub async fn watch(&self, path: &[u8], recursive: bool) -> Result<FileWatch, SandpenError> {
        self.handle.watch_files(&self.key, self.user.clone(), path, recursive).await
    }
}

/// Files of the kernel's say that they have none, whatever is in them, and so do devices.
fn size(stat: &Stat) -> Option<u64> {
    (stat.kind == FileKind::File && stat.size > 0).then_some(stat.size)
}

impl FileRead {
    /// How many bytes the file had when it was opened, where it says so.
    pub fn size(&self) -> Option<u64> {
        size(&self.stat)
    }

    /// Reads until it is known how many bytes come, or until there are many. Whether there are any.
    async fn look_ahead(&mut self) -> Result<bool, SandpenError> {
        let mut bytes = 0;
        while bytes <= AHEAD_MAX {
            let Some(piece) = self.reader.next().await? else {
                self.length = Some(bytes);
                break;
            };
            bytes += piece.len() as u64;
            self.ahead.push_back(piece);
        }
        Ok(bytes > 0)
    }

    /// The next bytes; `None` at the end. A file that shrank has an end before [`FileRead::length`]. Safe to cancel.
    ///
    /// # Errors
    /// What the guest says, or that the sandbox has ended.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, SandpenError> {
        match self.ahead.pop_front() {
            Some(piece) => Ok(Some(piece)),
            None => Ok(self.reader.next().await?),
        }
    }

    /// How many of its bytes have not come that should.
    pub fn missing(&self) -> u64 {
        let ahead = self.ahead.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let given = self.reader.position() - self.offset - ahead;
        self.length.map_or(0, |length| length.saturating_sub(given))
    }
}

impl FileWrite {
    /// Writes more. Not safe to cancel: a part may be written.
    ///
    /// # Errors
    /// What the guest says, or that the sandbox has ended.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), SandpenError> {
        Ok(self.writer.write(bytes).await?)
    }

    /// All is written: it is on its disk, and in its place.
    ///
    /// # Errors
    /// As [`FileWrite::write`].
    pub async fn finish(self) -> Result<(), SandpenError> {
        let file = self.writer.finish().await?;
        let finished = if self.is_replacement { file.commit().await } else { file.close().await };
        Ok(finished?)
    }
}
