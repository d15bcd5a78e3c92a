//! What the database actor does with each message: updates join the batch, questions go to the reader.

use actix::{ActorContext as _, ActorFutureExt as _, Handler, WrapFuture as _};

use super::actor::{Answer, Database, Pending};
use super::{
    CloseDatabase, CountSandboxes, EventPage, Flush, GetSandbox, ListEvents, ListLiveKeys, ListSandboxes,
    ListTransitions, RecordEvent, RecordHealth, RecordTransition, RemoveSandbox, SandboxRow, UpsertSandbox,
    WatchEvents, event_queries, queries,
};
use crate::spec::SandboxKey;

impl Handler<RecordTransition> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, update: RecordTransition, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(|reply| Pending::Update(Box::new(update), reply), ctx)
    }
}

impl Handler<Flush> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, _: Flush, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(Pending::Flush, ctx)
    }
}

impl Handler<CloseDatabase> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, _: CloseDatabase, ctx: &mut Self::Context) -> Self::Result {
        let (writer, reader) = (self.writer.clone(), self.reader.clone());
        let flushed = self.wait_for(Pending::Flush, ctx);
        Box::pin(
            flushed
                .then(|flushed, this, _| {
                    async move {
                        // The last one to close writes the log of SQLite back into the file.
                        reader.close().await;
                        writer.close().await;
                        flushed
                    }
                    .into_actor(this)
                })
                .map(|closed, _, ctx| {
                    ctx.stop();
                    closed
                }),
        )
    }
}

impl Handler<UpsertSandbox> for Database {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, upsert: UpsertSandbox, _: &mut Self::Context) -> Self::Result {
        let health = self.health.clone();
        self.write(|pool| async move {
            let row = queries::upsert(&pool, upsert).await;
            health.note(&row).await;
            row
        })
    }
}

impl Handler<GetSandbox> for Database {
    type Result = Answer<Option<SandboxRow>>;

    fn handle(&mut self, GetSandbox(key): GetSandbox, _: &mut Self::Context) -> Self::Result {
        self.read(|pool| async move { queries::get(&pool, &key).await })
    }
}

impl Handler<ListSandboxes> for Database {
    type Result = Answer<Vec<SandboxRow>>;

    fn handle(&mut self, _: ListSandboxes, _: &mut Self::Context) -> Self::Result {
        self.read(|pool| async move { queries::list(&pool).await })
    }
}

impl Handler<CountSandboxes> for Database {
    type Result = Answer<Vec<(String, u64)>>;

    fn handle(&mut self, _: CountSandboxes, _: &mut Self::Context) -> Self::Result {
        self.read(|pool| async move { queries::count_sandboxes(&pool).await })
    }
}

impl Handler<ListLiveKeys> for Database {
    type Result = Answer<Vec<SandboxKey>>;

    fn handle(&mut self, _: ListLiveKeys, _: &mut Self::Context) -> Self::Result {
        self.read(|pool| async move { queries::list_live_keys(&pool).await })
    }
}

impl Handler<ListTransitions> for Database {
    type Result = Answer<Vec<RecordTransition>>;

    fn handle(&mut self, ListTransitions(sandbox): ListTransitions, _: &mut Self::Context) -> Self::Result {
        self.read(move |pool| async move { queries::list_transitions(&pool, sandbox).await })
    }
}

impl Handler<RemoveSandbox> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, RemoveSandbox(sandbox): RemoveSandbox, _: &mut Self::Context) -> Self::Result {
        let (events, health) = (self.events.clone(), self.health.clone());
        self.write(move |pool| async move {
            let removed = queries::remove(&pool, sandbox).await;
            health.note(&removed).await;
            events.send_replace(());
            removed
        })
    }
}

impl Handler<RecordHealth> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, record: RecordHealth, _: &mut Self::Context) -> Self::Result {
        let (events, health) = (self.events.clone(), self.health.clone());
        self.write(|pool| async move {
            let recorded = queries::record_health(&pool, record).await;
            health.note(&recorded).await;
            events.send_replace(());
            recorded
        })
    }
}

impl Handler<RecordEvent> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, event: RecordEvent, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(|reply| Pending::Event(Box::new(event), reply), ctx)
    }
}

impl Handler<ListEvents> for Database {
    type Result = Answer<EventPage>;

    fn handle(&mut self, list: ListEvents, _: &mut Self::Context) -> Self::Result {
        self.read(|pool| async move { event_queries::list(&pool, list).await })
    }
}

impl Handler<WatchEvents> for Database {
    type Result = actix::MessageResult<WatchEvents>;

    fn handle(&mut self, _: WatchEvents, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(self.events.subscribe())
    }
}
