//! One request: how it is asked, and what its answer says.

use std::fmt::Write as _;
use std::time::Duration;

use hyper::Method;
use sandpen_api::{API_VERSION, ErrorBody, ErrorCode, ErrorDetail};
use sandpen_types::spec::SandboxKey;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::connection::{Body, Connection, Reply};
use super::{Client, ClientError};

impl Client {
    pub(super) async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.call::<(), T>(Method::GET, target, None).await
    }

    pub(super) async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let body = body.map_or(Ok(Body::Empty), Body::json)?;
        let reply = self.send(method, target, body).await?;
        self.decode(reply).await
    }

    pub(super) async fn decode<T: DeserializeOwned>(&self, reply: Reply) -> Result<T, ClientError> {
        let (_, body) = reply.collect().await?;
        serde_json::from_slice(&body).map_err(|source| ClientError::Json { socket: self.dir.socket(), source })
    }

    pub(super) async fn send(&self, method: Method, target: &str, body: Body) -> Result<Reply, ClientError> {
        self.check_version()?;
        self.send_unchecked(method, target, body).await
    }

    pub(super) fn check_version(&self) -> Result<(), ClientError> {
        match self.version.api {
            API_VERSION => Ok(()),
            _ => Err(ClientError::OtherVersion { version: Box::new((*self.version).clone()) }),
        }
    }

    /// Sends a request and turns an answer of 400 and above into an error.
    pub(super) async fn send_unchecked(&self, method: Method, target: &str, body: Body) -> Result<Reply, ClientError> {
        let reply = Connection::open(&self.dir).await?.send(method, target, body).await?;
        if reply.status().is_success() { Ok(reply) } else { Err(self.refusal(reply).await) }
    }

    /// What an answer of 400 and above says.
    pub(super) async fn refusal(&self, reply: Reply) -> ClientError {
        let (status, body) = match reply.collect().await {
            Ok(answer) => answer,
            Err(error) => return error,
        };
        match serde_json::from_slice(&body) {
            // This program asks for nothing that a daemon of its own version does not know.
            Ok(ErrorBody { error })
                if matches!(error.code.known(), Some(ErrorCode::NoSuchRoute | ErrorCode::MethodNotAllowed))
                    || is_unknown_wish(&error) =>
            {
                ClientError::Unknown { version: Box::new((*self.version).clone()) }
            }
            Ok(ErrorBody { error }) => ClientError::Api { status: status.as_u16(), error },
            Err(source) => ClientError::Json { socket: self.dir.socket(), source },
        }
    }
}

/// Whether a daemon refused a field of a body, a key of a query or a word in one of them that it does not know. The words are
/// serde's, and of a strict body the daemon's own, behind the same beginning in every version so far.
fn is_unknown_wish(error: &ErrorDetail) -> bool {
    const BEGINNINGS: [&str; 2] = ["Query deserialize error: ", "the body is not what is expected here: "];
    let words = BEGINNINGS.iter().find_map(|beginning| error.message.strip_prefix(beginning));
    let words = words.unwrap_or(&error.message);
    error.code.known() == Some(ErrorCode::InvalidRequest)
        && (words.starts_with("unknown field ") || words.starts_with("unknown variant "))
}

/// A sandbox's path with `rest`. Names need no escaping: their type allows safe characters only.
pub(super) fn path(key: &SandboxKey, rest: &str) -> String {
    format!("/v1/sandboxes/{}/{}{rest}", key.config, key.name)
}

/// A value in a query.
pub(super) fn encoded(value: &[u8]) -> String {
    value.iter().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(*byte)),
            // A String takes everything.
            byte => drop(write!(encoded, "%{byte:02X}")),
        }
        encoded
    })
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
