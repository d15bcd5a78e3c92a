//! Blobs as streams, which go on where a connection broke.
//!
//! ```text
//!            ┌── 206 from here, or 200 and the beginning is passed over ──┐
//!   closed ──┤                                                           ▼
//!     ▲      └── refused ─▶ the next endpoint, or an error           reading ──▶ all bytes came
//!     └──────────── pause ◀── broke, silent, ended too early ───────────┘
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _, try_unfold};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};
use sandpen_images::manifest::{Descriptor, LayerDescriptor};
use sandpen_types::image::{ImageDigest, ImageReference};
use sha2::{Digest as _, Sha256};

use crate::auth::Scope;
use crate::client::Registry;
use crate::endpoint::Endpoint;
use crate::error::{RegistryError, shown};
use crate::retry::{PROGRESS, TRIES, pause};
use crate::transport::{Answer, Ask, Transport};

/// The bytes of a blob, in pieces.
pub type BlobStream = BoxStream<'static, Result<Bytes, RegistryError>>;

/// Bytes in a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// Their digest.
    pub digest: ImageDigest,
    /// Their number.
    pub size: u64,
}

impl From<&Descriptor> for Blob {
    fn from(of: &Descriptor) -> Self {
        Self { digest: of.digest, size: of.size }
    }
}

impl From<&LayerDescriptor> for Blob {
    fn from(of: &LayerDescriptor) -> Self {
        Self { digest: of.digest, size: of.size }
    }
}

impl Blob {
    /// An error where an answer says that it has another number of bytes than these of it.
    pub(crate) fn expect_len(&self, answer: &Answer, expected: u64) -> Result<(), RegistryError> {
        match answer.len() {
            Some(len) if len != expected => Err(self.other_size(answer.host(), format!("{len} bytes"))),
            _ => Ok(()),
        }
    }

    fn other_size(&self, host: &str, found: String) -> RegistryError {
        RegistryError::OtherSize { host: host.to_owned(), digest: self.digest, size: self.size, found }
    }
}

impl Registry {
    /// The bytes of a blob from the given one on: never more than it has, and an error where they are fewer. They are
    /// **not** checked against its digest, for whoever goes on with a part has the rest: [`checked`] does that, and so
    /// does what unpacks a layer. Where a connection breaks, it goes on with the next one, after a pause; mirrors are
    /// asked first.
    pub fn blob(&self, reference: &ImageReference, blob: Blob, from: u64) -> BlobStream {
        let (transport, reference) = (Arc::clone(&self.transport), reference.clone());
        let reader = async move { Reader::new(transport, reference, blob, from) };
        let chunks = |reader| {
            try_unfold(reader, |reader: Result<Reader, RegistryError>| async move {
                let mut reader = reader?;
                Ok(reader.next().await?.map(|chunk| (chunk, Ok(reader))))
            })
        };
        futures::stream::once(reader).flat_map(chunks).boxed()
    }
}

/// Ends a stream of all bytes of a blob with an error, if their digest is not the blob's.
pub fn checked(blob: Blob, mut stream: BlobStream) -> BlobStream {
    let checked = async_stream::try_stream! {
        let mut hasher = Sha256::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            hasher.update(&chunk);
            yield chunk;
        }
        let found = ImageDigest::new(hasher.finalize().into());
        if found != blob.digest {
            let (host, what) = ("the registry".to_owned(), format!("blob {}", blob.digest));
            Err(RegistryError::OtherDigest { host, what, expected: blob.digest, found })?;
        }
    };
    checked.boxed()
}

/// Reads one blob.
struct Reader {
    transport: Arc<Transport>,
    reference: ImageReference,
    blob: Blob,
    what: String,
    scope: Scope,
    endpoints: VecDeque<Endpoint>,
    answer: Option<Answer>,
    /// The next byte to pass on.
    position: u64,
    /// Bytes of the answer that were passed on before.
    passed_over: u64,
    failures: u32,
    /// Bytes since the last failure.
    progress: u64,
}

