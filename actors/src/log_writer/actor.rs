//! The log writer actor: its messages, its pipes, its subscribers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use actix::fut::ActorFutureExt as _;
use actix::{Actor, AsyncContext as _, Context, Handler, SpawnHandle, WrapFuture as _};
use sandpen_types::backoff::{Backoff, Pauses};
use sandpen_types::error_chain::error_chain;
use sandpen_types::event::EventKind;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::start_step::StartStep;
use tokio::sync::watch;

use super::close::Closing;
use super::discard::DroppedNow;
use super::follower::Published;
use super::pump::{self, GO_ON, Moved, OutputPipe, Wait};
use super::segment::{now_us, time_of};
use super::store::{Note, Store};
use super::{Appended, AttachStream, Follow, LogConfig, LogError, LogFailed, LogFollower, Reopen, Subscribe};
use crate::host::fault_of::fault_of_causes;
use crate::host::readable::register;
use crate::runtime::without_address::StopWithoutAddress;
use crate::telemetry::counters::Counter;
use crate::telemetry::faults::Place;

/// Writes one sandbox's log.
///
/// It stops after an answered [`Close`](super::Close), and also when its last address is dropped:
/// then nothing is read any more, and what is in the pipes stays there for the next writer.
#[derive(Debug)]
pub struct LogWriter {
    pub(super) config: LogConfig,
    pub(super) store: Store,
    pub(super) sources: BTreeMap<u64, (OutputPipe, SpawnHandle)>,
    next_source: u64,
    pub(super) published: watch::Sender<Published>,
    subscribers: Vec<Subscribe>,
    pub(super) backoff: Backoff,
    pub(super) trouble: Option<Arc<LogError>>,
    pub(super) closing: Option<Closing>,
    idle_timer: bool,
    last_use: Instant,
    /// With `LogBacklog::Drop`: until when output is dropped because a write was slow.
    pub(super) slow_until: Option<Instant>,
    /// What the gap that is not over yet has lost.
    pub(super) gap: DroppedNow,
    #[cfg(feature = "testing")]
    bomb: crate::testing::panic::Bomb,
}

impl LogWriter {
    /// A writer that touches no file before it is started.
    pub fn new(config: LogConfig) -> Self {
        Self {
            #[cfg(feature = "testing")]
            bomb: crate::testing::panic::Bomb::new(crate::testing::panic::ActorKind::LogWriter),
            store: Store::new(config.clone()),
            config,
            sources: BTreeMap::new(),
            next_source: 0,
            published: watch::Sender::default(),
            subscribers: Vec::new(),
            backoff: Backoff::new(Pauses::STORAGE),
            trouble: None,
            closing: None,
            idle_timer: false,
            last_use: Instant::now(),
            slow_until: None,
            gap: DroppedNow::default(),
        }
    }

    /// Waits, then moves the next quantum of a pipe.
    pub(super) fn pump(&mut self, id: u64, wait: Wait, ctx: &mut Context<Self>) {
        let Some((source, _)) = self.sources.get(&id) else { return };
        let waited = pump::wait(Arc::clone(&source.pipe), wait);
        let spawned = ctx.spawn(waited.into_actor(self).map(move |(), act: &mut Self, ctx| act.turn(id, ctx)));
        if let Some((_, handle)) = self.sources.get_mut(&id) {
            *handle = spawned;
        }
    }

    fn turn(&mut self, id: u64, ctx: &mut Context<Self>) {
        if self.closing.is_some() {
            return;
        }
        // We may be late: what was written before comes first. It has a turn of its own for what goes wrong.
        if let Some(other) = self.written_before(id) {
            let _ = self.quantum(other, ctx);
        }
        let wait = match self.quantum(id, ctx) {
            Ok(Moved::Bytes(n)) if n >= GO_ON => Wait::Yield,
            Ok(Moved::Bytes(_)) => Wait::Tick,
            Ok(Moved::Empty) => {
                self.store.make_room();
                Wait::Readable
            }
            Ok(Moved::Ended) => return,
            Err(again) => Wait::Until(again),
        };
        self.pump(id, wait, ctx);
    }

    /// Another pipe that has bytes of which the last ones were written before those of this pipe.
    fn written_before(&self, id: u64) -> Option<u64> {
        let mine = &self.sources.get(&id)?.0;
        let waiting = |pipe: &OutputPipe| matches!(pipe.look(), Ok(Moved::Bytes(_)));
        let before = |pipe: &OutputPipe| waiting(pipe) && waiting(mine) && pipe.last_write() < mine.last_write();
        self.sources.iter().find(|(other, (pipe, _))| **other != id && before(pipe)).map(|(other, _)| *other)
    }

