//! One connection for one request.

use std::convert::Infallible;
use std::io;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderValue, RANGE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sandpen_types::state_dir::StateDir;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::ClientError;
use super::stdin::StdinReceiver;

/// Most bytes of an answer that is read whole: some ten thousand sandboxes.
const ANSWER_MAX_BYTES: usize = 256 << 20;

/// What a request carries.
pub(super) enum Body {
    /// Nothing.
    Empty,
    /// JSON.
    Json(Vec<u8>),
    /// Bytes as they come.
    Stream(StdinReceiver),
}

impl Body {
    pub(super) fn json(value: &impl Serialize) -> Result<Self, ClientError> {
        serde_json::to_vec(value).map(Self::Json).map_err(ClientError::Request)
    }
}

/// A connected socket whose peer is our user or root.
pub(super) struct Connection {
    dir: StateDir,
    sender: SendRequest<UnsyncBoxBody<Bytes, io::Error>>,
    /// Moves the bytes; ends with the connection. What it finds broken, the request's future says.
    driver: AbortOnDropHandle<()>,
}

impl Connection {
    pub(super) async fn open(dir: &StateDir) -> Result<Self, ClientError> {
        let socket = dir.socket();
        let stream = match UnixStream::connect(&socket).await {
            Ok(stream) => stream,
            Err(source) => {
                // Refused: a socket without a listener, or a plain file. Reset: its listener died just now.
                return Err(match source.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                        ClientError::NotRunning { socket, source }
                    }
                    _ => ClientError::Connect { socket, source },
                });
            }
        };
        let user = match stream.peer_cred() {
            Ok(peer) => peer.uid(),
            Err(source) => return Err(ClientError::Connect { socket, source }),
        };
        let ours = nix::unistd::geteuid().as_raw();
        // Root may look after others' daemons; the directory's owner was checked with it.
        if user != ours && user != 0 && ours != 0 {
            return Err(ClientError::Foreign { socket, reason: format!("it belongs to user id {user}") });
        }
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|source| ClientError::Http { socket, source })?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "the connection to the daemon broke");
            }
        });
        Ok(Self { dir: dir.clone(), sender, driver: AbortOnDropHandle::new(driver) })
    }

    pub(super) async fn send(self, method: Method, target: &str, body: Body) -> Result<Reply, ClientError> {
        self.send_for(method, target, body, None).await
    }

    /// The same for a range of what there is.
    pub(super) async fn send_for(
        mut self,
        method: Method,
        target: &str,
        body: Body,
        range: Option<&str>,
    ) -> Result<Reply, ClientError> {
        let mut request = Request::builder().method(method).uri(target).header(HOST, "sandpen");
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let (request, body) = match body {
            Body::Empty => (request, Empty::new().map_err(never).boxed_unsync()),
            Body::Json(json) => (
                request.header(CONTENT_TYPE, "application/json"),
                Full::new(Bytes::from(json)).map_err(never).boxed_unsync(),
            ),
            Body::Stream(input) => (
                request.header(CONTENT_TYPE, "application/octet-stream"),
                StreamBody::new(input.map(|chunk| chunk.map(Frame::data))).boxed_unsync(),
            ),
        };
        let request = request.body(body).map_err(ClientError::Malformed)?;
        match self.sender.send_request(request).await {
            Ok(response) => Ok(Reply { response, dir: self.dir, _driver: self.driver }),
            Err(source) => Err(ClientError::Http { socket: self.dir.socket(), source }),
        }
    }
}

impl Connection {
    /// Makes a WebSocket of it; an answer with another status is answered as it is.
    pub(super) async fn upgrade(mut self, target: &str) -> Result<Result<Upgraded, Reply>, ClientError> {
        // A number of 16 bytes that differs from request to request, as the protocol wants it.
        let key = [(); 2].map(|()| super::random_session_id().get().to_le_bytes()).concat();
        let key = BASE64_STANDARD.encode(key);
        let request = Request::get(target)
            .header(HOST, "sandpen")
            .header(CONNECTION, HeaderValue::from_static("Upgrade"))
            .header(UPGRADE, HeaderValue::from_static("websocket"))
            .header(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
            .header(SEC_WEBSOCKET_KEY, key)
            .body(Empty::new().map_err(never).boxed_unsync())
            .map_err(ClientError::Malformed)?;
        let failed = |source| ClientError::Http { socket: self.dir.socket(), source };
        let response = self.sender.send_request(request).await.map_err(failed)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Err(Reply { response, dir: self.dir, _driver: self.driver }));
        }
        // Whoever accepts is the daemon, whose answer to GET /v1/version was looked at: its hash of the key says nothing more.
        hyper::upgrade::on(response).await.map(Ok).map_err(failed)
    }
}

fn never(never: Infallible) -> io::Error {
    match never {}
}

/// The answer to a request, whose body is still to be read.
pub(super) struct Reply {
    response: Response<Incoming>,
    dir: StateDir,
    _driver: AbortOnDropHandle<()>,
}

impl Reply {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// A header that is a number.
    pub(super) fn number(&self, header: &str) -> Option<u64> {
        self.response.headers().get(header)?.to_str().ok()?.parse().ok()
    }

    /// Status and whole body.
    pub(super) async fn collect(self) -> Result<(StatusCode, Bytes), ClientError> {
        let socket = self.dir.socket();
        let status = self.response.status();
        match Limited::new(self.response.into_body(), ANSWER_MAX_BYTES).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) => Err(match error.downcast::<hyper::Error>() {
                Ok(source) => ClientError::Http { socket, source: *source },
                Err(other) => {
                    debug_assert!(other.is::<LengthLimitError>());
                    ClientError::TooLarge { socket, limit: ANSWER_MAX_BYTES }
                }
            }),
        }
    }

    /// The next piece of the body; `None` at its proper end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.response.body_mut().frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(source)) => return Err(ClientError::Http { socket: self.dir.socket(), source }),
            }
        }
    }
}
