//! The task of a link: moves frames, events and requests between a guest's port, clients and the [table](super::table),
//! which decides.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sandpen_guest::protocol::session::{GuestFrame, SessionFrameReader};
use sandpen_types::session::{SessionId, SessionInfo, SessionOffsets};
use sandpen_vmm::blocking::blocking_io;
use sandpen_vmm::sessions::{Attachment, SessionError, SessionRequest};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::broken::Broken;
use super::clients::Clients;
use super::port::{self, Ends, Port};
use super::table::{SessionTable, Token};
use super::wire::Asked;

/// Most bytes of an earlier host's that are passed over before the guest's first answer: all that it may have had to send,
/// many times over.
const SKIP_MAX: usize = 64 << 20;
/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
/// How long a port without sessions stays open: a daemon has only so many descriptors.
const REST_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// How long the rest of the port may take to be read once the VMM is gone. It is at hand.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// What is asked of a link.
#[derive(Debug)]
pub(super) enum Ask {
    Open(SessionId, Asked, oneshot::Sender<Result<SessionInfo, SessionError>>),
    Attach(SessionId, Option<SessionOffsets>, oneshot::Sender<Result<Attachment, SessionError>>),
    List(oneshot::Sender<Result<Vec<SessionInfo>, SessionError>>),
    Tell(SessionId, SessionRequest, oneshot::Sender<Result<(), SessionError>>),
}

impl Ask {
    /// Whoever asked may have gone.
    fn refuse(self, error: SessionError) {
        match self {
            Self::Open(_, _, answer) => drop(answer.send(Err(error))),
            Self::Attach(_, _, answer) => drop(answer.send(Err(error))),
            Self::List(answer) => drop(answer.send(Err(error))),
            Self::Tell(_, _, answer) => drop(answer.send(Err(error))),
        }
    }
}

/// What a link and its task know of each other.
#[derive(Debug, Clone)]
pub(super) struct Signals {
    /// Cancelled when nobody has the link any more.
    pub(super) dropped: CancellationToken,
    /// Cancelled when the VMM has ended.
    pub(super) vmm_ended: CancellationToken,
    /// Cancelled when the guest says no more.
    pub(super) over: CancellationToken,
}

/// Why a guest that is gone cannot be reached.
pub(crate) fn vmm_ended() -> SessionError {
    SessionError::Unreachable("its VMM process has ended".to_owned())
}

/// Opens the port and serves a link until nobody has it, or there is nothing to do. After the guest's end it goes on for
/// clients that still fetch. `before` has ended when the link's last task has.
pub(super) async fn run(
    runtime_dir: PathBuf,
    mut asks: mpsc::Receiver<Ask>,
    signals: Signals,
    before: Option<CancellationToken>,
) {
    // Also when this future is dropped; behind all else.
    let _over = signals.over.clone().drop_guard();
    if let Some(before) = before {
        before.cancelled().await;
    }
    match begin(&runtime_dir).await {
        Ok((port, epoch)) => {
            let mut link = Link {
                table: SessionTable::new(epoch, Instant::now()),
                port: Some(port),
                reader: SessionFrameReader::join(epoch, SKIP_MAX),
                clients: Clients::default(),
                waiting: HashMap::new(),
                tokens: 0,
                drain_until: None,
                rest_until: None,
            };
            let has_rested = link.run(&mut asks, &signals).await;
            // Who asks in this moment asks the next one.
            asks.close();
            drop(link);
            if has_rested && let Err(error) = blocking_io(move || port::remove_mark(&runtime_dir)).await {
                tracing::debug!(%error, "the mark of a guest's sessions stays");
            }
        }
        Err(error) => {
            tracing::warn!(%error, ?runtime_dir, "a guest's session port cannot be opened");
            // The next call tries again.
            asks.close();
            while let Some(ask) = asks.recv().await {
                ask.refuse(SessionError::Unreachable(format!("opening its session port: {error}")));
            }
        }
    }
}

async fn begin(runtime_dir: &Path) -> io::Result<(Port, u64)> {
    let dir = runtime_dir.to_owned();
    let opened = blocking_io(move || {
        let mut epoch = [0; 8];
        File::open("/dev/urandom")?.read_exact(&mut epoch)?;
        Ok((Ends::open(&dir)?, u64::from_le_bytes(epoch)))
    });
    let (ends, epoch) = opened.await?;
    Ok((Port::new(ends)?, epoch))
}

struct Link {
    table: SessionTable,
    /// `None` once the guest says no more.
    port: Option<Port>,
    reader: SessionFrameReader<GuestFrame>,
    clients: Clients,
    /// Who waits for a session's begin.
    waiting: HashMap<Token, oneshot::Sender<Result<SessionInfo, SessionError>>>,
    tokens: u64,
    /// Once the VMM has ended.
    drain_until: Option<Instant>,
    /// While there are no sessions.
    rest_until: Option<Instant>,
}