    /// All pipes, first the one whose last bytes were written first.
    pub(super) fn in_order_of_writes(&self) -> Vec<u64> {
        let mut ids: Vec<_> = self.sources.iter().map(|(id, (pipe, _))| (pipe.last_write(), *id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Moves at most one quantum from a pipe; on trouble answers when to try again.
    pub(super) fn quantum(&mut self, id: u64, ctx: &mut Context<Self>) -> Result<Moved, Instant> {
        let Some((source, _)) = self.sources.get_mut(&id) else { return Ok(Moved::Ended) };
        let stream = source.stream;
        let looked = source.look();
        let moved = match looked {
            Ok(Moved::Bytes(_)) => match self.backoff.next().max(self.slow_until) {
                Some(next) if next > Instant::now() && self.drops_now() => return self.discard(id),
                Some(next) if next > Instant::now() => return Err(next),
                _ => match self.move_bytes(id, stream, ctx) {
                    Err(e) if self.drops() => {
                        let next = self.fail(e);
                        return if self.drops_now() { self.discard(id) } else { Err(next) };
                    }
                    moved => moved,
                },
            },
            Ok(other) => Ok(other),
            Err(source) => Err(LogError::Attach { stream, source }),
        };
        match moved {
            Ok(Moved::Ended) => {
                self.sources.remove(&id);
                Ok(Moved::Ended)
            }
            Ok(moved) => Ok(moved),
            Err(e) => Err(self.fail(e)),
        }
    }

    fn move_bytes(&mut self, id: u64, stream: OutputStream, ctx: &mut Context<Self>) -> Result<Moved, LogError> {
        let (at_us, begun) = (now_us(), Instant::now());
        let room = self.store.prepare(stream, at_us, 1);
        self.tell_notes();
        let room = room?;
        let Some((source, _)) = self.sources.get_mut(&id) else { return Ok(Moved::Ended) };
        let moved = source.transfer(&room).map_err(LogError::file("writing", self.store.path()))?;
        if let Moved::Bytes(n) = moved {
            self.count(stream, n, at_us, ctx);
            self.note_pace(begun.elapsed());
        }
        Ok(moved)
    }

    /// Counts and tells bytes that are on file.
    pub(super) fn count(&mut self, stream: OutputStream, len: u64, at_us: u64, ctx: &mut Context<Self>) -> Appended {
        let appended = Appended { offset: self.store.advance(stream, len), len, stream, at: time_of(at_us) };
        self.config.timings.mark(StartStep::FirstOutput);
        self.config.faults.counters().add(Counter::LogBytes, len);
        self.recovered();
        self.publish(false);
        for subscriber in &self.subscribers {
            if let Some(recipient) = &subscriber.appended {
                // A subscriber that does not keep up misses events rather than piling them up.
                let _ = recipient.try_send(appended);
            }
        }
        self.files_in_use(ctx);
        appended
    }

    pub(super) fn publish(&self, ended: bool) {
        // Until it has taken over, nobody knows what is on file.
        let stuck = self.trouble.is_some() || !self.store.is_recovered();
        self.published.send_replace(Published { totals: self.store.totals(), ended, stuck });
    }

    /// Notes that the log can be written, if that is new.
    pub(super) fn recovered(&mut self) {
        if self.backoff.succeeded() {
            self.trouble = None;
            tracing::info!(log = ?self.store.path(), "the log can be written again");
            self.config.faults.clear(&self.place());
            self.config.faults.tell_of_sandbox(self.config.sandbox.as_ref(), EventKind::LogRecovered {});
        }
    }

    fn place(&self) -> Place {
        Place::Log(self.config.path.clone())
    }

    /// Notes that the log cannot be written; answers when to try again.
    pub(super) fn fail(&mut self, error: LogError) -> Instant {
        let now = Instant::now();
        let error = Arc::new(error);
        let message = error_chain(&*error);
        self.config.faults.count(Counter::LogRetries);
        if let Some(fault) = fault_of_causes(&*error) {
            self.config.faults.raise(self.place(), fault, &message);
        }
        if self.backoff.failed(now) {
            self.config.faults.count(Counter::LogFailures);
            let fate = if self.drops() { "dropped" } else { "waiting in its pipe" };
            tracing::warn!(log = ?self.store.path(), error = %message, "the log cannot be written; output is {fate}");
            self.tell(&LogFailed { message, lost_bytes: 0 });
        }
        self.trouble = Some(error);
        self.publish(false);
        self.backoff.next().unwrap_or(now)
    }

    pub(super) fn tell(&self, event: &LogFailed) {
        let failed = EventKind::LogFailed { message: event.message.clone() };
        self.config.faults.tell_of_sandbox(self.config.sandbox.as_ref(), failed);
        for subscriber in &self.subscribers {
            if let Some(recipient) = &subscriber.failed {
                recipient.do_send(event.clone());
            }
        }
    }

    pub(super) fn tell_notes(&mut self) {
        let log = self.store.path().to_owned();
        for note in self.store.take_notes() {
            match note {
                Note::RotationFailed(e) => {
                    let message = format!("the log grows beyond its limit: {}", error_chain(&e));
                    tracing::warn!(?log, error = %error_chain(&e), "the log cannot be rotated; it grows beyond its limit");
                    self.tell(&LogFailed { message, lost_bytes: 0 });
                }
                Note::RotationWorks => {
                    tracing::info!(?log, "the log can be rotated again");
                    self.config.faults.tell_of_sandbox(self.config.sandbox.as_ref(), EventKind::LogRecovered {});
                }
                Note::Lost(lost_bytes) => {
                    tracing::warn!(?log, lost_bytes, "the log file lacks bytes that had been written to it");
                    let message =
                        format!("{} lacks bytes that had been written to it: was it truncated?", log.display());
                    self.tell(&LogFailed { message, lost_bytes });
                }
            }
        }
    }

    /// Closes the files some time after their last use.
    pub(super) fn files_in_use(&mut self, ctx: &mut Context<Self>) {
        self.last_use = Instant::now();
        if !self.idle_timer && self.store.is_open() {
            self.idle_timer = true;
            ctx.run_later(self.config.idle_close, Self::close_if_idle);
        }
    }

    fn close_if_idle(&mut self, ctx: &mut Context<Self>) {
        let left = self.config.idle_close.saturating_sub(self.last_use.elapsed());
        if left.is_zero() {
            self.idle_timer = false;
            if self.closing.is_none() {
                self.store.close_files();
            }
        } else {
            ctx.run_later(left, Self::close_if_idle);
        }
    }
}

#[cfg(feature = "testing")]
crate::testing::panic::takes_panics!(LogWriter);

impl Actor for LogWriter {
    type Context = Context<Self>;

    #[cfg(feature = "testing")]
    fn stopped(&mut self, _: &mut Self::Context) {
        self.bomb.stopped();
    }

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(StopWithoutAddress);
        self.take_over(ctx);
    }
}

impl Drop for LogWriter {
    /// Trouble that is left is the next writer's, if there is one.
    fn drop(&mut self) {
        self.config.faults.clear(&self.place());
    }
}

impl Handler<AttachStream> for LogWriter {
    type Result = Result<(), LogError>;

    fn handle(&mut self, AttachStream { stream, pipe }: AttachStream, ctx: &mut Self::Context) -> Self::Result {
        if self.closing.is_some() {
            return Err(LogError::Closed);
        }
        let mut source = OutputPipe::new(stream, Arc::new(pipe));
        let registered = register(&source.pipe).map_err(|source| LogError::Attach { stream, source })?;
        // Whoever attaches a stream again (a new monitor) has opened the same pipe anew.
        self.sources.retain(|_, (known, handle)| {
            if known.stream == stream {
                ctx.cancel_future(*handle);
                // What was read from it before comes before what is in it.
                source.copied = known.copied.take();
            }
            known.stream != stream
        });
        let holds_bytes = source.copied.as_ref().is_some_and(|bytes| !bytes.is_empty());
        let wait = if holds_bytes { Wait::Yield } else { Wait::Registered(registered) };
        let id = self.next_source;
        self.next_source += 1;
        self.sources.insert(id, (source, SpawnHandle::default()));
        self.pump(id, wait, ctx);
        Ok(())
    }
}

impl Handler<Reopen> for LogWriter {
    type Result = Result<(), LogError>;

    fn handle(&mut self, _: Reopen, ctx: &mut Self::Context) -> Self::Result {
        if self.closing.is_some() {
            return Err(LogError::Closed);
        }
        let reopened = self.store.reopen(now_us());
        self.tell_notes();
        self.files_in_use(ctx);
        reopened
    }
}

impl Handler<Follow> for LogWriter {
    type Result = Result<LogFollower, LogError>;

    fn handle(&mut self, Follow { from }: Follow, ctx: &mut Self::Context) -> Self::Result {
        let (queue, position) = self.store.follow(from)?;
        self.tell_notes();
        self.files_in_use(ctx);
        Ok(LogFollower::live(queue, position, self.published.subscribe()))
    }
}

impl Handler<Subscribe> for LogWriter {
    type Result = ();

    fn handle(&mut self, subscriber: Subscribe, _: &mut Self::Context) {
        if let (Some(recipient), Some(trouble)) = (&subscriber.failed, &self.trouble) {
            recipient.do_send(LogFailed { message: error_chain(&**trouble), lost_bytes: 0 });
        }
        self.subscribers.push(subscriber);
    }
}
