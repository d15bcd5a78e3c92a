//! The streaming routes: output and VMM log out, stdin in. None holds more than one chunk.

use std::convert::Infallible;
use std::io;

use actix_web::HttpResponse;
use actix_web::web::{Data, Payload, Query};
use bytes::{Bytes, BytesMut};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::spec::SandboxKey;
use serde::{Deserialize, Serialize};

use super::body::each_chunk;
use super::extract::{KeyPath, key};
use super::reject::Rejection;
use super::sessions::{SessionPath, names};
use super::shared::Shared;
use super::view;
use crate::api::frame::{CONTENT_TYPE, End, Frame, POSITION_HEADER};
use crate::api::{EVENTS_CONTENT_TYPE, ErrorBody, ErrorCode, ErrorDetail, LogRecords, OutputQuery, StdinReply};
use crate::orchestrator::{Output, OutputOptions, StdinWriter, VmmLogOptions};

/// Query of `GET …/output`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputKeys {
    from: Option<String>,
    tail: Option<usize>,
    stream: Option<OutputStream>,
    #[serde(default, deserialize_with = "super::extract::flag")]
    follow: bool,
    since: Option<String>,
    until: Option<String>,
    #[serde(default)]
    format: OutputFormat,
}

/// How output is written.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutputFormat {
    #[default]
    Frames,
    Json,
}

impl OutputKeys {
    /// What to ask of the orchestrator.
    fn options(&self) -> Result<OutputOptions, Rejection> {
        let from = OutputQuery::start(self.from.as_deref(), self.tail);
        let from = from.map_err(|error| Rejection::from_error(ErrorCode::InvalidRequest, &error))?;
        let window = OutputQuery::window(self.since.as_deref(), self.until.as_deref());
        let (since, until) = window.map_err(|error| Rejection::from_error(ErrorCode::InvalidRequest, &error))?;
        Ok(OutputOptions { from, follow: self.follow, stream: self.stream, since, until })
    }
}

/// `GET …/output`.
pub async fn output(shared: Data<Shared>, path: KeyPath, query: Query<OutputKeys>) -> Result<HttpResponse, Rejection> {
    let (key, options) = (key(path)?, query.options()?);
    let output = shared.handle.output(&key, options).await?;
    Ok(respond(shared, key, output, options.follow, query.format))
}

/// `GET …/jobs/{id}/output`.
pub async fn job_output(
    shared: Data<Shared>,
    path: SessionPath,
    query: Query<OutputKeys>,
) -> Result<HttpResponse, Rejection> {
    let ((key, id), options) = (names(path)?, query.options()?);
    let output = shared.handle.job_output(&key, id, options).await?;
    Ok(respond(shared, key, output, options.follow, query.format))
}

fn respond(
    shared: Data<Shared>,
    key: SandboxKey,
    mut output: Output,
    follow: bool,
    format: OutputFormat,
) -> HttpResponse {
    let position = output.position();
    let mut writer = OutputWriter::new(format);
    let frames = async_stream::stream! {
        let end = loop {
            let next = tokio::select! {
                // First: what the orchestrator's end looks like from here must not pass for the sandbox's.
                biased;
                // What is on file already is still read to its end.
                () = shared.ending.cancelled(), if follow => {
                    let error = ErrorDetail::message(ErrorCode::ShuttingDown, "the daemon is shutting down; the sandbox runs on");
                    break End { complete: false, error: Some(error) };
                }
                next = output.next() => next,
            };
            match next {
                Ok(Some(chunk)) => {
                    let wire = writer.write(&view::frame(chunk));
                    if !wire.is_empty() {
                        yield Ok::<_, Infallible>(wire);
                    }
                }
                Ok(None) => break End { complete: true, error: None },
                Err(error) => {
                    tracing::warn!(sandbox = %key, code = %error.code(), %error, "an output stream failed");
                    break End { complete: false, error: Some(ErrorDetail::new(error.code(), &error)) };
                }
            }
        };
        yield Ok(writer.end(end));
    };
    let content_type = match format {
        OutputFormat::Frames => CONTENT_TYPE,
        OutputFormat::Json => EVENTS_CONTENT_TYPE,
    };
    HttpResponse::Ok().content_type(content_type).insert_header((POSITION_HEADER, position)).streaming(frames)
}

