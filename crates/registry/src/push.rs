//! Putting an image into a registry: its blobs, as far as they are not there, and then its manifest.
//!
//! ```text
//!   HEAD ─▶ there
//!    └▶ HEAD of another repository ─▶ POST ?mount ─▶ mounted
//!         └▶ POST ─▶ PATCH (all bytes) ─▶ PUT ?digest
//!                      │  ▲
//!                      └──┘ broke: GET says how many bytes arrived, PATCH goes on from there; or POST again
//! ```
//!
//! Bytes are sent as Docker sends them, one `PATCH` of all of a blob: of the ways that the specification has, this is
//! the one that no registry can do without. Where a connection breaks, the registry is asked how much of it arrived;
//! some say it, and the distribution project's forgets all of it, so that the blob is sent again.

mod upload;

use std::io;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use sandpen_images::digest::digest_of;
use sandpen_images::manifest::{Document, media};
use sandpen_types::image::{ImageDigest, ImageReference};

use crate::auth::Scope;
use crate::blob::Blob;
use crate::client::Registry;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::transport::{Answer, Ask, Site};

/// A registry checks what it got before it answers: so many times the usual time-out.
const CHECKING: u32 = 10;
/// Most other repositories that are asked for a blob.
const MOUNTS_MAX: usize = 4;

/// Bytes to be sent.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// Where the bytes of blobs come from.
pub trait BlobSource: Send + Sync {
    /// The bytes of a blob from the given one on. It is asked again, from the same or another byte, where a connection
    /// broke.
    fn open(&self, blob: &Blob, from: u64) -> ByteStream;
}

/// An image on its way into a registry: first all blobs that its manifest names, then that. Without it nothing has the
/// image's name.
#[derive(Debug)]
pub struct Push<'a> {
    registry: &'a Registry,
    reference: &'a ImageReference,
    site: Site,
    mounts: Vec<String>,
}

impl Registry {
    /// Begins to put an image into a registry under a reference, by tag if it has one. `mounts` are other repositories
    /// of the same registry that may have blobs of it; the first ones are asked. Mirrors are asked nothing.
    ///
    /// # Errors
    /// No connection to the registry.
    pub async fn push<'a>(
        &'a self,
        reference: &'a ImageReference,
        mounts: &[String],
    ) -> Result<Push<'a>, RegistryError> {
        let endpoint = Endpoint::new(reference.registry(), &self.transport.options.insecure)?;
        let site = self.transport.site(&endpoint, reference.repository()).await?;
        let others = mounts.iter().filter(|repository| *repository != reference.repository());
        let mounts = others.take(MOUNTS_MAX).cloned().collect();
        Ok(Push { registry: self, reference, site, mounts })
    }
}

impl Push<'_> {
    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// [`RegistryError::Denied`] and others.
    pub async fn has(&self, blob: Blob) -> Result<bool, RegistryError> {
        let repository = self.reference.repository();
        self.is_in(repository, &Scope::push(repository), &blob).await
    }

    /// Has a blob of one of the other repositories in this one; whether it is there now. No error of another repository
    /// counts. To be asked for what somebody knows to belong to the image: whoever reads the repository reads it then.
    pub async fn mount(&self, blob: Blob) -> bool {
        for from in &self.mounts {
            // One that has it not would begin an upload instead, which nobody ends.
            if self.is_in(from, &Scope::pull(from), &blob).await.unwrap_or(false) && self.mount_from(blob, from).await {
                return true;
            }
        }
        false
    }

    /// Sends the manifest, whose blobs have to be there; says its digest. One that is an index may be sent as well.
    ///
    /// # Errors
    /// [`RegistryError::Manifest`] where it is none, [`RegistryError::OtherDigest`] where it is not what the reference
    /// says, or not what the registry took it for.
    pub async fn manifest(&self, manifest: &[u8]) -> Result<ImageDigest, RegistryError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed {
            media_type: Option<String>,
        }
        let Self { registry, reference, site, .. } = self;
        let what = reference.to_string();
        let default_type = match Document::parse(manifest, None) {
            Ok(Document::Index(_)) => media::INDEX,
            Ok(Document::Manifest(_)) => media::MANIFEST,
            Err(source) => return Err(RegistryError::Manifest { what, source }),
        };
        let digest = digest_of(manifest);
        if let Some(expected) = reference.digest().filter(|expected| *expected != digest) {
            return Err(RegistryError::OtherDigest { host: site.name.clone(), what, expected, found: digest });
        }
        let by_digest = digest.to_string();
        let name = reference.tag().unwrap_or(&by_digest);
        let said = serde_json::from_slice::<Typed>(manifest).ok().and_then(|typed| typed.media_type);
        let media_type = said.and_then(|said| HeaderValue::from_str(&said).ok());
        let media_type = media_type.unwrap_or_else(|| HeaderValue::from_static(default_type));
        let bytes = Bytes::copy_from_slice(manifest);
        let body = move || futures::stream::iter([Ok(bytes.clone())]).boxed();
        let (scope, url) =
            (Scope::push(reference.repository()), site.url(reference.repository(), &format!("manifests/{name}")));
        let mut ask = Ask::new(Method::PUT, url, &what, &scope).header(CONTENT_TYPE, media_type);
        ask.body = Some((u64::try_from(manifest.len()).unwrap_or(u64::MAX), &body));
        ask.patience = CHECKING;
        let transport = &registry.transport;
        let answer = transport.again(|| self.put(&ask)).await?;
        let said = answer.header("docker-content-digest").and_then(|said| said.parse::<ImageDigest>().ok());
        match said.filter(|said| *said != digest) {
            None => Ok(digest),
            Some(found) => {
                let host = answer.host().to_owned();
                Err(RegistryError::OtherDigest { host, what, expected: digest, found })
            }
        }
    }

    /// Sends something that begins, or ends, to be there.
    async fn put(&self, ask: &Ask<'_>) -> Result<Answer, RegistryError> {
        let mut answer = self.registry.transport.send(&self.site, ask).await?;
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND => {
                let (what, registry, said) = (ask.what.to_owned(), self.site.name.clone(), answer.said().await);
                Err(RegistryError::NoPlace { what, registry, said })
            }
            _ => Err(answer.refusal(&self.site, ask.what).await),
        }
    }

    /// Whether a repository has a blob.
    async fn is_in(&self, repository: &str, scope: &Scope, blob: &Blob) -> Result<bool, RegistryError> {
        let (site, what) = (&self.site, self.what(blob));
        let ask = Ask::new(Method::HEAD, site.url(repository, &format!("blobs/{}", blob.digest)), &what, scope);
        let transport = &self.registry.transport;
        transport
            .again(|| async {
                let answer = transport.send(site, &ask).await?;
                match answer.status() {
                    StatusCode::NOT_FOUND => Ok(false),
                    // Links to a storage are often for GET alone; then it is sent once more.
                    status if !answer.is_from_home() && !status.is_success() => Ok(false),
                    // It has something of that name; whether it is whole, the registry has checked.
                    StatusCode::OK => blob.expect_len(&answer, blob.size).map(|()| true),
                    _ => Err(answer.refusal(site, &what).await),
                }
            })
            .await
    }

    /// A blob of it, for messages.
    fn what(&self, blob: &Blob) -> String {
        format!("blob {} of {}", blob.digest.short(), self.reference)
    }
}
