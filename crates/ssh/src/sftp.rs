//! A server of SFTP over the files of a sandbox: nothing of it is in the sandbox but the guest's own tool.
//!
//! ```text
//!   a packet ─┬ read, write ──▶ asked at once, up to 32 of them ──▶ answered in their order
//!             └ all else ──▶ waits for those ──▶ asked ──▶ answered
//! ```
//!
//! Paths that are not absolute begin where a session's program begins.

mod attributes;
mod packet;
mod session;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use chrono::Utc;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesOrdered, StreamExt as _};
use sandpen_files::client::{OpenDirectory, OpenFile};
use sandpen_files::{DATA_MAX, Entry, FileErrorKind, FilesClient, FilesError, HANDLES_MAX, OpenFlags};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use attributes::{Attributes, line};
use packet::{Ask, Code, PACKET_MAX, Reply};
pub(crate) use session::run;

/// Reads and writes that are asked at once.
const AT_ONCE: usize = 32;
/// Names in one answer.
const NAMES: usize = 100;
/// Permission bits of what is made where a client says none.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
/// Where homes are looked up, and most bytes of that.
const USERS: &[u8] = b"/etc/passwd";
const USERS_MAX: u64 = 1 << 20;

/// What a client has open.
enum Open {
    File(Arc<OpenFile>),
    Directory { directory: OpenDirectory, entries: VecDeque<Entry> },
}

/// One client's.
struct Sftp {
    files: FilesClient,
    /// Where paths begin that say it not.
    workdir: Vec<u8>,
    /// By name or number; `None`: root.
    user: Option<String>,
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
    workdir: Vec<u8>,
    user: Option<String>,
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut sftp = Sftp { files, workdir, user, open: BTreeMap::new(), handles: 0 };
    let mut asked: FuturesOrdered<BoxFuture<'static, Answer>> = FuturesOrdered::new();
    let mut came = Vec::new();
    let mut has_ended = false;
    loop {
        // Whole packets first.
        while let Some(packet) = next_packet(&mut came)? {
            let (number, ask) = match Ask::read(&packet) {
                Ok(read) => read,
                Err(error) => {
                    let number = packet.get(1..5).and_then(|number| number.try_into().ok()).map_or(0, u32::from_be_bytes);
                    (number, sftp.bad(&error.to_string()))
                }
            }
            .into_ask();
            let mut answer = match ask {
                Work::At(handle, ask) => sftp.at(number, handle, ask),
                Work::Ask(ask) => {
                    while let Some((number, reply)) = asked.next().await {
                        output.write_all(&reply.packet(number)).await?;
                    }
                    let reply = sftp.answer(ask).await;
                    output.write_all(&reply.packet(number)).await?;
                    continue;
                }
                Work::Reply(reply) => std::future::ready((number, reply)).boxed(),
            };
            // It goes off now, in the order of its kind.
            if let Some(done) = futures::poll!(&mut answer).into_ready() {
                answer = std::future::ready(done).boxed();
            }
            asked.push_back(answer);
            while asked.len() >= AT_ONCE {
                if let Some((number, reply)) = asked.next().await {
                    output.write_all(&reply.packet(number)).await?;
                }
            }
        }
        if has_ended && asked.is_empty() {
            return if came.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        tokio::select! {
            Some((number, reply)) = asked.next(), if !asked.is_empty() => {
                output.write_all(&reply.packet(number)).await?;
            }
            read = input.read_buf(&mut came), if !has_ended => has_ended = read? == 0,
        }
    }
}