/// Output as it goes over the wire.
enum OutputWriter {
    Frames,
    Json(LogRecords),
}

impl OutputWriter {
    fn new(format: OutputFormat) -> Self {
        match format {
            OutputFormat::Frames => Self::Frames,
            OutputFormat::Json => Self::Json(LogRecords::default()),
        }
    }

    fn write(&mut self, frame: &Frame) -> Bytes {
        match self {
            Self::Frames => encoded(frame),
            Self::Json(records) => lines(&records.push(frame)),
        }
    }

    fn end(mut self, end: End) -> Bytes {
        match &mut self {
            Self::Frames => encoded(&Frame::End(end)),
            Self::Json(records) => {
                let mut wire = BytesMut::from(lines(&records.finish()));
                if let Some(error) = end.error {
                    wire.extend_from_slice(&lines(&[ErrorBody { error }]));
                }
                wire.freeze()
            }
        }
    }
}

/// One JSON object a line.
fn lines(values: &[impl Serialize]) -> Bytes {
    let mut wire = Vec::new();
    for value in values {
        // Structs of strings and numbers always serialise.
        if serde_json::to_writer(&mut wire, value).is_ok() {
            wire.push(b'\n');
        }
    }
    wire.into()
}

/// Query of `GET …/vmm-log`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmmLogQuery {
    tail: Option<usize>,
    #[serde(default, deserialize_with = "super::extract::flag")]
    follow: bool,
}

/// `GET …/vmm-log`: bare bytes. An answer that is not complete breaks off.
pub async fn vmm_log(
    shared: Data<Shared>,
    path: KeyPath,
    query: Query<VmmLogQuery>,
) -> Result<HttpResponse, Rejection> {
    let key = key(path)?;
    let options = VmmLogOptions { tail: query.tail, follow: query.follow };
    let mut log = shared.handle.vmm_log(&key, options).await?;
    let chunks = async_stream::stream! {
        loop {
            let next = tokio::select! {
                biased;
                () = shared.ending.cancelled(), if options.follow => {
                    yield Err(io::Error::other("the daemon is shutting down"));
                    break;
                }
                next = log.next() => next,
            };
            match next {
                Ok(Some(bytes)) => yield Ok(Bytes::from(bytes)),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(sandbox = %key, code = %error.code(), %error, "a VMM log could not be sent whole");
                    yield Err(io::Error::other(error));
                    break;
                }
            }
        }
    };
    Ok(HttpResponse::Ok().content_type("application/octet-stream").streaming(chunks))
}

fn encoded(frame: &Frame) -> Bytes {
    let mut wire = BytesMut::new();
    frame.encode(&mut wire);
    wire.freeze()
}

/// Query of `POST …/stdin`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdinQuery {
    #[serde(default = "yes", deserialize_with = "super::extract::flag")]
    close: bool,
}

fn yes() -> bool {
    true
}

/// `POST …/stdin`. A body that breaks off leaves stdin open: the workload must not take half of
/// its input for all of it.
pub async fn stdin(
    shared: Data<Shared>,
    path: KeyPath,
    query: Query<StdinQuery>,
    body: Payload,
) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let key = key(path)?;
    let writer = shared.handle.stdin(&key).await?;
    feed(&shared, &key, &writer, query.close, body).await
}

/// `POST …/jobs/{id}/stdin`, likewise.
pub async fn job_stdin(
    shared: Data<Shared>,
    path: SessionPath,
    query: Query<StdinQuery>,
    body: Payload,
) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let (key, id) = names(path)?;
    let writer = shared.handle.job_stdin(&key, id).await?;
    feed(&shared, &key, &writer, query.close, body).await
}

