//! A server of SFTP over the files of a sandbox: nothing of it is in the sandbox but the guest's own tool.
//!
//! ```text
//!   a packet ─┬ read, write ──▶ asked at once, up to 32 of them ──▶ answered in their order
//!             └ all else ──▶ waits for those ──▶ asked ──▶ answered
//! ```
//!
//! Paths that are not absolute begin where the user is at home, as clients take for granted.

mod attributes;
mod home;
mod packet;
mod session;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::task::Poll;

use chrono::Utc;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesOrdered, StreamExt as _};
use sandpen_files::client::{OpenDirectory, OpenFile};
use sandpen_files::{DATA_MAX, Entry, FileErrorKind, FilesClient, FilesError, HANDLES_MAX, Stat};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use attributes::{Attributes, line};
use packet::{Ask, Code, PACKET_MAX, Reply};
pub(crate) use session::{home, run};

/// Reads and writes that are asked at once.
const AT_ONCE: usize = 32;
/// Names in one answer.
const NAMES: usize = 100;
/// Permission bits of what is made where a client says none.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
/// Bits that nothing gets when it is made, as with any sshd: clients ask for 0777 and count on that. Who wants them changes them.
const UMASK: u32 = 0o022;

/// What a client has open.
enum Open {
    File { file: Arc<OpenFile>, path: Vec<u8> },
    Directory { directory: OpenDirectory, entries: VecDeque<Entry> },
}

/// One client's.
struct Sftp {
    files: FilesClient,
    /// Where paths begin that say it not.
    home: Vec<u8>,
    open: BTreeMap<u32, Open>,
    handles: u32,
}

type Answer = (u32, Reply);

/// Serves a client until it leaves.
///
/// # Errors
/// The client is gone in the middle of a packet, or sends what is none.
async fn serve(
    files: FilesClient,
    home: Vec<u8>,
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut sftp = Sftp { files, home, open: BTreeMap::new(), handles: 0 };
    let mut asked: FuturesOrdered<BoxFuture<'static, Answer>> = FuturesOrdered::new();
    let (mut came, mut has_ended) = (Vec::new(), false);
    loop {
        while let Some(packet) = next_packet(&mut came)? {
            let most = match Ask::read(&packet) {
                Ok((_, Ask::Read { .. } | Ask::Write { .. })) => AT_ONCE - 1,
                _ => 0,
            };
            while asked.len() > most {
                let Some((number, reply)) = asked.next().await else { break };
                output.write_all(&reply.packet(number)).await?;
            }
            let number = packet.get(1..5).and_then(|number| number.try_into().ok()).map_or(0, u32::from_be_bytes);
            let reply = match Ask::read(&packet) {
                Ok((_, ask @ (Ask::Read { .. } | Ask::Write { .. }))) => {
                    let mut transfer = sftp.transfer(number, ask);
                    // It goes off now, behind those before.
                    asked.push_back(match futures::poll!(&mut transfer) {
                        Poll::Ready(answer) => std::future::ready(answer).boxed(),
                        Poll::Pending => transfer,
                    });
                    continue;
                }
                Ok((_, ask)) => sftp.answer(ask).await,
                Err(error) => Reply::Status(Code::BadMessage, error.to_string()),
            };
            output.write_all(&reply.packet(number)).await?;
        }
        if has_ended && asked.is_empty() {
            return if came.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        tokio::select! {
            Some((number, reply)) = asked.next(), if !asked.is_empty() => output.write_all(&reply.packet(number)).await?,
            read = input.read_buf(&mut came), if !has_ended => has_ended = read? == 0,
        }
    }
}

/// Takes the first packet, without its length, where all of it is there.
fn next_packet(came: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some(head) = came.first_chunk::<4>() else { return Ok(None) };
    let len = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
    if !(1..=PACKET_MAX).contains(&len) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a packet of SFTP of {len} bytes")));
    }
    if came.len() < 4 + len {
        return Ok(None);
    }
    let rest = came.split_off(4 + len);
    let mut packet = std::mem::replace(came, rest);
    packet.drain(..4);
    Ok(Some(packet))
}

