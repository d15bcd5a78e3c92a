//! Records the events that the actors tell, each until it is durable.

use std::time::Duration;

use super::{Database, RecordEvent};
use crate::actor_ref::ActorRef;
use crate::counters::Counter;
use crate::faults::Faults;
use crate::outbox::{Outgoing, WaitingEvents};

/// Pauses between tries to record an event: the first one, doubled up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

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
        let (mut pause, longest) = PAUSES;
        loop {
            match database.send(RecordEvent(event.clone())).await {
                Ok(Ok(())) => break,
                Ok(Err(_)) => faults.count(Counter::DatabaseRetries),
                Err(_) => return,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}