async fn feed(
    shared: &Shared,
    key: &SandboxKey,
    writer: &StdinWriter,
    close: bool,
    body: Payload,
) -> Result<HttpResponse, Rejection> {
    let cut = |bytes, error: &_| {
        tracing::debug!(sandbox = %key, %error, "a stdin body broke off");
        format!("the body broke off after {bytes} bytes; stdin stays open")
    };
    let bytes = each_chunk(&shared.ending, body, async |chunk| writer.write(chunk.into()).await, cut).await?;
    if close {
        writer.close().await?;
    }
    Ok(HttpResponse::Ok().json(StdinReply { bytes }))
}

#[cfg(test)]
mod tests {
    use sandpen_types::log_start::LogStart;

    use super::*;

    #[test]
    fn queries_that_contradict_themselves_are_refused() {
        let query = |text: &str| Query::<OutputKeys>::from_query(text);
        assert!(query("from=oldest&tail=3").unwrap().options().is_err());
        assert!(query("from=-1").unwrap().options().is_err());
        assert!(query("from=../x").unwrap().options().is_err());
        assert!(query("form=oldest").is_err());
        assert!(query("format=xml").is_err());
        for window in
            ["since=10m", "until=", "since=2026-01-31", "since=2026-01-31T00:00:00Z&until=2026-01-30T00:00:00Z"]
        {
            assert!(query(window).unwrap().options().is_err(), "{window}");
        }
        let options = query("since=2026-01-31T00:00:00%2B01:00&until=2026-02-01T00:00:00Z").unwrap().options().unwrap();
        assert!(options.since.unwrap().to_rfc3339() == "2026-01-30T23:00:00+00:00" && options.until.is_some());
        assert!(query("stream=stdin").is_err());
        assert!(query("follow=maybe").is_err());
        assert!(Query::<VmmLogQuery>::from_query("stream=stdout").is_err());
        assert!(Query::<VmmLogQuery>::from_query("tail=-1").is_err());
        let options = query("from=17&follow").unwrap().options().unwrap();
        assert!(options.follow && options.from == LogStart::Position(17));
    }

    #[test]
    fn queries_of_version_1_are_understood() {
        let of = |text: &str| Query::<OutputKeys>::from_query(text).unwrap().options().unwrap();
        let whole = OutputOptions::default();
        let stderr = OutputOptions { follow: true, stream: Some(OutputStream::Stderr), ..whole };
        for (text, expected) in [
            ("", whole),
            ("follow=false", whole),
            ("from=oldest&follow=0", whole),
            ("follow=true&stream=stderr", stderr),
            ("follow&from=17&stream=stderr", OutputOptions { from: LogStart::Position(17), ..stderr }),
            ("from=%2B17", OutputOptions { from: LogStart::Position(17), ..whole }),
            ("from=18446744073709551615", OutputOptions { from: LogStart::Position(u64::MAX), ..whole }),
            ("follow=false&from=generation:3", OutputOptions { from: LogStart::Generation(3), ..whole }),
            ("from=generation", OutputOptions { from: LogStart::LatestGeneration, ..whole }),
            ("follow=false&tail=20", OutputOptions { from: LogStart::Tail(20), ..whole }),
            (
                "tail=0&stream=stdout",
                OutputOptions { from: LogStart::Tail(0), stream: Some(OutputStream::Stdout), ..whole },
            ),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
        for text in [
            "from=",
            "from=Oldest",
            "from=generation:",
            "from=generation:x",
            "from=generation:-1",
            "from=generation:18446744073709551616",
            "from=18446744073709551616",
            "from=1.5",
            "from=tail:3",
            "tail=",
            "tail=1&tail=2",
            "tail=18446744073709551616",
            "from=1&from=2",
            "stream=stdout&stream=stderr",
            "stream=",
            "follow=yes",
        ] {
            let query = Query::<OutputKeys>::from_query(text);
            assert!(query.is_err() || query.unwrap().options().is_err(), "{text}");
        }
    }
}
