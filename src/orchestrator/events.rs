//! Everything that happened, as a stream read from the database's table.
//!
//! ```text
//!   page by page ──▶ nothing more ──▶ end, or with `follow`: wait until the database wrote ──▶ next page
//! ```

use std::collections::VecDeque;

use sandpen_actors::database::{Database, EventPage, ListEvents, WatchEvents};
use sandpen_actors::runtime::actor_ref::ActorRef;
use sandpen_types::event::StoredEvent;
use sandpen_types::spec::SandboxKey;
use tokio::sync::watch;

use super::error::SandpenError;

/// Events that are read at once: some 100 KiB.
const PAGE: u32 = 256;

/// Which events are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventsOptions {
    /// The first number; `None` for the oldest that is kept.
    pub from: Option<u64>,
    /// Whether to wait for more.
    pub follow: bool,
    /// Only those of this sandbox, which need not exist any more.
    pub sandbox: Option<SandboxKey>,
}

/// A stream of events. Bounded: it reads on only when it is asked for more.
#[derive(Debug)]
pub struct Events {
    database: ActorRef<Database>,
    options: EventsOptions,
    read: VecDeque<StoredEvent>,
    /// Where the next page begins.
    next: u64,
    /// Whether the last page was the last one, for now.
    is_at_end: bool,
    news: watch::Receiver<()>,
}

impl Events {
    pub(super) async fn open(database: ActorRef<Database>, options: EventsOptions) -> Result<Self, SandpenError> {
        // Before the first page: what comes after it is news.
        let news = database.send(WatchEvents).await?;
        let page = page(&database, options.from, options.sandbox.clone()).await?;
        let EventPage { events, next, is_last } = page;
        Ok(Self { database, options, read: events.into(), next, is_at_end: is_last, news })
    }

    /// The next event; `None` at the end, which a stream with `follow` has not. Safe to cancel.
    ///
    /// # Errors
    /// More went than is kept while nobody asked; the database's.
    pub async fn next(&mut self) -> Result<Option<StoredEvent>, SandpenError> {
        self.fill().await?;
        Ok(self.read.pop_front())
    }

    /// All events that are there at once; none at the end.
    pub(crate) async fn next_batch(&mut self) -> Result<Vec<StoredEvent>, SandpenError> {
        self.fill().await?;
        Ok(self.read.drain(..).collect())
    }

    async fn fill(&mut self) -> Result<(), SandpenError> {
        while self.read.is_empty() {
            if self.is_at_end {
                if !self.options.follow {
                    return Ok(());
                }
                if self.news.changed().await.is_err() {
                    // Another database actor has taken over, or there is none any more.
                    self.news = self.database.send(WatchEvents).await?;
                }
            }
            let page = page(&self.database, Some(self.next), self.options.sandbox.clone()).await?;
            self.read = page.events.into();
            (self.next, self.is_at_end) = (page.next, page.is_last);
        }
        Ok(())
    }
}

async fn page(
    database: &ActorRef<Database>,
    from: Option<u64>,
    sandbox: Option<SandboxKey>,
) -> Result<EventPage, SandpenError> {
    Ok(database.send(ListEvents { from, sandbox, limit: PAGE }).await??)
}
