//! What the command line knows of registries: which way and as whom one is asked. It reads that where this user has it, and
//! hands it over with each request: the daemon has none of it.

use std::path::PathBuf;

use sandpen::api::{ImageCredentials, ImageMirror, ImageProxies, RegistryPassword, RegistryToken};
use sandpen::registry::credentials::Places;
use sandpen::registry::{Credentials, Options, Proxies, Secret};
use sandpen::{paths, registry};
use sandpen_types::image::ImageReference;
use sandpen_types::registry::{Mirror, RegistryName};

use super::{CliError, Global};

/// Which registries are asked without a look at their certificates.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct InsecureArgs {
    /// Do not look at the certificate of this registry or mirror, and speak plain HTTP with it if it has no TLS; may be
    /// given several times
    #[arg(long, value_name = "HOST[:PORT]")]
    insecure_registry: Vec<RegistryName>,
}

impl InsecureArgs {
    /// Whether a host is one of them.
    pub fn has(&self, host: &str) -> bool {
        self.insecure_registry.iter().any(|name| name.as_str() == host)
    }
}

/// Where images are looked for before their registry is asked.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct MirrorArgs {
    /// Look here first for images of REGISTRY, as whoever is logged in at the mirror; may be given several times: they are
    /// tried in order, and the registry itself last
    #[arg(long, value_name = "REGISTRY=HOST[:PORT][/PREFIX]")]
    mirror: Vec<Mirror>,
}

impl MirrorArgs {
    /// Those of a registry, each with who asks there.
    pub async fn of(&self, registry: &str, insecure: &InsecureArgs) -> Result<Vec<ImageMirror>, CliError> {
        let places = places();
        let mut mirrors = Vec::new();
        for Mirror { place, .. } in self.mirror.iter().filter(|mirror| mirror.registry.as_str() == registry) {
            let credentials = places.find_at(place.host(), place.prefix()).await?.map(sent);
            mirrors.push(ImageMirror { place: place.clone(), credentials, insecure: insecure.has(place.host()) });
        }
        Ok(mirrors)
    }
}

/// Where this user's credentials are.
pub fn places() -> Places {
    Places::new(|name| std::env::var_os(name))
}

/// Who asks for an image, as a request has it.
pub async fn who_asks(reference: &ImageReference) -> Result<Option<ImageCredentials>, CliError> {
    Ok(places().find(reference).await?.map(sent))
}

fn sent(credentials: Credentials) -> ImageCredentials {
    match credentials {
        Credentials::Password { username, password } => {
            ImageCredentials::Password(RegistryPassword { username, password: password.expose().to_owned() })
        }
        Credentials::IdentityToken(token) => {
            ImageCredentials::IdentityToken(RegistryToken { identity_token: token.expose().to_owned() })
        }
    }
}

/// The ways out of this network that the environment says, as a request has them.
pub fn proxies() -> Option<ImageProxies> {
    proxies_of(|name| std::env::var(name).ok())
}

/// The small names come first, as most programs have it.
fn proxies_of(variable: impl Fn(&str) -> Option<String>) -> Option<ImageProxies> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let either = |name: &str| set(name).or_else(|| set(&name.to_uppercase()));
    let (http, https, no_proxy) = (either("http_proxy"), either("https_proxy"), either("no_proxy"));
    (http.is_some() || https.is_some()).then_some(ImageProxies { http, https, no_proxy })
}

/// A client for this process itself, with these credentials for a registry.
pub fn client(
    global: &Global,
    name: &RegistryName,
    credentials: Credentials,
    is_insecure: bool,
) -> Result<registry::Registry, CliError> {
    let ImageProxies { http, https, no_proxy } = proxies().unwrap_or_default();
    let proxies =
        Proxies { http: http.map(Secret::new), https: https.map(Secret::new), no_proxy: no_proxy.unwrap_or_default() };
    let certificates: Vec<PathBuf> = paths::certificates(&global.data_dir());
    let name = name.as_str().to_owned();
    Ok(registry::Registry::new(Options {
        insecure: is_insecure.then(|| name.clone()).into_iter().collect(),
        credentials: [(name, credentials)].into(),
        proxies,
        certificates,
        ..Options::default()
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_those_of_the_environment() {
        let of = |set: &[(&str, &str)]| {
            proxies_of(|name| set.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(of(&[("no_proxy", "x"), ("http_proxy", "")]), None);
        let found = of(&[("HTTP_PROXY", "a"), ("http_proxy", "b"), ("HTTPS_PROXY", "c"), ("NO_PROXY", "d")]).unwrap();
        let wanted = (Some("b".to_owned()), Some("c".to_owned()), Some("d".to_owned()));
        assert_eq!((found.http, found.https, found.no_proxy), wanted);
    }
}
