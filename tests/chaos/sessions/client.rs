//! The processes that have sessions: through a daemon, or with sandpen embedded. They are this test program itself.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use sandpen::actors::driver::Drivers;
use sandpen::actors::spec::{Rootfs, SandboxKey, SandboxName, SandboxSpec};
use sandpen::actors::state_dir::StateDir;
use sandpen::client::{Client, ClientError, ClientOptions, DaemonCommand, SessionStep};
use sandpen::driver::qemu::{QemuConfig, QemuDriver};
use sandpen::session::{SessionEnd, SessionId, SessionOffsets, SessionSpec};
use sandpen::{Handle, Sandpen, SandpenError, paths};
use sandpen_types::state::ExitStatus;
use serde::{Deserialize, Serialize};

use crate::support::{DEADLINE, Home};

/// The sandbox of each home.
pub const NAME: &str = "echo";
/// The test that such a process runs.
pub const TEST: &str = "sessions::client::a_client";
/// Tells it its job.
pub const JOB: &str = "SANDPEN_CHAOS_JOB";
/// Bytes of a line, and lines of a session.
const LINE: u64 = 16;
const LINES: u64 = 16_000;
/// Bytes that are written at once.
const PIECE: u64 = 8 << 10;

/// Which sessions a process has.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    state: PathBuf,
    rootfs: PathBuf,
    files: PathBuf,
    round: u64,
    which: Range<u64>,
    is_embedded: bool,
}

impl Job {
    pub fn new(home: &Home, round: u64, which: Range<u64>, is_embedded: bool) -> Self {
        let files = home.path().join("sessions");
        fs::create_dir_all(&files).unwrap();
        Self { state: home.state(), rootfs: home.rootfs().into(), files, round, which, is_embedded }
    }

    pub fn sessions(&self) -> impl Iterator<Item = Echo> + '_ {
        self.which.clone().map(|number| Echo { files: self.files.clone(), round: self.round, number })
    }
}

/// A session that gives back what it gets.
#[derive(Debug, Clone)]
pub struct Echo {
    files: PathBuf,
    round: u64,
    number: u64,
}

impl Echo {
    fn id(&self) -> SessionId {
        SessionId::new(self.round * 1000 + self.number + 1).unwrap()
    }

    fn code(&self) -> u64 {
        (self.round * 31 + self.number * 7) % 120
    }

    fn spec(&self) -> SessionSpec {
        let script = format!("cat; exit {}", self.code());
        SessionSpec { stdin: true, ..SessionSpec::command(["/bin/sh", "-c", &script]) }
    }

    fn path(&self, what: &str) -> PathBuf {
        self.files.join(format!("{}-{}.{what}", self.round, self.number))
    }

    /// Its input from there on; empty at its end.
    fn input(from: u64) -> Vec<u8> {
        let lines = (from / LINE)..LINES.min(from / LINE + PIECE / LINE);
        let bytes: Vec<u8> = lines.flat_map(|line| format!("{line:015}\n").into_bytes()).collect();
        bytes.get(usize::try_from(from % LINE).unwrap()..).unwrap_or_default().to_vec()
    }

    /// What came of it, and how it ended; how many bytes that were.
    pub fn check(&self) -> u64 {
        let came = fs::read(self.path("out")).unwrap();
        let mut from = 0;
        while from < LINES * LINE {
            let wanted = Self::input(from);
            let at = usize::try_from(from).unwrap();
            let found = came.get(at..came.len().min(at + wanted.len())).unwrap_or_default();
            assert!(found == wanted, "session {} differs from byte {from} on: {} came", self.id(), came.len());
            from += wanted.len() as u64;
        }
        assert_eq!(came.len() as u64, LINES * LINE, "session {}", self.id());
        let code = i32::try_from(self.code()).unwrap();
        let end: SessionEnd = serde_json::from_slice(&fs::read(self.path("end")).unwrap()).unwrap();
        assert_eq!(end, SessionEnd::Exited(ExitStatus::Code(code)), "session {}", self.id());
        for what in ["out", "end"] {
            fs::remove_file(self.path(what)).unwrap();
        }
        came.len() as u64
    }

    fn has_ended(&self) -> bool {
        self.path("end").exists()
    }

    fn end(&self, end: &SessionEnd) {
        let draft = self.path("draft");
        fs::write(&draft, serde_json::to_vec(end).unwrap()).unwrap();
        fs::rename(draft, self.path("end")).unwrap();
    }
}

/// What a client has of a session.
struct Had {
    file: File,
    len: u64,
}

impl Had {
    fn open(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        let len = file.metadata().unwrap().len();
        Self { file, len }
    }

    fn offsets(&self) -> SessionOffsets {
        SessionOffsets { stdout: self.len, stderr: 0 }
    }

