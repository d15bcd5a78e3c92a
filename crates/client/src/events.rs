//! Reads what happened, line by line, whatever becomes of the daemon.

use hyper::Method;
use sandpen_api::{EventEntry, EventLine};
use sandpen_types::spec::SandboxKey;

use super::connection::Body;
use super::lines::LineReader;
use super::resume::Resume;
use super::{Client, ClientError, ClientOptions};

/// Which events are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventsRequest {
    /// The first number; `None` for the oldest that is kept.
    pub from: Option<u64>,
    /// Whether to wait for more.
    pub follow: bool,
    /// Only those of this sandbox.
    pub sandbox: Option<SandboxKey>,
}

/// A stream of events.
pub struct EventReader {
    client: Client,
    request: EventsRequest,
    /// `None` between two daemons.
    lines: Option<LineReader<EventLine>>,
    resume: Resume,
}

impl EventReader {
    pub(super) async fn open(
        client: Client,
        options: &ClientOptions,
        request: EventsRequest,
    ) -> Result<Self, ClientError> {
        let mut reader = Self { client, request, lines: None, resume: Resume::new(options, None) };
        loop {
            match reader.lines().await {
                Ok(_) => return Ok(reader),
                Err(error) => reader.client = reader.resume.after(error).await?,
            }
        }
    }

    /// The next event; `None` when everything has come. Where the daemon dies or is replaced, the next one is
    /// found, or started, and goes on after the last event. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError::EventsIncomplete`] where the daemon cannot go on, [`ClientError::NoSuccessor`] where none does.
    pub async fn next(&mut self) -> Result<Option<EventEntry>, ClientError> {
        loop {
            let next = match self.lines().await {
                Ok(lines) => lines.next().await,
                Err(error) => Err(error),
            };
            let error = match next {
                Ok(Some(EventLine::Event(event))) => {
                    self.request.from = Some(event.seq + 1);
                    self.resume.progressed();
                    return Ok(Some(event));
                }
                Ok(Some(EventLine::Error(body))) => ClientError::EventsIncomplete(body.error),
                Ok(None) => return Ok(None),
                Err(error) => error,
            };
            if error.is_away() {
                self.lines = None;
            }
            self.client = self.resume.after(error).await?;
        }
    }

    async fn lines(&mut self) -> Result<&mut LineReader<EventLine>, ClientError> {
        let lines = match self.lines.take() {
            Some(lines) => lines,
            None => open(&self.client, &self.request).await?,
        };
        Ok(self.lines.insert(lines))
    }
}

async fn open(client: &Client, request: &EventsRequest) -> Result<LineReader<EventLine>, ClientError> {
    let from = request.from.map_or_else(String::new, |from| format!("&from={from}"));
    let sandbox = request.sandbox.as_ref().map_or_else(String::new, |key| format!("&sandbox={key}"));
    let target = format!("/v1/events?follow={}{from}{sandbox}", request.follow);
    let reply = client.send(Method::GET, &target, Body::Empty).await?;
    Ok(LineReader::new(client.state_dir().socket(), reply))
}
