//! `GET /v1/events`: what happened, one JSON object per line.

use std::io;

use actix_web::HttpResponse;
use actix_web::web::{Data, Query};
use bytes::Bytes;
use sandpen_types::event::StoredEvent;
use sandpen_types::spec::{SandboxKey, SpecError};
use serde::{Deserialize, Serialize};

use super::reject::Rejection;
use super::shared::Shared;
use crate::api::{EVENTS_CONTENT_TYPE, ErrorBody, ErrorCode, ErrorDetail, EventEntry};
use crate::orchestrator::EventsOptions;

/// Query of `GET /v1/events`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    from: Option<u64>,
    sandbox: Option<String>,
    #[serde(default, deserialize_with = "super::extract::flag")]
    follow: bool,
}

impl EventsQuery {
    fn options(&self) -> Result<EventsOptions, Rejection> {
        let sandbox = self.sandbox.as_deref().map(sandbox_key).transpose()?;
        Ok(EventsOptions { from: self.from, follow: self.follow, sandbox })
    }
}

fn sandbox_key(text: &str) -> Result<SandboxKey, Rejection> {
    text.parse().map_err(|error| match error {
        SpecError::Key(_) => Rejection::new(ErrorCode::InvalidRequest, format!("sandbox={error}")),
        error => Rejection::from_error(ErrorCode::InvalidName, &error),
    })
}

/// `GET /v1/events`. An answer that is not complete breaks off, or ends with a line that says why.
pub async fn events(shared: Data<Shared>, query: Query<EventsQuery>) -> Result<HttpResponse, Rejection> {
    let options = query.options()?;
    let follow = options.follow;
    let mut events = shared.handle.events(options).await?;
    let lines = async_stream::stream! {
        loop {
            let batch = tokio::select! {
                biased;
                () = shared.ending.cancelled(), if follow => {
                    let error = ErrorDetail::message(ErrorCode::ShuttingDown, "the daemon is shutting down");
                    yield line(&ErrorBody { error });
                    break;
                }
                batch = events.next_batch() => batch,
            };
            match batch {
                Ok(batch) if batch.is_empty() => break,
                Ok(batch) => yield lines_of(batch),
                Err(error) => {
                    tracing::warn!(code = %error.code(), %error, "a stream of events failed");
                    yield line(&ErrorBody { error: ErrorDetail::new(error.code(), &error) });
                    break;
                }
            }
        }
    };
    Ok(HttpResponse::Ok().content_type(EVENTS_CONTENT_TYPE).streaming(lines))
}

fn lines_of(batch: Vec<StoredEvent>) -> io::Result<Bytes> {
    let lines: io::Result<Vec<Bytes>> = batch.into_iter().map(|record| line(&EventEntry::from(record))).collect();
    Ok(Bytes::from(lines?.concat()))
}

fn line(value: &impl Serialize) -> io::Result<Bytes> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(Bytes::from(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_that_make_no_sense_are_refused() {
        let query = |text: &str| Query::<EventsQuery>::from_query(text);
        for bad in
            ["from=-1", "from=x", "from=18446744073709551616", "from=", "follow=maybe", "since=3", "from=1&from=2"]
        {
            assert!(query(bad).is_err(), "{bad}");
        }
        for bad in ["sandbox=a", "sandbox=", "sandbox=../a", "sandbox=a/b/c", "sandbox=a/"] {
            assert!(query(bad).unwrap().options().is_err(), "{bad}");
        }
        let options = query("from=7&follow&sandbox=c/n").unwrap().options().unwrap();
        assert_eq!((options.from, options.follow, options.sandbox.unwrap().to_string()), (Some(7), true, "c/n".into()));
    }
}