impl Link {
    /// Until nobody has it, or there is nothing to do: says whether that is so.
    async fn run(&mut self, asks: &mut mpsc::Receiver<Ask>, signals: &Signals) -> bool {
        let mut dropped = false;
        loop {
            self.settle();
            if self.table.is_over() {
                signals.over.cancel();
            }
            if dropped && (!self.table.is_over() || self.clients.is_empty()) {
                return false;
            }
            let rest_until = self.rest_until.unwrap_or_else(|| Instant::now() + REST_LIMIT);
            let is_written = self.port.as_ref().is_some_and(Port::is_written);
            self.rest_until = (is_written && self.table.is_at_rest()).then_some(rest_until);
            if self.rest_until.is_some_and(|until| until <= Instant::now()) {
                return true;
            }
            let deadline = self.table.deadline().into_iter().chain(self.drain_until).chain(self.rest_until).min();
            tokio::select! {
                () = signals.dropped.cancelled(), if !dropped => dropped = true,
                () = signals.vmm_ended.cancelled(), if self.drain_until.is_none() && self.port.is_some() => {
                    self.drain_until = Some(Instant::now() + DRAIN_LIMIT);
                }
                ready = ready(self.port.as_ref()) => self.read(ready),
                Some(ask) = asks.recv(), if self.table.takes_asks() => self.answer(ask),
                news = self.clients.news() => self.clients.take(news, &mut self.table, Instant::now()),
                () = until(deadline) => self.tick(Instant::now()),
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        if self.drain_until.is_some_and(|until| until <= now) {
            self.end(&vmm_ended());
        }
        self.table.tick(now);
    }

    /// Nothing more comes of the guest.
    fn end(&mut self, reason: &SessionError) {
        self.table.end(reason, Instant::now());
        self.port = None;
        self.drain_until = None;
        self.reader = SessionFrameReader::new();
    }

    fn fail(&mut self, broken: &Broken) {
        tracing::warn!(reason = %broken, "the link with a guest's sessions has failed");
        self.end(&SessionError::Unreachable(broken.to_string()));
    }

    /// Passes on what the table has for anybody.
    fn settle(&mut self) {
        loop {
            for (token, answer) in self.table.take_answers() {
                if let Some(waiting) = self.waiting.remove(&token) {
                    // Whoever asked may have gone.
                    let _ = waiting.send(answer);
                }
            }
            for (key, last_word) in self.table.take_farewells() {
                self.clients.part(key, last_word);
            }
            for key in self.table.take_touched() {
                self.clients.serve(key, &mut self.table);
            }
            if let Some(port) = &mut self.port
                && let Err(error) = port.write(|| self.table.next_frame())
            {
                self.fail(&error.into());
            }
            if !self.table.has_news() {
                return;
            }
        }
    }

    /// Takes what the guest has sent.
    #[expect(clippy::large_stack_arrays, reason = "on a thread of our own, and for each link it would be more")]
    fn read(&mut self, ready: io::Result<()>) {
        let mut chunk = [0; CHUNK];
        let Some(port) = &self.port else { return };
        match ready.and_then(|()| port.read(&mut chunk)) {
            Ok(None) => {}
            Ok(Some(0)) => self.end(&vmm_ended()),
            Ok(Some(len)) => {
                if let Err(broken) = self.understand(&chunk[..len]) {
                    self.fail(&broken);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "reading a guest's session port");
                self.end(&SessionError::Unreachable(format!("reading its session port: {error}")));
            }
        }
    }

    fn understand(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        let now = Instant::now();
        while !bytes.is_empty() {
            bytes = &bytes[self.reader.push(bytes)..];
            while let Some(frame) = self.reader.next()? {
                self.table.take(frame, now)?;
            }
        }
        Ok(())
    }

    /// Whoever asked may have gone.
    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Open(id, asked, answer) => {
                self.tokens += 1;
                let token = Token(self.tokens);
                if let Some(opened) = self.table.open(token, id, asked, Instant::now()) {
                    drop(answer.send(opened));
                } else {
                    self.waiting.retain(|_, waiting| !waiting.is_closed());
                    self.waiting.insert(token, answer);
                }
            }
            Ask::Attach(id, from, answer) => {
                let attached = self.table.attach(id, from).map(|(key, info)| self.clients.add(key, info));
                drop(answer.send(attached));
            }
            Ask::List(answer) => drop(answer.send(self.table.list())),
            Ask::Tell(id, request, answer) => drop(answer.send(self.table.tell(id, &request, Instant::now()))),
        }
    }
}

async fn ready(port: Option<&Port>) -> io::Result<()> {
    match port {
        Some(port) => port.ready().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
