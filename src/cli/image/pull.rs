//! `sandpen pull`, and what `run` pulls. Credentials and proxies are those of whoever calls: the daemon gets them with
//! the request, and keeps none.

use sandpen::api::{ImageCredentials, ImageEntry, ImageProxies, ImagePullRequest, RegistryPassword, RegistryToken};
use sandpen::client::Client;
use sandpen::registry::Credentials;
use sandpen::registry::credentials::Places;
use sandpen_types::image::ImageReference;

use super::{Told, came_in, follow, ids};
use crate::cli::{CliError, Global, print};

/// Get an image from its registry
///
/// A name without a registry is one of docker.io, and one without a tag has the tag latest. What of the image is here is
/// not fetched again. Who asks is looked up where Podman and Docker keep it ($REGISTRY_AUTH_FILE,
/// containers/auth.json, .docker/config.json and the programs that these name); proxies are those of $http_proxy,
/// $https_proxy and $no_proxy.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen pull debian:12
  sandpen pull --platform linux/arm64 ghcr.io/owner/app@sha256:…")]
pub struct Args {
    /// The image
    #[arg(value_name = "REFERENCE")]
    reference: ImageReference,
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
    /// Print JSON, a line each: what happens to each layer, and at the end the image
    #[arg(long)]
    json: bool,
}

/// `sandpen pull` and `sandpen image pull`.
pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let Args { reference, platform, quiet, insecure, json } = args;
    let asked = asked(reference).await?;
    let request = ImagePullRequest { platform: platform.clone(), insecure: *insecure, ..asked };
    let client = global.connect().await?;
    if *json {
        return follow(client.pull_image(&request).await?, Told::Json).await.map(|_| 0);
    }
    if *quiet {
        return ids(&follow(client.pull_image(&request).await?, Told::Nobody).await?);
    }
    came_in(&bring(&client, &request).await?, false)
}

/// Pulls an image for this host.
pub async fn pull(client: &Client, reference: &ImageReference) -> Result<Vec<ImageEntry>, CliError> {
    bring(client, &asked(reference).await?).await
}

/// Shows people what it does.
async fn bring(client: &Client, request: &ImagePullRequest) -> Result<Vec<ImageEntry>, CliError> {
    print::note(&format!("pulling {}", request.name));
    follow(client.pull_image(request).await?, Told::Bars(print::ImageBars::new())).await
}

/// What is asked for, by whom and which way.
async fn asked(reference: &ImageReference) -> Result<ImagePullRequest, CliError> {
    let (credentials, proxies) = access(reference).await?;
    Ok(ImagePullRequest { credentials, proxies, ..ImagePullRequest::new(reference.clone()) })
}

/// Who asks the registry of a reference, and which way, as the environment says.
pub(super) async fn access(
    reference: &ImageReference,
) -> Result<(Option<ImageCredentials>, Option<ImageProxies>), CliError> {
    let found = Places::new(|name| std::env::var_os(name)).find(reference).await?;
    let credentials = found.map(|found| match found {
        Credentials::Password { username, password } => {
            ImageCredentials::Password(RegistryPassword { username, password: password.expose().to_owned() })
        }
        Credentials::IdentityToken(token) => {
            ImageCredentials::IdentityToken(RegistryToken { identity_token: token.expose().to_owned() })
        }
    });
    Ok((credentials, proxies(|name| std::env::var(name).ok())))
}

/// The small names come first, as most programs have it.
fn proxies(variable: impl Fn(&str) -> Option<String>) -> Option<ImageProxies> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let either = |name: &str| set(name).or_else(|| set(&name.to_uppercase()));
    let (http, https, no_proxy) = (either("http_proxy"), either("https_proxy"), either("no_proxy"));
    (http.is_some() || https.is_some()).then_some(ImageProxies { http, https, no_proxy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_those_of_the_environment() {
        let of = |set: &[(&str, &str)]| {
            proxies(|name| set.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(of(&[("no_proxy", "x"), ("http_proxy", "")]), None);
        let found = of(&[("HTTP_PROXY", "a"), ("http_proxy", "b"), ("HTTPS_PROXY", "c"), ("NO_PROXY", "d")]).unwrap();
        let wanted = (Some("b".to_owned()), Some("c".to_owned()), Some("d".to_owned()));
        assert_eq!((found.http, found.https, found.no_proxy), wanted);
    }
}
