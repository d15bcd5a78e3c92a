//! Getting an image's documents: from a reference to the manifest of a platform and its configuration.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderValue};
use sandpen_images::config::ImageConfig;
use sandpen_images::digest::digest_of;
use sandpen_images::json::DOCUMENT_MAX;
use sandpen_images::manifest::{Descriptor, Document, ImageManifest, ManifestError, Resolved, media};
use sandpen_images::platform::Platform;
use sandpen_types::image::{ImageDigest, ImageReference};

use crate::auth::Scope;
use crate::blob::Blob;
use crate::endpoint::{Endpoint, version_url};
use crate::error::{RegistryError, shown};
use crate::options::Options;
use crate::transport::{Ask, Site, Transport};

/// Most tags that an error lists.
const TAGS_SHOWN: usize = 8;
/// Most bytes of a list of tags that is read for an error.
const TAGS_MAX: u64 = 1 << 20;

/// A client of registries, for one who asks: credentials and tokens are theirs. Copies share connections and tokens.
#[derive(Clone)]
pub struct Registry {
    pub(crate) transport: Arc<Transport>,
}

/// An image's documents, as they came and as they are read.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// Of the manifest's bytes.
    pub digest: ImageDigest,
    /// The manifest, as it came.
    pub bytes: Vec<u8>,
    /// What it says.
    pub manifest: ImageManifest,
    /// The configuration, as it came.
    pub config_bytes: Vec<u8>,
    /// What it says.
    pub config: ImageConfig,
    /// Of the index that the reference is the name of, if it is one of an index.
    pub index_digest: Option<ImageDigest>,
}

/// A document that a reference is the name of.
struct Named {
    descriptor: Descriptor,
    bytes: Vec<u8>,
}

/// A way to a manifest that stops where a document is missing.
enum Missing {
    Document(Box<Descriptor>),
    Wrong(ManifestError),
}

impl From<ManifestError> for Missing {
    fn from(error: ManifestError) -> Self {
        Self::Wrong(error)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("options", &self.transport.options).finish_non_exhaustive()
    }
}

impl Registry {
    /// A client. It reads this machine's certificates.
    ///
    /// # Errors
    /// [`RegistryError::Proxy`].
    pub fn new(options: Options) -> Result<Self, RegistryError> {
        Ok(Self { transport: Arc::new(Transport::new(options)?) })
    }

    /// Gets the manifest of a reference for a platform, and its configuration. Both have the digest that they should
    /// have; mirrors are asked first.
    pub async fn manifest(&self, reference: &ImageReference, platform: &Platform) -> Result<Pulled, RegistryError> {
        self.anywhere(reference, |site| async move { self.pulled(&site, reference, platform).await }).await
    }

    /// The platforms that there are images for, as their index says it.
    pub async fn platforms(&self, reference: &ImageReference) -> Result<Vec<Platform>, RegistryError> {
        self.anywhere(reference, |site| async move {
            let named = self.named(&site, reference).await?;
            let document = Document::parse(&named.bytes, named.descriptor.media_type.as_deref());
            match document.map_err(|source| of_manifest(reference, source))? {
                Document::Index(index) => {
                    let mut platforms: Vec<Platform> = Vec::new();
                    for platform in index.manifests.into_iter().filter(|entry| entry.is_image) {
                        platforms.extend(platform.platform.filter(|platform| !platforms.contains(platform)));
                    }
                    Ok(platforms)
                }
                Document::Manifest(manifest) => Ok(vec![self.config(&site, reference, &manifest).await?.1.platform]),
            }
        })
        .await
    }

    /// Whether a registry lets us in: with the credentials that there are, or without any. It answers whether it asked who
    /// we are: one that does not says nothing about credentials.
    pub async fn check(&self, registry: &str) -> Result<bool, RegistryError> {
        let transport = &self.transport;
        let site = transport.site(&Endpoint::new(registry, &transport.options.insecure)?, "").await?;
        let scope = Scope::default();
        let ask = Ask::new(Method::GET, version_url(&site.base), "its version", &scope);
        transport.again(|| transport.send_ok(&site, &ask)).await?;
        Ok(transport.tokens.known(&site, &scope, SystemTime::now()).is_some())
    }

