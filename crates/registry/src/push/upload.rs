//! One blob on its way into a registry.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::StreamExt as _;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::{BlobSource, CHECKING, Push};
use crate::auth::Scope;
use crate::blob::Blob;
use crate::client::Registry;
use crate::error::RegistryError;
use crate::retry::{PROGRESS, TRIES, pause};
use crate::transport::{Answer, Ask, Site, next};

/// Between two words about how much was sent.
const EVENT_EVERY: u64 = 256 << 10;
/// Where uploads begin.
const UPLOADS: &str = "blobs/uploads/";

/// What is known of an upload.
struct Upload<'a> {
    push: &'a Push<'a>,
    registry: &'a Registry,
    site: &'a Site,
    scope: Scope,
    what: String,
    blob: Blob,
    source: &'a dyn BlobSource,
    on: &'a (dyn Fn(u64) + Sync),
}

impl Push<'_> {
    /// Sends a blob that the repository has not. `on` hears how many bytes of it were sent; fewer than before where
    /// something has to be sent again.
    ///
    /// # Errors
    /// [`RegistryError::Source`] where `source` fails.
    pub async fn send(
        &self,
        blob: Blob,
        source: &dyn BlobSource,
        on: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        let (scope, what) = (Scope::push(self.reference.repository()), self.what(&blob));
        let upload = Upload { push: self, registry: self.registry, site: &self.site, scope, what, blob, source, on };
        upload.run().await
    }

    /// Has a blob of another repository in this one; whether the registry did it. One that does not begins an upload, which
    /// it forgets after a while.
    pub(super) async fn mount_from(&self, blob: Blob, from: &str) -> bool {
        let scope = Scope::push(self.reference.repository()).and_pull(from);
        let mut url = self.site.url(self.reference.repository(), UPLOADS);
        url.query_pairs_mut().append_pair("mount", &blob.digest.to_string()).append_pair("from", from);
        match self.post(url, &scope, &self.what(&blob)).await {
            Ok(answer) => answer.status() == StatusCode::CREATED,
            Err(error) => {
                tracing::debug!(%error, from, "a blob is not mounted");
                false
            }
        }
    }

    async fn post(&self, url: Url, scope: &Scope, what: &str) -> Result<Answer, RegistryError> {
        let nothing = || futures::stream::empty().boxed();
        let mut ask = Ask::new(Method::POST, url, what, scope);
        ask.body = Some((0, &nothing));
        self.registry.transport.again(|| self.put(&ask)).await
    }
}

