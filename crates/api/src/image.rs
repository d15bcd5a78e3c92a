//! Images of root file systems, and what is done with them.

use std::fmt;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use sandpen_types::image::{ImageDigest, ImageReference};
use sandpen_types::image_changes::ImageChanges;
use sandpen_types::registry::MirrorPlace;
use sandpen_types::spec::SandboxKey;
use serde::{Deserialize, Serialize};

use crate::ErrorDetail;

/// An image of the daemon's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// The digest of its configuration: its identity.
    pub digest: ImageDigest,
    /// The digest of its manifest, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<ImageDigest>,
    /// Its names, complete and sorted; it may have none.
    pub names: Vec<ImageReference>,
    /// When it was made, if it says so.
    pub created: Option<DateTime<Utc>>,
    /// When it came into the store.
    pub loaded: DateTime<Utc>,
    /// When a microVM last began to run from it, or when it last came though it was there.
    pub last_used: Option<DateTime<Utc>>,
    /// Operating system, as it says.
    pub os: Option<String>,
    /// Processor, as it says.
    pub architecture: Option<String>,
    /// Its layers, base first.
    pub layers: Vec<ImageLayer>,
    /// What it takes of the host's disk, in bytes, with what it shares.
    pub bytes: u64,
    /// What of that goes with it.
    pub unique_bytes: u64,
    /// The sandboxes that have it, live ones and others, as CONFIG/NAME.
    pub used_by: Vec<String>,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// The digest of its content.
    pub diff_id: ImageDigest,
    /// What it takes of the host's disk, in bytes.
    pub bytes: u64,
    /// How many images have it.
    pub shared_by: u64,
}

/// An image with all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageDetail {
    /// What lists have.
    #[serde(flatten)]
    pub entry: ImageEntry,
    /// Its configuration.
    pub config: serde_json::Value,
}

/// Body of `POST /v1/images/load`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageLoadRequest {
    /// The archive, or the directory of an OCI layout: a path of the host, absolute.
    pub path: PathBuf,
    /// A name besides those that the archive says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ImageReference>,
    /// Which image of an archive of several, as `linux/arm64`; the host's where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// Body of `POST /v1/images/import`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageImportRequest {
    /// The root directory, or a tar of one: a path of the host, absolute.
    pub path: PathBuf,
    /// The image's name.
    pub name: ImageReference,
}

/// Body of `POST /v1/images/commit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageCommitRequest {
    /// The sandbox, which runs or has ended: `{"config": …, "name": …}`.
    pub sandbox: SandboxKey,
    /// The image's name.
    pub name: ImageReference,
    /// What it says in the place of the image that the sandbox runs.
    #[serde(default)]
    pub changes: ImageChanges,
}

/// Body of `POST /v1/images/pull`. Its debug output shows no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagePullRequest {
    /// Which image.
    pub name: ImageReference,
    /// For which platform, as `linux/arm64`; the host's where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Who asks its registry; nobody in particular where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<ImageCredentials>,
    /// Whether the registry's certificate is not looked at, and plain HTTP is spoken with one that has none.
    #[serde(default)]
    pub insecure: bool,
    /// Ways out of this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<ImageProxies>,
    /// Where to look first, in order; at most [`MIRRORS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<ImageMirror>,
}

/// Most mirrors of a request: each that does not answer is waited for.
pub const MIRRORS_MAX: usize = 8;

/// A mirror of the registry that a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageMirror {
    /// Where it is: `HOST[:PORT][/PREFIX]`.
    pub place: MirrorPlace,
    /// Who asks it; nobody in particular where nothing is said. The registry's own credentials never go there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<ImageCredentials>,
    /// Whether its certificate is not looked at, and plain HTTP is spoken if it has none.
    #[serde(default)]
    pub insecure: bool,
}

impl ImagePullRequest {
    /// For the host's platform, by nobody in particular.
    pub fn new(name: ImageReference) -> Self {
        Self { name, platform: None, credentials: None, insecure: false, proxies: None, mirrors: Vec::new() }
    }
}

/// Body of `POST /v1/images/push`. Its debug output shows no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagePushRequest {
    /// The image, by a name, its digest or the beginning of that.
    pub image: String,
    /// Where it goes, with a tag and without a digest; under the image's name where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<ImageReference>,
    /// Who asks the registry; nobody in particular where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<ImageCredentials>,
    /// Whether the registry's certificate is not looked at, and plain HTTP is spoken with one that has none.
    #[serde(default)]
    pub insecure: bool,
    /// Ways out of this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<ImageProxies>,
}

impl ImagePushRequest {
    /// Under its name, by nobody in particular.
    pub fn new(image: impl Into<String>) -> Self {
        Self { image: image.into(), destination: None, credentials: None, insecure: false, proxies: None }
    }
}