impl Reader {
    fn new(transport: Arc<Transport>, reference: ImageReference, blob: Blob, from: u64) -> Result<Self, RegistryError> {
        if from > blob.size {
            return Err(blob.other_size(reference.registry(), format!("no byte {from}")));
        }
        let endpoints = transport.endpoints(reference.registry())?.into();
        Ok(Self {
            what: format!("blob {} of {reference}", blob.digest.short()),
            scope: Scope::pull(reference.repository()),
            transport,
            reference,
            blob,
            endpoints,
            answer: None,
            position: from,
            passed_over: 0,
            failures: 0,
            progress: 0,
        })
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.position == self.blob.size {
                return self.end().await.map(|()| None);
            }
            let step = match self.answer.is_some() {
                true => self.read().await,
                false => self.open().await.map(|()| None),
            };
            match step {
                Ok(Some(chunk)) => return Ok(Some(chunk)),
                Ok(None) => {}
                Err(error) => self.failed(error).await?,
            }
        }
    }

    async fn open(&mut self) -> Result<(), RegistryError> {
        let Some(endpoint) = self.endpoints.front() else {
            return Err(RegistryError::Name { name: shown(self.reference.registry()) });
        };
        let site = self.transport.site(endpoint, self.reference.repository()).await?;
        let url = site.url(self.reference.repository(), &format!("blobs/{}", self.blob.digest));
        let mut ask = Ask::new(Method::GET, url, &self.what, &self.scope)
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if self.position > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", self.position));
            ask.headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let answer = self.transport.send(&site, &ask).await?;
        self.passed_over = match answer.status() {
            StatusCode::OK => {
                self.blob.expect_len(&answer, self.blob.size)?;
                self.position
            }
            StatusCode::PARTIAL_CONTENT if self.position > 0 => {
                let end = self.range_end(&answer)?;
                self.blob.expect_len(&answer, end + 1 - self.position)?;
                0
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(self.blob.other_size(answer.host(), format!("no byte {}", self.position)));
            }
            status if status.is_success() => {
                return Err(answer.senseless(format!("status {} for {}", status.as_u16(), self.what)));
            }
            _ => return Err(answer.refusal(&site, &self.what).await),
        };
        self.answer = Some(answer);
        Ok(())
    }

    /// The last byte of a partial answer, which has to begin where it should and to be of this blob.
    fn range_end(&self, answer: &Answer) -> Result<u64, RegistryError> {
        let text = answer.header(CONTENT_RANGE).unwrap_or_default();
        let parsed = text.strip_prefix("bytes ").and_then(|rest| {
            let (range, total) = rest.split_once('/')?;
            let (start, end) = range.split_once('-')?;
            let number = |text: &str| text.trim().parse::<u64>().ok();
            Some((number(start)?, number(end)?, number(total)?))
        });
        match parsed {
            Some((start, end, total))
                if start == self.position && total == self.blob.size && (start..total).contains(&end) =>
            {
                Ok(end)
            }
            _ => Err(answer.senseless(format!(
                "of {} it was asked for bytes {}-{}, and it sends \"{}\"",
                self.what,
                self.position,
                self.blob.size - 1,
                shown(text)
            ))),
        }
    }

    /// Some more bytes; `None` where they were passed on before.
    async fn read(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let Some(answer) = &mut self.answer else { return Ok(None) };
        let Some(mut chunk) = answer.chunk().await? else {
            let (host, missing) = (answer.host().to_owned(), self.blob.size - self.position);
            return Err(RegistryError::Short { host, missing });
        };
        let len = |chunk: &Bytes| u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        if self.passed_over > 0 {
            let over = self.passed_over.min(len(&chunk));
            self.passed_over -= over;
            drop(chunk.split_to(usize::try_from(over).unwrap_or(usize::MAX)));
        }
        if chunk.is_empty() {
            return Ok(None);
        }
        if len(&chunk) > self.blob.size - self.position {
            return Err(self.blob.other_size(answer.host(), "more".to_owned()));
        }
        self.position += len(&chunk);
        self.progress += len(&chunk);
        if self.progress >= PROGRESS {
            self.failures = 0;
        }
        Ok(Some(chunk))
    }

    /// All bytes came; whoever said how many would come has sent no more.
    async fn end(&mut self) -> Result<(), RegistryError> {
        let Some(mut answer) = self.answer.take() else { return Ok(()) };
        if answer.len().is_none() && matches!(answer.chunk().await, Ok(Some(more)) if !more.is_empty()) {
            return Err(self.blob.other_size(answer.host(), "more".to_owned()));
        }
        Ok(())
    }

    /// Waits until it may be tried again, at the same endpoint or the next one.
    async fn failed(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        (self.answer, self.progress) = (None, 0);
        self.failures += 1;
        // One that cannot be reached mostly is down, and there is another one.
        let is_passed_over = error.is_unreachable() && self.endpoints.len() > 1;
        if error.is_transient() && self.failures < TRIES && !is_passed_over {
            tracing::debug!(%error, position = self.position, "a blob goes on");
            let pause = pause(self.transport.times().backoff, self.failures, error.retry_after());
            tokio::time::sleep(pause).await;
            return Ok(());
        }
        if self.endpoints.len() < 2 {
            return Err(error);
        }
        if let Some(mirror) = self.endpoints.pop_front() {
            self.transport.pass_over(&mirror, &error);
        }
        self.failures = 0;
        Ok(())
    }
}