fn not_open() -> Reply {
    Reply::Status(Code::Failure, "nothing is open under that handle".to_owned())
}

fn reply(done: Result<(), FilesError>) -> Reply {
    done.map_or_else(|error| Reply::error(&error), |()| Reply::ok())
}

fn attributes(stat: Result<Stat, FilesError>) -> Reply {
    stat.map_or_else(|error| Reply::error(&error), |stat| Reply::Attributes(Attributes::from(&stat)))
}

impl Sftp {
    /// Reads or writes, each of its own.
    fn transfer(&self, number: u32, ask: Ask) -> BoxFuture<'static, Answer> {
        let (Ask::Read { handle, .. } | Ask::Write { handle, .. }) = ask else {
            return std::future::ready((number, not_open())).boxed();
        };
        let Some(file) = self.file(handle).cloned() else {
            return std::future::ready((number, not_open())).boxed();
        };
        async move {
            let reply = match ask {
                Ask::Read { offset, length, .. } => {
                    let length = length.min(u32::try_from(DATA_MAX).unwrap_or(u32::MAX));
                    match file.read_at(offset, length).await {
                        Ok(data) if data.is_empty() && length > 0 => Reply::Status(Code::Eof, "end of file".to_owned()),
                        Ok(data) => Reply::Data(data),
                        Err(error) => Reply::error(&error),
                    }
                }
                Ask::Write { mut offset, data, .. } => {
                    let mut done = Ok(());
                    for piece in data.chunks(DATA_MAX) {
                        done = file.write_at(offset, piece.to_vec()).await;
                        if done.is_err() {
                            break;
                        }
                        offset = offset.saturating_add(piece.len() as u64);
                    }
                    reply(done)
                }
                _ => not_open(),
            };
            (number, reply)
        }
        .boxed()
    }

    async fn answer(&mut self, ask: Ask) -> Reply {
        match self.try_answer(ask).await {
            Ok(reply) => reply,
            Err(error) => Reply::error(&error),
        }
    }

    async fn try_answer(&mut self, ask: Ask) -> Result<Reply, FilesError> {
        let files = self.files.clone();
        Ok(match ask {
            Ask::Init => Reply::Version,
            Ask::Open { path, flags, attributes } => {
                let (path, mode) = (self.path(&path), attributes.permissions().unwrap_or(FILE_MODE) & !UMASK);
                let file = files.open(&path, flags, mode).await?;
                self.opened(Open::File { file: Arc::new(file), path })
            }
            Ask::OpenDirectory { path } => {
                let directory = files.open_directory(&self.path(&path)).await?;
                self.opened(Open::Directory { directory, entries: VecDeque::new() })
            }
            Ask::Close { handle } => match self.open.remove(&handle) {
                // Nothing reads or writes it any more: all that came before is answered.
                Some(Open::File { file, .. }) => match Arc::into_inner(file) {
                    Some(file) => reply(file.close().await),
                    None => Reply::ok(),
                },
                Some(Open::Directory { directory, .. }) => reply(directory.close().await),
                None => not_open(),
            },
            Ask::ReadDirectory { handle } => self.names(handle).await?,
            Ask::Stat { path, follow } => attributes(files.stat(&self.path(&path), follow).await),
            Ask::StatOpen { handle } => match self.file(handle) {
                Some(file) => attributes(file.stat().await),
                None => not_open(),
            },
            Ask::Change { path, follow, attributes } => {
                reply(files.change(&self.path(&path), follow, attributes.change()).await)
            }
            Ask::ChangeOpen { handle, attributes } => match self.file(handle) {
                Some(file) => reply(file.change(attributes.change()).await),
                None => not_open(),
            },
            Ask::Remove { path } => reply(files.remove(&self.path(&path)).await),
            Ask::MakeDirectory { path, attributes } => {
                let mode = attributes.permissions().unwrap_or(DIRECTORY_MODE) & !UMASK;
                reply(files.make_directory(&self.path(&path), mode, false).await)
            }
            Ask::RemoveDirectory { path } => reply(files.remove_directory(&self.path(&path)).await),
            Ask::RealPath { path, expands } => match self.expanded(&path, expands).await? {
                Some(path) => Reply::path(self.real_path(&path).await?),
                None => Reply::Status(Code::NoSuchFile, "the sandbox has no such user, or that one no home".to_owned()),
            },
            Ask::Rename { from, to, replace } => reply(files.rename(&self.path(&from), &self.path(&to), replace).await),
            Ask::ReadLink { path } => Reply::path(files.read_link(&self.path(&path)).await?),
            Ask::Symlink { target, path } => reply(files.symlink(&target, &self.path(&path)).await),
            Ask::Link { from, to } => reply(files.link(&self.path(&from), &self.path(&to)).await),
            Ask::Space { path } => Reply::Space(files.space(&self.path(&path)).await?),
            Ask::SpaceOpen { handle } => match self.open.get(&handle) {
                Some(Open::File { path, .. }) => Reply::Space(files.space(path).await?),
                _ => not_open(),
            },
            Ask::Sync { handle } => match self.file(handle) {
                Some(file) => reply(file.sync().await),
                None => not_open(),
            },
            Ask::Limits => {
                let (packet, piece) = (PACKET_MAX as u64, DATA_MAX as u64);
                Reply::Limits { packet, piece, handles: HANDLES_MAX as u64 }
            }
            Ask::Read { .. } | Ask::Write { .. } | Ask::Unknown => {
                Reply::Status(Code::Unsupported, "there is no such request here".to_owned())
            }
        })
    }

    fn opened(&mut self, open: Open) -> Reply {
        let handle = self.handles;
        // What the guest has open it bounds.
        self.handles = self.handles.wrapping_add(1);
        self.open.insert(handle, open);
        Reply::Handle(handle)
    }

    /// The file of a handle.
    fn file(&self, handle: u32) -> Option<&Arc<OpenFile>> {
        match self.open.get(&handle) {
            Some(Open::File { file, .. }) => Some(file),
            _ => None,
        }
    }

    /// An absolute path.
    fn path(&self, path: &[u8]) -> Vec<u8> {
        match path {
            b"" => self.home.clone(),
            [b'/', ..] => path.to_vec(),
            _ => [self.home.strip_suffix(b"/").unwrap_or(&self.home), b"/", path].concat(),
        }
    }

    /// The next names in a directory.
    async fn names(&mut self, handle: u32) -> Result<Reply, FilesError> {
        let Some(Open::Directory { directory, entries }) = self.open.get_mut(&handle) else { return Ok(not_open()) };
        if entries.is_empty() {
            entries.extend(directory.next_page().await?);
        }
        if entries.is_empty() {
            return Ok(Reply::Status(Code::Eof, "end of the directory".to_owned()));
        }
        let (now, some) = (Utc::now(), entries.len().min(NAMES));
        let names = entries.drain(..some).map(|entry| {
            let shown = line(&entry, now);
            let attributes = Attributes::from(&entry.stat);
            (entry.name, shown, attributes)
        });
        Ok(Reply::Names(names.collect()))
    }

    /// A path without symbolic links; the last part of it need not be there.
    async fn real_path(&self, path: &[u8]) -> Result<Vec<u8>, FilesError> {
        let error = match self.files.real_path(path).await {
            Err(error) if error.kind() == Some(FileErrorKind::NotFound) => error,
            found => return found,
        };
        let place = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let (parent, name) = (&path[..place.max(1)], &path[place + 1..]);
        if matches!(name, b"" | b"." | b"..") {
            return Err(error);
        }
        let parent = self.files.real_path(parent).await?;
        Ok([parent.strip_suffix(b"/").unwrap_or(&parent), b"/", name].concat())
    }

    /// An absolute path, in which a tilde at the begin may stand for a home; `None` for that of nobody.
    async fn expanded(&self, path: &[u8], expands: bool) -> Result<Option<Vec<u8>>, FilesError> {
        let Some(rest) = path.strip_prefix(b"~").filter(|_| expands) else { return Ok(Some(self.path(path))) };
        let name = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
        let home = match name {
            b"" => Some(self.home.clone()),
            name => home::of(&self.files, name).await?,
        };
        Ok(home.map(|home| [&home, &rest[name.len()..]].concat()))
    }
}

#[cfg(test)]
mod tests;