/// An image that is in a registry now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePushed {
    /// The image: the digest of its configuration.
    pub image: ImageDigest,
    /// Where it is, complete, with its tag and the digest of its manifest.
    pub reference: ImageReference,
    /// The digest of its manifest there.
    pub manifest_digest: ImageDigest,
}

/// Who asks a registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImageCredentials {
    /// By name and password.
    Password(RegistryPassword),
    /// By a token that gets others.
    IdentityToken(RegistryToken),
}

/// A name and a password for a registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryPassword {
    /// The name.
    pub username: String,
    /// The password.
    pub password: String,
}

/// A token that a registry gives others for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryToken {
    /// The token.
    pub identity_token: String,
}

impl fmt::Debug for ImageCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password(password) => password.fmt(f),
            Self::IdentityToken(token) => token.fmt(f),
        }
    }
}

impl fmt::Debug for RegistryPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryPassword").field("username", &self.username).finish_non_exhaustive()
    }
}

impl fmt::Debug for RegistryToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryToken").finish_non_exhaustive()
    }
}

/// Ways out of this network, as the variables of these names say them. Their URLs may have passwords in them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageProxies {
    /// For `http://`: a URL, or `HOST:PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// For `https://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<String>,
    /// Hosts that are asked for without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_proxy: Option<String>,
}

impl fmt::Debug for ImageProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageProxies").field("no_proxy", &self.no_proxy).finish_non_exhaustive()
    }
}

/// Body of `POST /v1/images/tag`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTagRequest {
    /// The image, by a name, its digest or the beginning of that.
    pub image: String,
    /// The name that it gets.
    pub name: ImageReference,
}

/// Of which kind an archive of images is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageArchive {
    /// As `docker save` makes them.
    #[default]
    Docker,
    /// An OCI layout.
    Oci,
}

/// Body of `POST /v1/images/save`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSaveRequest {
    /// The images, each by a name, its digest or the beginning of that.
    pub images: Vec<String>,
    /// What they are written as.
    #[serde(default)]
    pub format: ImageArchive,
}

/// Body of `POST /v1/images/prune`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagePruneRequest {
    /// Whether images with names go too.
    #[serde(default)]
    pub all: bool,
    /// Whether it is only said what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer of `DELETE /v1/image` and `POST /v1/images/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRemoval {
    /// Names that were taken away.
    pub untagged: Vec<ImageReference>,
    /// Images that are gone.
    pub removed: Vec<ImageDigest>,
    /// What that freed of the host's disk, in bytes.
    pub freed_bytes: u64,
}

/// A line of what pulling, loading, importing and pushing answer: how far it is, and at the end what came of it or why
/// nothing did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageWork {
    /// It goes on.
    Progress(ImageProgress),
    /// The end: what came into the store, or was there.
    Images(Vec<ImageEntry>),
    /// The end of a push: where the image is now.
    Pushed(ImagePushed),
    /// The end: it failed.
    Error(ErrorDetail),
}

/// How far a layer is, or an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageProgress {
    /// What is being done, or was.
    pub step: ImageStep,
    /// Of which layer, by the digest of its content; of which image, by that of its configuration.
    pub digest: ImageDigest,
    /// Bytes that are done, as they come or go; fewer than before where something is done again.
    pub done_bytes: u64,
    /// Of how many, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
}

/// What happens to a layer or an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageStep {
    /// A layer will come, or go.
    LayerWaiting,
    /// A layer comes from a registry, and is unpacked while it comes.
    LayerPulling,
    /// A layer of an archive or a directory comes into the store.
    LayerUnpacking,
    /// A layer is packed for a registry.
    LayerPacking,
    /// A layer goes to a registry.
    LayerPushing,
    /// A layer is where it should be.
    LayerDone,
    /// A layer was there already.
    LayerPresent,
    /// A layer was in another repository of the registry, and is in this one now.
    LayerMounted,
    /// An image is where it should be.
    ImageDone,
    /// A layer that broke off comes from a registry from where it was: so much of it was kept.
    LayerResuming,
    /// What a daemon that is newer than this knows.
    #[serde(other)]
    Unknown,
}

impl ImageStep {
    /// All that a daemon says.
    pub const ALL: [Self; 10] = [
        Self::LayerWaiting,
        Self::LayerPulling,
        Self::LayerUnpacking,
        Self::LayerPacking,
        Self::LayerPushing,
        Self::LayerDone,
        Self::LayerPresent,
        Self::LayerMounted,
        Self::ImageDone,
        Self::LayerResuming,
    ];
}
