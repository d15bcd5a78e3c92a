//! The two streaming routes: output out, stdin in. Neither holds more than one chunk.

use std::convert::Infallible;

use actix_web::HttpResponse;
use actix_web::web::{Data, Payload, Query};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use sandpen_actors::driver::OutputStream;
use serde::Deserialize;

use super::reject::Rejection;
use super::routes::{KeyPath, key};
use super::shared::Shared;
use crate::api::frame::{CONTENT_TYPE, End, Frame};
use crate::api::{ErrorDetail, StdinReply};
use crate::orchestrator::{OutputFrom, OutputOptions};
use sandpen_actors::log_writer::LogChunk;

/// Query of `GET …/output`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputQuery {
    from: Option<String>,
    tail: Option<usize>,
    stream: Option<OutputStream>,
    #[serde(default, deserialize_with = "super::routes::flag")]
    follow: bool,
}

impl OutputQuery {
    /// What to ask of the orchestrator, and before which position nothing is sent.
    fn options(&self) -> Result<(OutputOptions, u64), Rejection> {
        let invalid = |message: String| Rejection::new("invalid_request", message);
        let (from, skip_to) = match (self.from.as_deref(), self.tail) {
            (Some(_), Some(_)) => return Err(invalid("from and tail exclude each other".to_owned())),
            (None, Some(lines)) => (OutputFrom::Tail(lines), 0),
            (None | Some("oldest"), None) => (OutputFrom::Oldest, 0),
            (Some("generation"), None) => (OutputFrom::Generation, 0),
            (Some(position), None) => match position.parse() {
                Ok(position) => (OutputFrom::Oldest, position),
                Err(_) => {
                    return Err(invalid(format!("from={position:?} is not oldest, generation or a position")));
                }
            },
        };
        Ok((OutputOptions { from, follow: self.follow, stream: self.stream }, skip_to))
    }
}

/// `GET …/output`.
pub async fn output(shared: Data<Shared>, path: KeyPath, query: Query<OutputQuery>) -> Result<HttpResponse, Rejection> {
    let key = key(path)?;
    let (options, skip_to) = query.options()?;
    let mut output = shared.handle.output(&key, options).await?;
    let frames = async_stream::stream! {
        let end = loop {
            let next = tokio::select! {
                next = output.next() => next,
                // What is on file already is read to its end all the same.
                () = shared.ending.cancelled(), if options.follow => {
                    let error = ErrorDetail::message("shutting_down", "the daemon is shutting down; the sandbox runs on");
                    break End { complete: false, error: Some(error) };
                }
            };
            match next {
                Ok(Some(chunk)) => {
                    if let Some(frame) = frame_from(chunk, skip_to) {
                        yield Ok::<_, Infallible>(encoded(&frame));
                    }
                }
                Ok(None) => break End { complete: true, error: None },
                Err(error) => {
                    tracing::warn!(sandbox = %key, code = error.code(), %error, "an output stream failed");
                    break End { complete: false, error: Some(ErrorDetail::new(error.code(), &error)) };
                }
            }
        };
        yield Ok(encoded(&Frame::End(end)));
    };
    Ok(HttpResponse::Ok().content_type(CONTENT_TYPE).streaming(frames))
}

fn encoded(frame: &Frame) -> Bytes {
    let mut wire = BytesMut::new();
    frame.encode(&mut wire);
    wire.freeze()
}

/// The frame of a chunk without what lies before `skip_to`; `None` if nothing is left.
fn frame_from(chunk: LogChunk, skip_to: u64) -> Option<Frame> {
    let skipped = |position: u64, len: u64| skip_to.saturating_sub(position).min(len);
    match chunk {
        LogChunk::Bytes { stream, at, position, bytes } => {
            let skip = skipped(position, bytes.len() as u64);
            let bytes = Bytes::from(bytes).slice(usize::try_from(skip).unwrap_or(usize::MAX)..);
            (!bytes.is_empty()).then_some(Frame::Bytes { stream, at, position: position + skip, bytes })
        }
        LogChunk::Gap { position, bytes } => {
            let skip = skipped(position, bytes);
            (bytes > skip).then_some(Frame::Gap { position: position + skip, bytes: bytes - skip })
        }
    }
}

/// `POST …/stdin`. A body that breaks off leaves stdin open: the workload must not take half of
/// its input for all of it.
pub async fn stdin(shared: Data<Shared>, path: KeyPath, mut body: Payload) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let key = key(path)?;
    let writer = shared.handle.stdin(&key).await?;
    let mut total = 0_u64;
    loop {
        let chunk = tokio::select! {
            chunk = body.next() => chunk,
            () = shared.ending.cancelled() => return Err(Rejection::shutting_down()),
        };
        match chunk {
            Some(Ok(chunk)) => {
                total += chunk.len() as u64;
                writer.write(chunk.into()).await?;
            }
            Some(Err(error)) => {
                tracing::debug!(sandbox = %key, %error, "a stdin body broke off");
                let message = format!("the body broke off after {total} bytes; stdin stays open");
                return Err(Rejection::new("invalid_request", message));
            }
            None => break,
        }
    }
    writer.close().await?;
    Ok(HttpResponse::Ok().json(StdinReply { bytes: total }))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn chunk(position: u64, bytes: &[u8]) -> LogChunk {
        LogChunk::Bytes { stream: OutputStream::Stdout, at: DateTime::UNIX_EPOCH, position, bytes: bytes.to_vec() }
    }

    #[test]
    fn what_was_seen_already_is_skipped() {
        assert!(frame_from(chunk(0, b"abc"), 3).is_none());
        let Some(Frame::Bytes { position, bytes, .. }) = frame_from(chunk(0, b"abc"), 2) else { panic!() };
        assert_eq!((position, bytes.as_ref()), (2, b"c".as_slice()));
        let Some(Frame::Bytes { position, bytes, .. }) = frame_from(chunk(9, b"abc"), 2) else { panic!() };
        assert_eq!((position, bytes.as_ref()), (9, b"abc".as_slice()));
        assert!(frame_from(LogChunk::Gap { position: 0, bytes: 5 }, u64::MAX).is_none());
        let Some(Frame::Gap { position, bytes }) = frame_from(LogChunk::Gap { position: 1, bytes: 5 }, 4) else {
            panic!()
        };
        assert_eq!((position, bytes), (4, 2));
    }

    #[test]
    fn queries_that_contradict_themselves_are_refused() {
        let query = |text: &str| Query::<OutputQuery>::from_query(text);
        assert!(query("from=oldest&tail=3").unwrap().options().is_err());
        assert!(query("from=-1").unwrap().options().is_err());
        assert!(query("from=../x").unwrap().options().is_err());
        assert!(query("form=oldest").is_err());
        assert!(query("stream=stdin").is_err());
        assert!(query("follow=maybe").is_err());
        let (options, skip) = query("from=17&follow").unwrap().options().unwrap();
        assert!(options.follow && skip == 17);
    }
}
