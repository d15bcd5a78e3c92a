//! Records the events that the actors tell, each until it is durable.

use sandpen_types::backoff::Pauses;

use super::{Database, RecordEvent};
use crate::runtime::actor_ref::ActorRef;
use crate::telemetry::counters::Counter;
use crate::telemetry::faults::Faults;
use crate::telemetry::outbox::{Outgoing, WaitingEvents};

/// Records events in their order; ends with the database.
pub async fn record_all(database: ActorRef<Database>, faults: Faults, mut waiting: WaitingEvents) {
    while let Some(outgoing) = waiting.next().await {
        let event = match outgoing {
            Outgoing::Event(event) => *event,
            Outgoing::Flush(done) => {
                // The asker may have stopped waiting.
                let _ = done.send(());
                continue;
            }
        };
        let mut failures = 0;
        loop {
            match database.send(RecordEvent(event.clone())).await {
                Ok(Ok(())) => break,
                Ok(Err(_)) => faults.count(Counter::DatabaseRetries),
                Err(_) => return,
            }
            failures += 1;
            tokio::time::sleep(Pauses::STORAGE.after(failures)).await;
        }
    }
}
