//! A registry, or a mirror of one, that is asked: where it answers, and as whom.

use std::sync::PoisonError;

use reqwest::{Method, Url};

use super::{Ask, Transport};
use crate::auth::{Credentials, Scope};
use crate::endpoint::{Endpoint, Trust, version_url};
use crate::error::RegistryError;

/// A registry, or a mirror of one, that is asked.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// As people call it.
    pub name: String,
    /// Where it answers; ends with a slash.
    pub base: Url,
    /// Who asks.
    pub credentials: Option<Credentials>,
}

impl Site {
    /// The URL of something in a repository.
    pub fn url(&self, repository: &str, rest: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}v2/{repository}/{rest}", self.base.path()));
        url
    }
}

impl Transport {
    /// The endpoints of a registry, its mirrors first, but for those that could not be reached before.
    pub fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>, RegistryError> {
        let mirrors = self.options.mirrors.get(registry).into_iter().flatten().map(String::as_str);
        let mut names: Vec<_> = mirrors.chain([registry]).collect();
        let unreachable = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|name| *name == registry || !unreachable.contains(*name));
        names.into_iter().map(|name| Endpoint::new(name, &self.options.insecure)).collect()
    }

    /// Another endpoint is asked in the place of this one.
    pub fn pass_over(&self, endpoint: &Endpoint, error: &RegistryError) {
        tracing::info!(%error, mirror = endpoint.name(), "a mirror is passed over");
        if error.is_unreachable() {
            let mut unreachable = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
            unreachable.insert(endpoint.name().to_owned());
        }
    }

    /// Where an endpoint answers, and who asks there for a repository.
    pub async fn site(&self, endpoint: &Endpoint, repository: &str) -> Result<Site, RegistryError> {
        let base = self.base(endpoint).await?;
        let credentials = self.credentials(endpoint.name(), repository).cloned();
        Ok(Site { name: endpoint.name().to_owned(), base, credentials })
    }

    /// The longest that fits counts.
    fn credentials(&self, name: &str, repository: &str) -> Option<&Credentials> {
        let full = format!("{name}/{repository}");
        let mut keys = std::iter::successors(Some(full.as_str()), |key| key.rsplit_once('/').map(|(above, _)| above));
        keys.find_map(|key| self.options.credentials.get(key))
    }

    /// Whether an endpoint speaks TLS is tried out once, if it need not.
    async fn base(&self, endpoint: &Endpoint) -> Result<Url, RegistryError> {
        let Some(plain) = endpoint.plain() else { return Ok(endpoint.secure().clone()) };
        let mut bases = self.bases.lock().await;
        if let Some(base) = bases.get(endpoint.name()) {
            return Ok(base.clone());
        }
        let url = version_url(endpoint.secure());
        let scope = Scope::default();
        let client = self.client(&url, None)?;
        let tried =
            self.send_once(&client, &url, &Ask::new(Method::GET, url.clone(), "its version", &scope), None).await;
        let base = match tried {
            Ok(_) => endpoint.secure().clone(),
            Err(error @ RegistryError::Certificate { .. }) if endpoint.trust() != Trust::Nothing => return Err(error),
            // Nobody is there: the other scheme would find nobody at the same port.
            Err(error @ RegistryError::Connection { is_refused: true, .. }) if endpoint.has_port() => {
                return Err(error);
            }
            Err(error) => {
                tracing::debug!(%error, registry = endpoint.name(), "plain HTTP is spoken");
                plain
            }
        };
        bases.insert(endpoint.name().to_owned(), base.clone());
        Ok(base)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::options::Options;

    /// The registry is the last one in any case: it is tried again, and its error counts.
    #[test]
    fn a_mirror_that_cannot_be_reached_is_left_out_and_a_registry_is_not() {
        let mut options = Options::default();
        options.mirrors.insert("far.example".to_owned(), vec!["one.example".to_owned(), "two.example".to_owned()]);
        let transport = Transport::new(options).unwrap();
        let names = || -> Vec<_> {
            transport.endpoints("far.example").unwrap().iter().map(|endpoint| endpoint.name().to_owned()).collect()
        };
        let unreachable = |host: &str| RegistryError::Connection {
            host: host.to_owned(),
            reason: "refused".to_owned(),
            connecting: true,
            is_refused: true,
        };
        assert_eq!(names(), ["one.example", "two.example", "far.example"]);
        for (name, left) in
            [("one.example", &["two.example", "far.example"][..]), ("far.example", &["two.example", "far.example"])]
        {
            let endpoint = Endpoint::new(name, &transport.options.insecure).unwrap();
            transport.pass_over(&endpoint, &unreachable(name));
            assert_eq!(names(), left);
        }
    }
}
