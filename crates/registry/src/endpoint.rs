//! Where a registry answers: from its name in a reference to URLs.
//!
//! TLS always, but with two kinds of registries: those of this machine (localhost, 127.0.0.0/8, ::1, as Docker has it),
//! which are asked without it where they speak none; and those that whoever asks calls insecure, whose certificate is
//! not looked at either. The certificate of a registry of this machine is: what speaks TLS is taken at its word.

use std::collections::BTreeSet;

use reqwest::Url;
use sandpen_types::image::{DEFAULT_REGISTRY, HUB_HOST};

use crate::error::{RegistryError, shown};
use crate::proxies::is_loopback;

/// What is asked of a registry's TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A certificate that counts.
    Certificate,
    /// The same, or no TLS at all.
    CertificateOrPlain,
    /// Nothing.
    Nothing,
}

/// Where a registry, or a mirror of one, answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    name: String,
    url: Url,
    trust: Trust,
}

impl Endpoint {
    /// Of a registry as a reference names it, or of a mirror, `HOST[:PORT][/PREFIX]`.
    ///
    /// # Errors
    /// [`RegistryError::Name`] where the text is no host.
    pub fn new(name: &str, insecure: &BTreeSet<String>) -> Result<Self, RegistryError> {
        let refused = || RegistryError::Name { name: shown(name) };
        let (host, prefix) = name.split_once('/').map_or((name, ""), |(host, prefix)| (host, prefix));
        if host.is_empty() || name.contains(['@', '?', '#', '\\']) || name.contains("..") || name.contains("//") {
            return Err(refused());
        }
        let host = if host == DEFAULT_REGISTRY { HUB_HOST } else { host };
        let slash = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
        let url = Url::parse(&format!("https://{host}/{prefix}{slash}")).map_err(|_| refused())?;
        let trust = match url.host_str() {
            None => return Err(refused()),
            _ if insecure.contains(name) || insecure.contains(host) => Trust::Nothing,
            Some(host) if is_loopback(host) => Trust::CertificateOrPlain,
            Some(_) => Trust::Certificate,
        };
        Ok(Self { name: name.to_owned(), url, trust })
    }

    /// As it was named.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is asked of its TLS.
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// Where it answers with TLS; ends with a slash.
    pub fn secure(&self) -> &Url {
        &self.url
    }

    /// Where it answers without, if it may.
    pub fn plain(&self) -> Option<Url> {
        let mut url = self.url.clone();
        let may = self.trust != Trust::Certificate && url.set_scheme("http").is_ok();
        // The port of HTTPS is left out of the URL; whoever wrote it meant it.
        if self.name.split('/').next().is_some_and(|host| host.ends_with(":443")) {
            url.set_port(Some(443)).ok()?;
        }
        may.then_some(url)
    }

    /// Whether its name says which port it is at.
    pub fn has_port(&self) -> bool {
        has_port(self.name.split('/').next().unwrap_or_default())
    }
}

/// Whether a host is one with a port; an address of IPv6 has colons as well, in brackets.
pub(crate) fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'))
}

/// The URL at which a registry says which version of the protocol it speaks; `base` ends with a slash.
pub(crate) fn version_url(base: &Url) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}v2/", base.path()));
    url
}

/// Whether the certificate of a host, as [`authority`] has it, is not looked at: it is where one of these registries
/// answers.
pub(crate) fn is_insecure(insecure: &BTreeSet<String>, host: &str) -> bool {
    let answers = |name: &String| Endpoint::new(name, insecure).is_ok_and(|of| authority(of.secure()) == host);
    insecure.iter().any(answers)
}

/// Host and port as directories of certificates are called, and messages have them: the port only if it is not that of
/// the scheme.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether credentials for the one may be sent to the other.
pub(crate) fn is_same_origin(a: &Url, b: &Url) -> bool {
    (a.scheme(), a.host_str(), a.port_or_known_default()) == (b.scheme(), b.host_str(), b.port_or_known_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_urls() {
        let insecure = BTreeSet::from(["old.example:5000".to_owned()]);
        for (name, secure, plain) in [
            ("docker.io", "https://registry-1.docker.io/", None),
            ("ghcr.io", "https://ghcr.io/", None),
            ("a.example:5000", "https://a.example:5000/", None),
            ("localhost", "https://localhost/", Some("http://localhost/")),
            ("localhost:5000", "https://localhost:5000/", Some("http://localhost:5000/")),
            ("127.0.0.2:443", "https://127.0.0.2/", Some("http://127.0.0.2:443/")),
            ("[::1]:5000", "https://[::1]:5000/", Some("http://[::1]:5000/")),
            ("localhost.example", "https://localhost.example/", None),
            ("127.0.0.1.example", "https://127.0.0.1.example/", None),
            ("10.0.0.1", "https://10.0.0.1/", None),
            ("old.example:5000", "https://old.example:5000/", Some("http://old.example:5000/")),
            ("mirror.example/hub", "https://mirror.example/hub/", None),
        ] {
            let endpoint = Endpoint::new(name, &insecure).unwrap();
            assert_eq!(endpoint.secure().as_str(), secure);
            assert_eq!(endpoint.plain().as_ref().map(Url::as_str), plain, "{name}");
        }
        for name in ["", "/x", "a b", "user@host", "host/../x", "host?x", "a.example:port", "file:///etc"] {
            assert!(Endpoint::new(name, &insecure).is_err(), "{name}");
        }
    }

    #[test]
    fn an_insecure_registry_is_so_where_it_answers() {
        let insecure = ["docker.io", "A.example:443", "b.example:5000", "mirror.example/hub"].map(str::to_owned).into();
        for host in ["registry-1.docker.io", "a.example", "b.example:5000", "mirror.example"] {
            assert!(is_insecure(&insecure, host), "{host}");
        }
        for host in ["auth.docker.io", "b.example", "a.example:5000", "hub"] {
            assert!(!is_insecure(&insecure, host), "{host}");
        }
    }

    #[test]
    fn another_origin_is_another_scheme_host_or_port() {
        let url = |text: &str| Url::parse(text).unwrap();
        let home = url("https://a.example/v2/");
        for (other, same) in [
            ("https://a.example:443/x", true),
            ("https://A.example/x", true),
            ("http://a.example/x", false),
            ("https://b.a.example/x", false),
            ("https://a.example:8443/x", false),
        ] {
            assert_eq!(is_same_origin(&home, &url(other)), same, "{other}");
        }
    }
}
