//! Reads what happened, line by line, over deaths of the daemon.

use bytes::{Buf, BytesMut};
use hyper::Method;
use sandpen_actors::spec::SandboxKey;

use super::connection::{Body, Reply};
use super::{Client, ClientError, ClientOptions};
use crate::api::{EventEntry, EventLine};

/// Longest line that is read: an event has a few hundred bytes, a reason some more.
const LINE_MAX_BYTES: usize = 1 << 20;
/// Daemons in a row that may die without one event of progress.
const RECONNECTS: u32 = 3;

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
    options: ClientOptions,
    request: EventsRequest,
    reply: Reply,
    buffer: BytesMut,
    failures: u32,
}

impl EventReader {
    pub(super) async fn open(
        client: Client,
        options: ClientOptions,
        request: EventsRequest,
    ) -> Result<Self, ClientError> {
        let reply = ask(&client, &request).await?;
        Ok(Self { client, options, request, reply, buffer: BytesMut::new(), failures: 0 })
    }

    /// The next event; `None` when everything has come. A daemon that dies while we follow is asked
    /// for again, and goes on where the last one stopped.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<EventEntry>, ClientError> {
        loop {
            match self.next_line().await {
                Err(error) if error.is_cut() && self.request.follow && self.failures < RECONNECTS => {
                    self.failures += 1;
                    self.client = Client::connect(&self.options).await?;
                    self.buffer.clear();
                    self.reply = match ask(&self.client, &self.request).await {
                        Err(error) if error.is_cut() => continue,
                        reply => reply?,
                    };
                }
                Ok(Some(EventLine::Event(event))) => {
                    self.failures = 0;
                    self.request.from = Some(event.seq + 1);
                    return Ok(Some(event));
                }
                Ok(Some(EventLine::Error(body))) => return Err(ClientError::EventsIncomplete(body.error)),
                Ok(None) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    async fn next_line(&mut self) -> Result<Option<EventLine>, ClientError> {
        let socket = || self.client.state_dir().socket();
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|source| ClientError::Json { socket: socket(), source });
            }
            if self.buffer.len() > LINE_MAX_BYTES {
                return Err(ClientError::TooLarge { socket: socket(), limit: LINE_MAX_BYTES });
            }
            match self.reply.next().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }
}

async fn ask(client: &Client, request: &EventsRequest) -> Result<Reply, ClientError> {
    let from = request.from.map_or_else(String::new, |from| format!("&from={from}"));
    let sandbox = request.sandbox.as_ref().map_or_else(String::new, |key| format!("&sandbox={key}"));
    let target = format!("/v1/events?follow={}{from}{sandbox}", request.follow);
    client.send(Method::GET, &target, Body::Empty).await
}
