//! What the database actor does with each message: updates join the batch, questions go to the reader.

use actix::{ActorContext as _, ActorFutureExt as _, Handler, WrapFuture as _};

use super::actor::{Answer, Database};
use super::batch::{Asked, Pending};
use super::{
    BeginStart, CloseDatabase, CountSandboxes, EventPage, Flush, GetSandbox, ListEvents, ListLiveKeys, ListSandboxes,
    ListTransitions, RecordEvent, RecordHealth, RecordTransition, RemoveSandbox, SandboxRow, UpsertSandbox,
    WatchEvents, event_queries, queries,
};
use crate::spec::SandboxKey;
use crate::transition::Transition;

impl Handler<RecordTransition> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, RecordTransition(edge): RecordTransition, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(|reply| Pending::Update(Box::new(Asked::new(edge, reply))), ctx)
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

    fn handle(&mut self, upsert: UpsertSandbox, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(|reply| Pending::Upsert(Box::new(Asked::new(upsert, reply))), ctx)
    }
}

impl Handler<BeginStart> for Database {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, begin: BeginStart, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(|reply| Pending::Begin(Box::new(Asked::new(begin, reply))), ctx)
    }
}

impl Handler<GetSandbox> for Database {
    type Result = Answer<Option<SandboxRow>>;

    fn handle(&mut self, GetSandbox(key): GetSandbox, _: &mut Self::Context) -> Self::Result {
        let row = self.read(|pool| async move { queries::get(&pool, &key).await });
        Box::pin(row.map(|row, this, _| {
            let mut row = row?;
            if let Some(row) = &mut row {
                this.latest_health.apply(row);
            }
            Ok(row)
        }))
    }
}

impl Handler<ListSandboxes> for Database {
    type Result = Answer<Vec<SandboxRow>>;

    fn handle(&mut self, _: ListSandboxes, _: &mut Self::Context) -> Self::Result {
        let rows = self.read(|pool| async move { queries::list(&pool).await });
        Box::pin(rows.map(|rows, this, _| {
            let mut rows = rows?;
            for row in &mut rows {
                this.latest_health.apply(row);
            }
            Ok(rows)
        }))
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
    type Result = Answer<Vec<Transition>>;

    fn handle(&mut self, ListTransitions(sandbox): ListTransitions, _: &mut Self::Context) -> Self::Result {
        self.read(move |pool| async move { queries::list_transitions(&pool, sandbox).await })
    }
}

impl Handler<RemoveSandbox> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, RemoveSandbox(sandbox): RemoveSandbox, ctx: &mut Self::Context) -> Self::Result {
        self.latest_health.forget(sandbox);
        self.wait_for(|reply| Pending::Remove(Asked::new(sandbox, reply)), ctx)
    }
}

impl Handler<RecordHealth> for Database {
    type Result = ();

    fn handle(&mut self, record: RecordHealth, ctx: &mut Self::Context) {
        if self.latest_health.put(record) {
            self.write_pending(ctx);
        }
    }
}

impl Handler<RecordEvent> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, event: RecordEvent, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(|reply| Pending::Event(Box::new(Asked::new(event, reply))), ctx)
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
