//! The channels of a link's clients, and what is waited for on them.
//!
//! ```text
//!   events:    told ──▶ told ──▶ full: waits for room ──▶ told …        one place is kept for the last word
//!   requests:  waits for one ──▶ taken ──▶ no room for its input: not waited for ──▶ waits …
//!   gone:      waits for the end of whoever has the events; what that has told before still counts
//! ```

use std::collections::HashMap;
use std::time::Instant;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use sandpen_types::session::SessionInfo;
use sandpen_vmm::sessions::{Attachment, SessionEvent, SessionRequest};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::session::ClientKey;
use super::table::SessionTable;

/// Events that wait for a client, each of at most 64 KiB.
const EVENTS: usize = 16;
/// Requests that wait for us.
const REQUESTS: usize = 8;
/// Requests of one client that are taken before others get their turn.
const REQUESTS_AT_ONCE: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Clients {
    channels: HashMap<ClientKey, Channels>,
    waits: FuturesUnordered<BoxFuture<'static, Option<News>>>,
}

#[derive(Debug)]
struct Channels {
    events: mpsc::Sender<SessionEvent>,
    /// The place for the last word.
    last: Option<mpsc::OwnedPermit<SessionEvent>>,
    requests: Requests,
    awaits_room: bool,
    /// Ends whatever is waited for.
    gone: DropGuard,
}

/// Where requests come from.
#[derive(Debug)]
enum Requests {
    /// None is waited for.
    Held(mpsc::Receiver<SessionRequest>),
    /// One is.
    Awaited,
    /// None will come.
    Ended,
}

/// What has come about.
#[derive(Debug)]
pub(super) enum News {
    Request(ClientKey, Option<SessionRequest>, mpsc::Receiver<SessionRequest>),
    Room(ClientKey),
    Gone(ClientKey),
}

impl Clients {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// A client comes.
    pub(super) fn add(&mut self, key: ClientKey, info: SessionInfo) -> Attachment {
        let (events, told) = mpsc::channel(EVENTS + 1);
        let (tell, requests) = mpsc::channel(REQUESTS);
        let gone = CancellationToken::new();
        let last = events.clone().try_reserve_owned().ok();
        let watched = events.clone();
        self.wait(&gone, async move {
            watched.closed().await;
            News::Gone(key)
        });
        let (requests, gone) = (Requests::Held(requests), gone.drop_guard());
        self.channels.insert(key, Channels { events, last, requests, awaits_room: false, gone });
        Attachment { info, events: told, requests: tell }
    }

    fn wait(&self, gone: &CancellationToken, news: impl Future<Output = News> + Send + 'static) {
        let gone = gone.clone();
        self.waits.push(Box::pin(async move { gone.run_until_cancelled(news).await }));
    }

    /// A client loses its session.
    pub(super) fn part(&mut self, key: ClientKey, last_word: Option<SessionEvent>) {
        let Some(mut channels) = self.channels.remove(&key) else { return };
        if let (Some(place), Some(event)) = (channels.last.take(), last_word) {
            place.send(event);
        }
    }

    /// Waits for the next news. Loses none when it is dropped.
    pub(super) async fn news(&mut self) -> News {
        loop {
            match self.waits.next().await {
                Some(Some(news)) => return news,
                // Of one that has parted.
                Some(None) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Takes them.
    pub(super) fn take(&mut self, news: News, table: &mut SessionTable, now: Instant) {
        match news {
            News::Gone(key) => {
                let Some(channels) = self.channels.get_mut(&key) else { return };
                match std::mem::replace(&mut channels.requests, Requests::Ended) {
                    // It says so itself, behind the last request.
                    Requests::Awaited => channels.requests = Requests::Awaited,
                    Requests::Held(requests) => self.leave(key, requests, table, now),
                    Requests::Ended => {
                        self.channels.remove(&key);
                        table.client_gone(key, now);
                    }
                }
            }
            News::Room(key) => {
                if let Some(channels) = self.channels.get_mut(&key) {
                    channels.awaits_room = false;
                }
                self.serve(key, table);
            }
            News::Request(key, request, mut requests) => {
                let has_ended = request.is_none();
                let mut next = request;
                for _ in 0..REQUESTS_AT_ONCE {
                    let Some(request) = next.take() else { break };
                    table.request(key, request, now);
                    next = if table.takes_requests(key) { requests.try_recv().ok() } else { None };
                }
                if let Some(request) = next {
                    table.request(key, request, now);
                }
                let Some(channels) = self.channels.get_mut(&key) else { return };
                if channels.events.is_closed() {
                    return self.leave(key, requests, table, now);
                }
                // One that says no more may still listen.
                channels.requests = if has_ended { Requests::Ended } else { Requests::Held(requests) };
                self.serve(key, table);
            }
        }
    }

    /// A client has gone: takes what it has told before.
    fn leave(
        &mut self,
        key: ClientKey,
        mut requests: mpsc::Receiver<SessionRequest>,
        table: &mut SessionTable,
        now: Instant,
    ) {
        requests.close();
        while let Ok(request) = requests.try_recv() {
            table.request(key, request, now);
        }
        self.channels.remove(&key);
        table.client_gone(key, now);
    }

    /// Tells a client what there is room for, and sees to what comes next.
    pub(super) fn serve(&mut self, key: ClientKey, table: &mut SessionTable) {
        let Some(channels) = self.channels.get_mut(&key) else { return };
        let gone = channels.gone.token().clone();
        let mut room = None;
        while !channels.awaits_room && table.has_event(key) {
            match channels.events.try_reserve() {
                Ok(place) => {
                    if let Some(event) = table.next_event(key) {
                        place.send(event);
                    }
                }
                Err(TrySendError::Full(())) => {
                    channels.awaits_room = true;
                    room = Some(channels.events.clone());
                }
                // It is told as gone.
                Err(TrySendError::Closed(())) => break,
            }
        }
        let mut requests = None;
        if table.takes_requests(key) {
            match std::mem::replace(&mut channels.requests, Requests::Awaited) {
                Requests::Held(held) => requests = Some((held, channels.events.clone())),
                other => channels.requests = other,
            }
        }
        if let Some(events) = room {
            self.wait(&gone, async move {
                // Whether there is room or nobody, the next try shows.
                let _ = events.reserve().await;
                News::Room(key)
            });
        }
        if let Some((mut requests, events)) = requests {
            self.wait(&gone, async move {
                let request = tokio::select! {
                    biased;
                    request = requests.recv() => request,
                    () = events.closed() => None,
                };
                News::Request(key, request, requests)
            });
        }
    }
}