impl Upload<'_> {
    /// Asks for a place to send the blob to.
    async fn begin(&self) -> Result<Url, RegistryError> {
        let url = self.site.url(self.push.reference.repository(), UPLOADS);
        place(&self.push.post(url, &self.scope, &self.what).await?)
    }

    /// Sends all bytes, however often it takes.
    async fn run(&self) -> Result<(), RegistryError> {
        let (mut failures, mut at, mut from) = (0, None, 0);
        loop {
            let begun = if let Some(place) = at.take() {
                Ok(place)
            } else {
                from = 0;
                self.begin().await
            };
            let tried = match begun {
                Ok(place) => self.send(&place, from).await.map_err(|error| (Some(place), error)),
                Err(error) => Err((None, error)),
            };
            let Err((place, error)) = tried else { return Ok(()) };
            failures += 1;
            // One that the registry has forgotten begins anew.
            let may_go = error.is_transient() || (place.is_some() && matches!(error, RegistryError::NotFound { .. }));
            if !may_go || failures >= TRIES {
                return Err(error);
            }
            tracing::debug!(%error, failures, "an upload goes on");
            let transport = &self.registry.transport;
            tokio::time::sleep(pause(transport.times().backoff, failures, error.retry_after())).await;
            if let Some(place) = place
                && let Some((place, arrived)) = self.arrived(&place).await
            {
                if arrived >= from.saturating_add(PROGRESS) {
                    failures = 0;
                }
                (at, from) = (Some(place), arrived);
            }
        }
    }

    /// How many bytes arrived, and where the rest goes; `None` where it has to begin anew.
    async fn arrived(&self, place: &Url) -> Option<(Url, u64)> {
        let transport = &self.registry.transport;
        let ask = Ask::new(Method::GET, place.clone(), &self.what, &self.scope);
        let answer = transport.send(self.site, &ask).await.ok()?;
        if answer.status() != StatusCode::NO_CONTENT {
            return None;
        }
        // `0-9`, of ten bytes; of none there is no range, or the same as of one (distribution-spec, "Pushing a blob in
        // chunks"), so that one is told apart from none only by beginning anew.
        let last = answer.header(RANGE)?.trim_start_matches("bytes=").strip_prefix("0-")?.parse::<u64>().ok()?;
        let arrived = last.checked_add(1).filter(|arrived| (2..=self.blob.size).contains(arrived))?;
        Some((self::place(&answer).unwrap_or_else(|_| place.clone()), arrived))
    }

    /// Sends what is left, and ends the upload.
    async fn send(&self, place: &Url, from: u64) -> Result<(), RegistryError> {
        let mut place = place.clone();
        if from < self.blob.size {
            let answer = self.patch(&place, from).await?;
            place = self::place(&answer)?;
        }
        place.query_pairs_mut().append_pair("digest", &self.blob.digest.to_string());
        let nothing = || futures::stream::empty().boxed();
        let mut ask = Ask::new(Method::PUT, place, &self.what, &self.scope);
        ask.body = Some((0, &nothing));
        ask.patience = CHECKING;
        self.registry.transport.send_ok(self.site, &ask).await.map(drop)
    }

    async fn patch(&self, place: &Url, from: u64) -> Result<Answer, RegistryError> {
        let failed: Arc<Mutex<Option<io::Error>>> = Arc::default();
        let sent = Arc::new(AtomicU64::new(from));
        let body = || {
            let (failed, sent) = (Arc::clone(&failed), Arc::clone(&sent));
            sent.store(from, Ordering::Relaxed);
            let bytes = self.source.open(&self.blob, from);
            bytes
                .map(move |chunk| {
                    match &chunk {
                        Ok(chunk) => {
                            sent.fetch_add(u64::try_from(chunk.len()).unwrap_or(0), Ordering::Relaxed);
                        }
                        Err(error) => {
                            let copy = io::Error::new(error.kind(), error.to_string());
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(copy);
                        }
                    }
                    chunk
                })
                .boxed()
        };
        let mut ask = Ask::new(Method::PATCH, place.clone(), &self.what, &self.scope)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        ask.body = Some((self.blob.size - from, &body));
        ask.patience = 2;
        if from > 0 {
            let range = HeaderValue::from_str(&format!("{from}-{}", self.blob.size - 1)).ok();
            ask.headers.extend(range.map(|range| (CONTENT_RANGE, range)));
        }
        let answer = self.telling(self.registry.transport.send_ok(self.site, &ask), &sent, from).await;
        match (answer, failed.lock().unwrap_or_else(PoisonError::into_inner).take()) {
            (Err(_), Some(source)) => Err(RegistryError::Source { digest: self.blob.digest, source }),
            (answer, _) => answer,
        }
    }

    /// Says how much was sent, while it is.
    async fn telling<T>(&self, sending: impl Future<Output = T>, sent: &AtomicU64, from: u64) -> T {
        let mut sending = std::pin::pin!(sending);
        let mut told = from;
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                done = &mut sending => {
                    (self.on)(sent.load(Ordering::Relaxed));
                    return done;
                }
                _ = tick.tick() => {
                    let bytes = sent.load(Ordering::Relaxed);
                    if bytes.abs_diff(told) >= EVENT_EVERY {
                        told = bytes;
                        (self.on)(bytes);
                    }
                }
            }
        }
    }
}

/// Where an upload goes on: another path, or another host.
fn place(answer: &Answer) -> Result<Url, RegistryError> {
    if answer.header(LOCATION).is_none() {
        return Err(answer.senseless("it does not say where an upload goes on"));
    }
    next(answer.url(), answer.headers())
}
