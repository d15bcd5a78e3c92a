//! Real pipes, real files; every wait is for an event, with a deadline.

mod chunks;
mod crash;
mod damage;
mod disk_full;
mod dropping;
mod file_names;
mod follow;
mod killed;
mod lost_count;
mod model;
mod stream;
mod take_over;
mod times;
mod trouble;

use std::fs::{self, File};
use std::future::Future;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix::{Actor as _, Addr, Arbiter};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::spec::LogLimits;

use super::*;

/// Nothing here takes nearly as long, even on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// Waits for these many bytes of each stream, however many are missing.
fn bytes_of(stdout: u64, stderr: u64) -> AwaitBytes {
    AwaitBytes { stdout, stderr, missing_max: u64::MAX, idle_limit: DEADLINE, limit: DEADLINE }
}

/// A directory that goes with the test, also where a small disk is mounted over it.
struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // An error: nothing is mounted.
        let _ = nix::mount::umount2(self.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A log in a directory of its own.
struct Place {
    dir: TestDir,
    max_bytes: u64,
    keep: u32,
}

impl Place {
    fn new(max_bytes: u64, keep: u32) -> Self {
        Self { dir: TestDir::new(), max_bytes, keep }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("logs/default/box.log")
    }

    fn config(&self, generation: u64) -> LogConfig {
        LogConfig::new(
            self.log(),
            LogLimits { max_bytes: self.max_bytes, keep: self.keep, ..LogLimits::default() },
            generation,
        )
    }

    fn start(&self, generation: u64) -> Addr<LogWriter> {
        start(self.config(generation))
    }

    fn numbered(&self, n: u32) -> PathBuf {
        names::log_name(&self.log(), n)
    }

    fn index(&self, n: u32) -> PathBuf {
        names::index_name(&self.log(), n)
    }

    /// All kept bytes, as `cat` would show them.
    fn raw(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for n in (0..200).rev() {
            if let Ok(mut file) = File::open(self.numbered(n)) {
                file.read_to_end(&mut bytes).unwrap();
            }
        }
        bytes
    }
}

/// Starts a writer on a thread of its own.
fn start(config: LogConfig) -> Addr<LogWriter> {
    LogWriter::start_in_arbiter(&Arbiter::new().handle(), move |_| LogWriter::new(config))
}

/// Runs a test inside an actix system.
fn run<T>(test: impl Future<Output = T>) -> T {
    actix_rt::System::new().block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("test took too long") })
}

/// Sends a message whose answer is a result.
async fn ask<M, T>(writer: &Addr<LogWriter>, message: M) -> Result<T, LogError>
where
    M: actix::Message<Result = Result<T, LogError>> + Send + 'static,
    T: Send + 'static,
    LogWriter: actix::Handler<M>,
{
    writer.send(message).await.expect("the log writer is gone")
}

async fn attach(writer: &Addr<LogWriter>, stream: OutputStream) -> std::io::PipeWriter {
    let (read, write) = std::io::pipe().unwrap();
    ask(writer, AttachStream { stream, pipe: OwnedFd::from(read) }).await.unwrap();
    write
}

async fn write(writer: &Addr<LogWriter>, stream: OutputStream, bytes: &[u8]) -> Result<Appended, LogError> {
    ask(writer, WriteChunk { stream, bytes: bytes.to_vec().into() }).await
}

/// Bytes that tell where they belong: no two offsets within 16 MB look alike for long.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(len)
    .collect()
}

/// What a follower got.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    all: Vec<u8>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    gaps: Vec<(u64, u64)>,
    /// Position, stream, bytes.
    dropped: Vec<(u64, OutputStream, u64)>,
}

impl Got {
    fn add(&mut self, chunk: LogChunk) {
        match chunk {
            LogChunk::Bytes { stream, bytes, .. } => {
                assert!(!bytes.is_empty() && bytes.len() <= 65536);
                match stream {
                    OutputStream::Stdout => self.stdout.extend(&bytes),
                    OutputStream::Stderr => self.stderr.extend(&bytes),
                }
                self.all.extend(&bytes);
            }
            LogChunk::Gap { position, bytes } => self.gaps.push((position, bytes)),
            LogChunk::Dropped { stream, position, bytes } => self.dropped.push((position, stream, bytes)),
        }
    }
}

/// Reads to the end; checks that positions are gapless.
async fn collect(mut follower: LogFollower) -> Result<Got, LogError> {
    let mut got = Got::default();
    let mut position = follower.position();
    while let Some(chunk) = follower.next().await? {
        let (LogChunk::Bytes { position: at, .. }
        | LogChunk::Gap { position: at, .. }
        | LogChunk::Dropped { position: at, .. }) = &chunk;
        assert_eq!(*at, position, "positions must go on");
        position = chunk.end();
        got.add(chunk);
    }
    Ok(got)
}

async fn files(log: &Path, from: FollowFrom) -> Got {
    collect(LogFollower::of_files(log, from).unwrap()).await.unwrap()
}

/// Asks again and again until it holds: for what no event tells.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// How many descriptors of this process are open on files below a directory.
fn open_files(below: &Path) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap();
    links.filter_map(|link| fs::read_link(link.ok()?.path()).ok()).filter(|target| target.starts_with(below)).count()
}

fn write_in_pieces(mut pipe: impl std::io::Write, bytes: &[u8], sizes: &[usize]) {
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        pipe.write_all(piece).unwrap();
        rest = after;
    }
}
