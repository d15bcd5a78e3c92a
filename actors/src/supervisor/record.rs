//! Edges of sandboxes that have no monitor: the supervisor is their writer.

use std::time::Duration;

use actix::{Handler, MailboxError, Message};
use chrono::Utc;
use sandpen_types::error_chain::error_chain;
use sandpen_types::row::SandboxRow;
use sandpen_types::state::Event;
use sandpen_types::transition::advance;

use super::SupervisorError;
use crate::database::{Database, DatabaseError, Flush, RecordTransition};
use crate::runtime::actor_ref::ActorRef;
use crate::telemetry::counters::Counter;
use crate::telemetry::faults::Faults;

/// Pause before what the database could not do is tried again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Applies one edge to a row that has no monitor and makes it durable.
pub(super) async fn record(
    database: &ActorRef<Database>,
    row: &SandboxRow,
    event: Event,
) -> Result<SandboxRow, SupervisorError> {
    match advance(row, &event, Utc::now(), None) {
        Ok(Some((row, record))) => {
            database.send(RecordTransition(record)).await??;
            Ok(row)
        }
        Ok(None) => Ok(row.clone()),
        Err(_) => Err(SupervisorError::AlreadyLive { key: row.spec.key.clone(), status: row.state.status().as_str() }),
    }
}

/// As [`record`], for what has happened or is decided whether the database can take it now or not: tries
/// until it is durable.
pub(super) async fn record_until_durable(
    database: &ActorRef<Database>,
    faults: &Faults,
    row: &SandboxRow,
    event: Event,
) -> Result<SandboxRow, SupervisorError> {
    loop {
        match record(database, row, event.clone()).await {
            Err(SupervisorError::Database(error)) if !matches!(error, DatabaseError::UnknownSandbox { .. }) => {
                let error = error_chain(&error);
                tracing::warn!(sandbox = %row.spec.key, error, "the state change is not durable yet");
                faults.count(Counter::DatabaseRetries);
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            recorded => return recorded,
        }
    }
}

/// Asks when all is written that was sent before, also by an actor that has ended since: see [`Flush`].
pub(super) async fn settled<M, T>(database: &ActorRef<Database>, question: M) -> Result<M::Result, MailboxError>
where
    Database: Handler<M>,
    M: Message<Result = Result<T, DatabaseError>> + Clone + Send + 'static,
    T: Send + 'static,
{
    match flush(database).await? {
        Ok(()) => database.send(question).await,
        Err(error) => Ok(Err(error)),
    }
}

fn flush(database: &ActorRef<Database>) -> impl Future<Output = Result<Result<(), DatabaseError>, MailboxError>> {
    database.send(Flush)
}