    /// Asks mirrors, one after the other, and then the registry, whose error counts.
    async fn anywhere<T, F>(&self, reference: &ImageReference, ask: impl Fn(Site) -> F) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let mut endpoints = self.transport.endpoints(reference.registry())?.into_iter().peekable();
        loop {
            let endpoint = endpoints.next().ok_or_else(|| RegistryError::Name { name: shown(reference.registry()) })?;
            let asked = match self.transport.site(&endpoint, reference.repository()).await {
                Ok(site) => ask(site).await,
                Err(error) => Err(error),
            };
            match asked {
                Err(error) if endpoints.peek().is_some() => {
                    self.transport.pass_over(&endpoint, &error);
                }
                asked => return asked,
            }
        }
    }

    async fn pulled(
        &self,
        site: &Site,
        reference: &ImageReference,
        platform: &Platform,
    ) -> Result<Pulled, RegistryError> {
        let Named { descriptor: first, bytes } = self.named(site, reference).await?;
        let mut known = HashMap::from([(first.digest, bytes)]);
        let Resolved { digest, bytes, manifest } = loop {
            let resolved = first.resolve(platform, |wanted| {
                known.get(&wanted.digest).cloned().ok_or_else(|| Missing::Document(Box::new(wanted.clone())))
            });
            match resolved {
                Ok(resolved) => break resolved,
                Err(Missing::Wrong(source)) => return Err(of_manifest(reference, source)),
                Err(Missing::Document(wanted)) => {
                    let (bytes, _) = self.document(site, reference, &wanted.digest.to_string()).await?;
                    expect(site, reference, wanted.digest, &bytes)?;
                    known.insert(wanted.digest, bytes);
                }
            }
        };
        let (config_bytes, config) = self.config(site, reference, &manifest).await?;
        // An index says for which platform an image is, and is taken at its word; without one the image has to.
        if digest == first.digest && platform.fit(&config.platform).is_none() {
            let (wanted, available) = (platform.clone(), config.platform.to_string());
            return Err(of_manifest(reference, ManifestError::NoPlatform { wanted, available }));
        }
        let index_digest = (digest != first.digest).then_some(first.digest);
        Ok(Pulled { digest, bytes, manifest, config_bytes, config, index_digest })
    }

    /// What the reference is the name of.
    async fn named(&self, site: &Site, reference: &ImageReference) -> Result<Named, RegistryError> {
        let by_digest = reference.digest().map(|digest| digest.to_string());
        let name = by_digest.as_deref().or(reference.tag()).unwrap_or_default();
        let (bytes, media_type) = match self.document(site, reference, name).await {
            Err(RegistryError::NotFound { what, registry, .. }) => {
                let tags = self.tags_near(site, reference).await;
                return Err(RegistryError::NotFound { what, registry, tags });
            }
            got => got?,
        };
        if let Some(expected) = reference.digest() {
            expect(site, reference, expected, &bytes)?;
        }
        let descriptor = Descriptor {
            media_type,
            digest: digest_of(&bytes),
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            platform: None,
            ref_name: None,
            containerd_name: None,
            is_image: true,
        };
        Ok(Named { descriptor, bytes })
    }

    /// A manifest or an index by tag or digest, with the media type that it came with.
    async fn document(
        &self,
        site: &Site,
        reference: &ImageReference,
        name: &str,
    ) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let (scope, what) = (Scope::pull(reference.repository()), reference.to_string());
        let url = site.url(reference.repository(), &format!("manifests/{name}"));
        let ask = Ask::new(Method::GET, url, &what, &scope);
        let accepted =
            media::ACCEPTED.iter().fold(ask, |ask, accepted| ask.header(ACCEPT, HeaderValue::from_static(accepted)));
        self.transport
            .again(|| async {
                let mut answer = self.transport.send_ok(site, &accepted).await?;
                let media_type = answer.media_type();
                if let Some(found) = media_type.as_deref().filter(|found| !may_be_document(found)) {
                    let (host, found) = (answer.host().to_owned(), shown(found));
                    return Err(RegistryError::NoManifest { host, what: what.clone(), found });
                }
                let bytes = answer.bytes(DOCUMENT_MAX).await?;
                let said = answer.header("docker-content-digest").and_then(|digest| digest.parse().ok());
                if let Some(expected) = said {
                    expect(site, reference, expected, &bytes)?;
                }
                Ok((bytes, media_type))
            })
            .await
    }

    async fn config(
        &self,
        site: &Site,
        reference: &ImageReference,
        manifest: &ImageManifest,
    ) -> Result<(Vec<u8>, ImageConfig), RegistryError> {
        let blob = Blob::from(&manifest.config);
        if blob.size > DOCUMENT_MAX {
            return Err(RegistryError::TooLarge { host: site.name.clone(), max: DOCUMENT_MAX });
        }
        let (scope, what) = (Scope::pull(reference.repository()), format!("the configuration of {reference}"));
        let url = site.url(reference.repository(), &format!("blobs/{}", blob.digest));
        let ask = Ask::new(Method::GET, url, &what, &scope);
        let bytes = self.transport.again(|| async {
            let bytes = self.transport.send_ok(site, &ask).await?.bytes(DOCUMENT_MAX).await?;
            expect(site, reference, blob.digest, &bytes).map(|()| bytes)
        });
        let bytes = bytes.await?;
        let parsed = ImageConfig::parse(&bytes);
        let config = parsed.map_err(|source| RegistryError::Config { what: reference.to_string(), source })?;
        Ok((bytes, config))
    }

    /// Tags that are like the one that is not there. Only if the registry gives them at once.
    async fn tags_near(&self, site: &Site, reference: &ImageReference) -> Vec<String> {
        #[derive(serde::Deserialize)]
        struct List {
            tags: Option<Vec<String>>,
        }
        let Some(wanted) = reference.tag() else { return Vec::new() };
        let scope = Scope::pull(reference.repository());
        let mut url = site.url(reference.repository(), "tags/list");
        url.query_pairs_mut().append_pair("n", "1000");
        let what = "its tags";
        let got = async {
            let mut answer = self.transport.send_ok(site, &Ask::new(Method::GET, url, what, &scope)).await.ok()?;
            serde_json::from_slice::<List>(&answer.bytes(TAGS_MAX).await.ok()?).ok()
        };
        let mut tags = got.await.and_then(|list| list.tags).unwrap_or_default();
        tags.sort_by(|a, b| strsim::jaro_winkler(wanted, b).total_cmp(&strsim::jaro_winkler(wanted, a)));
        tags.iter().take(TAGS_SHOWN).map(|tag| shown(tag)).collect()
    }
}

/// Compares a digest with what it should be.
fn expect(site: &Site, reference: &ImageReference, expected: ImageDigest, bytes: &[u8]) -> Result<(), RegistryError> {
    let found = digest_of(bytes);
    if found == expected {
        return Ok(());
    }
    Err(RegistryError::OtherDigest { host: site.name.clone(), what: reference.to_string(), expected, found })
}

/// Some servers of files have no better word for a manifest than these.
fn may_be_document(media_type: &str) -> bool {
    let is_general = matches!(media_type, "application/json" | "application/octet-stream" | "text/plain");
    is_general || media_type.starts_with("application/vnd.")
}

fn of_manifest(reference: &ImageReference, source: ManifestError) -> RegistryError {
    RegistryError::Manifest { what: reference.to_string(), source }
}