    fn take(&mut self, offset: u64, bytes: &[u8]) {
        assert!(offset <= self.len, "bytes {} to {offset} are lost", self.len);
        let new = usize::try_from(self.len - offset).unwrap();
        let new = bytes.get(new..).unwrap_or_default();
        self.file.write_all(new).unwrap();
        self.len += new.len() as u64;
    }
}

/// Not a test of its own.
#[test]
#[ignore = "run by sessions_lose_nothing_whoever_dies as processes that are killed"]
fn a_client() {
    let job: Job = serde_json::from_str(&std::env::var(JOB).unwrap()).unwrap();
    actix::System::new().block_on(async {
        let key = SandboxKey::from(SandboxName::new(NAME).unwrap());
        if job.is_embedded { embedded(&job, &key).await.unwrap() } else { through_daemon(&job, &key).await.unwrap() }
    });
}

async fn through_daemon(job: &Job, key: &SandboxKey) -> Result<(), ClientError> {
    let mut args = vec!["daemon".into(), "--background".into(), "--state-dir".into(), job.state.clone().into()];
    args.extend(["--data-dir".into(), paths::default_data_dir().into()]);
    let daemon = DaemonCommand { program: env!("CARGO_BIN_EXE_sandpen").into(), args };
    let options = ClientOptions { state_dir: job.state.clone(), daemon: Some(daemon) };
    let running = job.sessions().filter(|session| !session.has_ended());
    try_join_all(running.map(|session| echo(&options, key, session))).await.map(drop)
}

async fn open(options: &ClientOptions, key: &SandboxKey, session: &Echo) -> Result<Client, ClientError> {
    let begun = Instant::now();
    loop {
        let opened = async {
            let client = Client::connect(options).await?;
            client.open_session(key, session.id(), session.spec()).await.map(|_| client)
        };
        match opened.await {
            // The daemon is killed just now; asked again, nothing runs twice.
            Err(_) if begun.elapsed() < DEADLINE => tokio::time::sleep(Duration::from_millis(50)).await,
            opened => return opened,
        }
    }
}

async fn echo(options: &ClientOptions, key: &SandboxKey, session: Echo) -> Result<(), ClientError> {
    let mut had = Had::open(&session.path("out"));
    let client = open(options, key, &session).await?;
    let mut hold = client.attach_session(options, key, session.id()).await?;
    let mut sent = hold.info().stdin;
    loop {
        loop {
            let bytes = Echo::input(sent);
            if bytes.is_empty() {
                hold.end_input();
                break;
            }
            let taken = hold.write(&bytes);
            sent += taken as u64;
            if taken < bytes.len() {
                break;
            }
        }
        match hold.next().await? {
            SessionStep::Output(output) => {
                had.take(output.offset, &output.bytes);
                hold.taken(had.offsets());
            }
            SessionStep::Ended(end) => {
                session.end(&end);
                return hold.forget().await;
            }
            SessionStep::Input | SessionStep::StreamEnded(_) | SessionStep::DaemonEnds | SessionStep::Reconnected => {}
        }
    }
}

async fn embedded(job: &Job, key: &SandboxKey) -> Result<(), SandpenError> {
    let mut config = QemuConfig::new(StateDir::new(job.state.clone()), paths::default_data_dir());
    config.helper = Some(env!("CARGO_BIN_EXE_sandpen").into());
    let drivers = Drivers::default().with(Arc::new(QemuDriver::new(config)));
    let sandpen = Sandpen::builder().state_dir(&job.state).drivers(drivers).start().unwrap();
    let handle = sandpen.handle();
    if handle.get(key).await?.is_none() {
        let rootfs = Rootfs::Native(job.rootfs.clone());
        handle.start_sandbox(SandboxSpec { idle: true, ..SandboxSpec::new(key.clone(), rootfs, Vec::new()) }).await?;
    }
    let running = job.sessions().filter(|session| !session.has_ended());
    try_join_all(running.map(|session| echo_embedded(&handle, key, session))).await?;
    // The microVM runs on, for the next round's.
    sandpen.shutdown(None).await.unwrap();
    Ok(())
}

async fn echo_embedded(handle: &Handle, key: &SandboxKey, session: Echo) -> Result<(), SandpenError> {
    let mut had = Had::open(&session.path("out"));
    handle.open_session(key, session.id(), session.spec()).await?;
    let mut hold = handle.attach_session(key, session.id(), None).await?;
    let (stdin, mut sent) = (hold.stdin(), hold.info().stdin);
    let feed = async {
        loop {
            let bytes = Echo::input(sent);
            if bytes.is_empty() {
                return stdin.close().await;
            }
            stdin.write(&bytes).await?;
            sent += bytes.len() as u64;
        }
    };
    let read = async {
        while let Some(output) = hold.next().await? {
            had.take(output.offset, &output.bytes);
        }
        let end = hold.wait().await?;
        session.end(&end);
        Ok(())
    };
    futures::future::try_join(feed, read).await.map(drop)
}
