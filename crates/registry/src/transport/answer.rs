//! The answer to a request: its body by pieces, with a time-out of silence, or whole, with a bound.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::{Site, broken};
use crate::endpoint::authority;
use crate::error::{RegistryError, shown};
use crate::retry::retry_after;

/// Most bytes of an error's text.
const REFUSAL_MAX: u64 = 64 << 10;
/// A document is read within so many times the time-out of silence.
const DOCUMENT_PATIENCE: u32 = 4;

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    response: reqwest::Response,
    host: String,
    url: Url,
    is_from_home: bool,
    idle: Duration,
}

/// What registries say of errors (distribution-spec, "Error Codes").
#[derive(Deserialize)]
struct Refusals {
    errors: Vec<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Answer {
    pub fn new(response: reqwest::Response, url: Url, is_from_home: bool, idle: Duration) -> Self {
        Self { response, host: authority(&url), url, is_from_home, idle }
    }

    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// A header's text.
    pub fn header(&self, name: impl reqwest::header::AsHeaderName) -> Option<&str> {
        self.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// Host and port of who answered.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where the last redirect led to.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Whether the registry itself answered, and nobody it redirected to.
    pub fn is_from_home(&self) -> bool {
        self.is_from_home
    }

    /// The type of the body, without parameters, in lower case.
    pub fn media_type(&self) -> Option<String> {
        let text = self.header(CONTENT_TYPE)?;
        let word = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        (!word.is_empty()).then_some(word)
    }

    /// Bytes of the body, if it is said.
    pub fn len(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.parse().ok()
    }

    /// The next piece.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(broken::explain(&error, &self.url, &[])),
            Err(_) => Err(RegistryError::Silent { host: self.host.clone(), after: self.idle }),
        }
    }

    /// The whole body.
    pub async fn bytes(&mut self, max: u64) -> Result<Vec<u8>, RegistryError> {
        if self.len().is_some_and(|len| len > max) {
            return Err(RegistryError::TooLarge { host: self.host.clone(), max });
        }
        let after = self.idle.saturating_mul(DOCUMENT_PATIENCE);
        let mut bytes = Vec::new();
        let reading = async {
            while let Some(chunk) = self.chunk().await? {
                if u64::try_from(bytes.len() + chunk.len()).unwrap_or(u64::MAX) > max {
                    return Err(RegistryError::TooLarge { host: self.host.clone(), max });
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(())
        };
        match tokio::time::timeout(after, reading).await {
            Ok(read) => read.map(|()| bytes),
            Err(_) => Err(RegistryError::Slow { host: self.host.clone(), after }),
        }
    }

    /// The error that an answer without success is.
    pub async fn refusal(mut self, site: &Site, what: &str) -> RegistryError {
        let status = self.status().as_u16();
        let now = SystemTime::now();
        let after = retry_after(self.headers(), now);
        let (host, what) = (self.host.clone(), what.to_owned());
        // What somebody else answers whom the registry redirected to is nobody's to read.
        let said = if self.is_from_home { self.said().await } else { String::new() };
        let registry = site.name.clone();
        match status {
            // A storage's link has expired, or its time is wrong: the registry makes a new one.
            401 | 403 if !self.is_from_home => RegistryError::Status { host, what, status: 503, said, after },
            401 | 403 => RegistryError::Denied { what, registry, with_credentials: site.credentials.is_some(), said },
            404 => RegistryError::NotFound { what, registry, tags: Vec::new() },
            429 => {
                let until = after.and_then(|after| chrono::Duration::from_std(after).ok());
                let until = until.and_then(|after| DateTime::<Utc>::from(now).checked_add_signed(after));
                RegistryError::RateLimited { host, until, after }
            }
            _ => RegistryError::Status { host, what, status, said, after },
        }
    }

    /// What the registry says of an error.
    pub async fn said(&mut self) -> String {
        let bytes = self.bytes(REFUSAL_MAX).await.unwrap_or_default();
        let Ok(refusals) = serde_json::from_slice::<Refusals>(&bytes) else { return String::new() };
        let words = refusals.errors.into_iter().next();
        let words = words.map(|one| if one.message.is_empty() { one.code } else { one.message });
        shown(&words.unwrap_or_default())
    }

    /// An answer that makes no sense.
    pub fn senseless(&self, reason: impl Into<String>) -> RegistryError {
        RegistryError::Protocol { host: self.host.clone(), reason: reason.into() }
    }
}
