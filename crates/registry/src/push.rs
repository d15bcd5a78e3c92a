//! Putting an image into a registry: its blobs, as far as they are not there, and then its manifest.
//!
//! ```text
//!   HEAD ─▶ there
//!    └▶ POST ?mount ─▶ mounted from another repository
//!         └▶ PATCH (all bytes) ─▶ PUT ?digest
//!              │  ▲
//!              └──┘ broke: GET says how many bytes arrived, PATCH goes on from there; or POST again
//! ```
//!
//! Bytes are sent as Docker sends them, one `PATCH` of all of a blob: of the ways that the specification has, this is
//! the one that no registry can do without. Where a connection breaks, the registry is asked how much of it arrived;
//! some say it, and the distribution project's forgets all of it, so that the blob is sent again.

mod upload;

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
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
use crate::transport::{Ask, Site};

/// Blobs that are sent side by side.
const SIDE_BY_SIDE: usize = 3;
/// A registry checks what it got before it answers: so many times the usual time-out.
const CHECKING: u32 = 10;

/// Bytes to be sent.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// Where the bytes of blobs come from.
pub trait BlobSource: Send + Sync {
    /// The bytes of a blob from the given one on. It is asked again, from the same or another byte, where a connection
    /// broke.
    fn open(&self, blob: &Blob, from: u64) -> ByteStream;
}

/// What happens to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushEvent {
    /// The registry has it.
    Exists(Blob),
    /// The registry had it in another repository.
    Mounted(Blob),
    /// So many bytes of it were sent; fewer than before where something has to be sent again.
    Sent {
        /// The blob.
        blob: Blob,
        /// All that were sent of it.
        bytes: u64,
    },
    /// The registry has it now.
    Done(Blob),
}

impl Registry {
    /// Puts an image into a registry under a reference, by tag if it has one; says the manifest's digest. `mount` is
    /// another repository of the same registry that may have blobs of it. Of an index, what it points at has to be
    /// there.
    ///
    /// # Errors
    /// [`RegistryError::Source`] where `source` fails; nothing has the reference's name then.
    pub async fn push(
        &self,
        reference: &ImageReference,
        manifest: &[u8],
        mount: Option<&str>,
        source: &dyn BlobSource,
        on: &(dyn Fn(PushEvent) + Sync),
    ) -> Result<ImageDigest, RegistryError> {
        let of_manifest = |source| RegistryError::Manifest { what: reference.to_string(), source };
        let endpoint = Endpoint::new(reference.registry(), &self.transport.options.insecure)?;
        let site = self.transport.site(&endpoint, reference.repository()).await?;
        let (blobs, default_type) = match Document::parse(manifest, None).map_err(of_manifest)? {
            Document::Index(_) => (Vec::new(), media::INDEX),
            Document::Manifest(manifest) => {
                let layers = manifest.layers.iter().map(Blob::from);
                let mut known = BTreeSet::new();
                let all = layers.chain([Blob::from(&manifest.config)]).filter(|blob| known.insert(blob.digest));
                (all.collect(), media::MANIFEST)
            }
        };
        let mount = mount.filter(|repository| *repository != reference.repository());
        futures::stream::iter(blobs)
            .map(|blob| self.push_blob(&site, reference, blob, mount, source, on))
            .buffer_unordered(SIDE_BY_SIDE)
            .try_for_each(|()| async { Ok(()) })
            .await?;
        self.put_manifest(&site, reference, manifest, default_type).await
    }

    async fn put_manifest(
        &self,
        site: &Site,
        reference: &ImageReference,
        manifest: &[u8],
        default_type: &'static str,
    ) -> Result<ImageDigest, RegistryError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed {
            media_type: Option<String>,
        }
        let digest = digest_of(manifest);
        if let Some(expected) = reference.digest().filter(|expected| *expected != digest) {
            let (host, what) = (site.name.clone(), reference.to_string());
            return Err(RegistryError::OtherDigest { host, what, expected, found: digest });
        }
        let by_digest = digest.to_string();
        let name = reference.tag().unwrap_or(&by_digest);
        let said = serde_json::from_slice::<Typed>(manifest).ok().and_then(|typed| typed.media_type);
        let media_type = said.and_then(|said| HeaderValue::from_str(&said).ok());
        let media_type = media_type.unwrap_or_else(|| HeaderValue::from_static(default_type));
        let (bytes, what) = (Bytes::copy_from_slice(manifest), reference.to_string());
        let body = move || futures::stream::iter([Ok(bytes.clone())]).boxed();
        let (scope, url) =
            (Scope::push(reference.repository()), site.url(reference.repository(), &format!("manifests/{name}")));
        let mut ask = Ask::new(Method::PUT, url, &what, &scope).header(CONTENT_TYPE, media_type);
        ask.body = Some((u64::try_from(manifest.len()).unwrap_or(u64::MAX), &body));
        ask.patience = CHECKING;
        let answer = self.transport.again(|| self.transport.send_ok(site, &ask)).await?;
        let said = answer.header("docker-content-digest").and_then(|said| said.parse::<ImageDigest>().ok());
        match said.filter(|said| *said != digest) {
            None => Ok(digest),
            Some(found) => Err(RegistryError::OtherDigest {
                host: answer.host().to_owned(),
                what: reference.to_string(),
                expected: digest,
                found,
            }),
        }
    }

    /// Whether a repository has a blob.
    async fn has_blob(&self, site: &Site, repository: &str, blob: &Blob, what: &str) -> Result<bool, RegistryError> {
        let (scope, url) = (Scope::push(repository), site.url(repository, &format!("blobs/{}", blob.digest)));
        let ask = Ask::new(Method::HEAD, url, what, &scope);
        self.transport
            .again(|| async {
                let answer = self.transport.send(site, &ask).await?;
                match answer.status() {
                    StatusCode::NOT_FOUND => Ok(false),
                    // Links to a storage are often for GET alone; then it is sent once more.
                    status if !answer.is_from_home() && !status.is_success() => Ok(false),
                    // It has something of that name; whether it is whole, the registry has checked.
                    StatusCode::OK => blob.expect_len(&answer, blob.size).map(|()| true),
                    _ => Err(answer.refusal(site, what).await),
                }
            })
            .await
    }
}
