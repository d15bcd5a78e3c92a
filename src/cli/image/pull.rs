//! `sandpen pull`, and what `run` pulls. Credentials and proxies are those of whoever calls: the daemon gets them with
//! the request, and keeps none.

use sandpen::api::{ImageEntry, ImagePullRequest};
use sandpen::client::Client;
use sandpen_types::image::ImageReference;

use super::{Told, came_in, follow, ids};
use crate::cli::args::ImageNameArg;
use crate::cli::registry::{InsecureArgs, MirrorArgs, proxies, who_asks};
use crate::cli::{CliError, Global};

/// Get an image from its registry
///
/// A name without a registry is one of the default registry, and one without a tag has the tag latest. What of the image is
/// here is not fetched again. Who asks is looked up where `sandpen login`, Podman and Docker keep it ($REGISTRY_AUTH_FILE,
/// containers/auth.json, .docker/config.json and the programs that these name); proxies are those of $http_proxy,
/// $https_proxy and $no_proxy.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen pull debian:12
  sandpen pull --mirror docker.io=mirror.example/hub debian:12
  sandpen pull --platform linux/arm64 ghcr.io/owner/app@sha256:…")]
pub struct Args {
    /// The image
    #[arg(value_name = "REFERENCE")]
    reference: ImageNameArg,
    /// The platform, for example linux/arm64; an image for another one than this host's does not run here [default: this
    /// host's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Print the image's id only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// Do not look at the registry's certificate, and speak plain HTTP with one that has no TLS
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    ways: Ways,
    /// Print JSON, a line each: what happens to each layer, and at the end the image
    #[arg(long)]
    json: bool,
}

/// Which ways lead to an image.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Ways {
    #[command(flatten)]
    insecure: InsecureArgs,
    #[command(flatten)]
    mirrors: MirrorArgs,
}

impl Ways {
    /// What is asked for, by whom and which way.
    async fn request(&self, reference: &ImageReference) -> Result<ImagePullRequest, CliError> {
        let registry = reference.registry();
        Ok(ImagePullRequest {
            credentials: who_asks(reference).await?,
            proxies: proxies(),
            mirrors: self.mirrors.of(registry, &self.insecure).await?,
            insecure: self.insecure.has(registry),
            ..ImagePullRequest::new(reference.clone())
        })
    }
}

/// `sandpen pull` and `sandpen image pull`.
pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let Args { reference, platform, quiet, insecure, ways, json } = args;
    let mut request = ways.request(&reference.name(global)?).await?;
    request.platform.clone_from(platform);
    request.insecure |= *insecure;
    let images = bring(&global.connect().await?, &request, *json, *quiet).await?;
    match (json, quiet) {
        (true, _) => Ok(0),
        (_, true) => ids(&images),
        _ => came_in(global, &images, false),
    }
}

/// Pulls an image for this host.
pub async fn pull(client: &Client, reference: &ImageReference, ways: &Ways) -> Result<Vec<ImageEntry>, CliError> {
    bring(client, &ways.request(reference).await?, false, false).await
}

async fn bring(
    client: &Client,
    request: &ImagePullRequest,
    json: bool,
    quiet: bool,
) -> Result<Vec<ImageEntry>, CliError> {
    let told = Told::new(json, quiet, &format!("pulling {}", request.name));
    follow(client.pull_image(request).await?, told).await
}
