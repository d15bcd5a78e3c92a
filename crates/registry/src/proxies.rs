//! Ways out of this network, as the variables `http_proxy`, `https_proxy` and `no_proxy` say them: whoever asks hands
//! them over, for a daemon's own environment is not that of the person who asks.
//!
//! There is no standard; the rules are those of Go's `httpproxy`, and so Docker's and Podman's: an entry of `no_proxy`
//! is `*`, an address, a network, `domain` (it and all below it) or `.domain` (all below it), each with `:port` if only
//! that port is meant. This machine itself is never asked for over a proxy.

use std::net::IpAddr;

use reqwest::Url;

use crate::error::RegistryError;
use crate::secret::Secret;

/// Ways out of this network. A proxy's URL may have a password in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://`: a URL, or `HOST:PORT`.
    pub http: Option<Secret>,
    /// For `https://`.
    pub https: Option<Secret>,
    /// Hosts that are asked for without one.
    pub no_proxy: String,
}

impl Proxies {
    /// The proxy for a URL, `None` for none. Of a proxy whose text is no URL there is none:
    /// [`Proxies::check`] has refused it.
    pub fn of(&self, url: &Url) -> Option<Url> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        let proxy = proxy.as_ref()?;
        let host = url.host_str()?;
        if is_loopback(host) || self.is_excepted(host, url.port_or_known_default()) {
            return None;
        }
        parse(proxy)
    }

    /// Whether all are URLs.
    ///
    /// # Errors
    /// [`RegistryError::Proxy`], which does not show the URL.
    pub fn check(&self) -> Result<(), RegistryError> {
        for (scheme, proxy) in [("http", &self.http), ("https", &self.https)] {
            if proxy.as_ref().is_some_and(|proxy| parse(proxy).is_none()) {
                return Err(RegistryError::Proxy { scheme });
            }
        }
        Ok(())
    }

    fn is_excepted(&self, host: &str, port: Option<u16>) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches([']', '.']).to_ascii_lowercase();
        let mut entries = self.no_proxy.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty());
        entries.any(|entry| fits(&entry.to_ascii_lowercase(), &host, port))
    }
}

/// `HOST:PORT` is one as well.
fn parse(proxy: &Secret) -> Option<Url> {
    let text = proxy.expose();
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("http://{text}")) };
    url.ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
}

/// Whether a host of a URL is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn fits(entry: &str, host: &str, port: Option<u16>) -> bool {
    if entry == "*" {
        return true;
    }
    let address = host.parse::<IpAddr>().ok();
    if let Some((network, bits)) = entry.split_once('/') {
        let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
        return address.is_some_and(|address| is_within(address, network, bits));
    }
    let (name, only) = without_port(entry);
    if only.is_some() && only != port {
        return false;
    }
    if let Some(address) = address {
        return name.parse() == Ok(address);
    }
    let below = name.strip_prefix('*').unwrap_or(name);
    match below.strip_prefix('.') {
        Some(domain) => host.strip_suffix(domain).is_some_and(|left| left.ends_with('.')),
        None => host == below || host.strip_suffix(below).is_some_and(|left| left.ends_with('.')),
    }
}

fn without_port(entry: &str) -> (&str, Option<u16>) {
    if let Some((name, port)) = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (name, port.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match entry.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, port.parse().ok()),
        _ => (entry, None),
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        bits <= width && (bits == 0 || (a ^ b).checked_shr(width - bits).unwrap_or(0) == 0)
    };
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => same(address.to_bits().into(), network.to_bits().into(), 32),
        (IpAddr::V6(address), IpAddr::V6(network)) => same(address.to_bits(), network.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_hosts_domains_and_networks() {
        for (no_proxy, url, through) in [
            ("", "https://a.example/", true),
            ("*", "https://a.example/", false),
            ("a.example", "https://a.example/", false),
            ("a.example", "https://b.a.example/", false),
            ("a.example", "https://ba.example/", true),
            (".a.example", "https://a.example/", true),
            (".a.example", "https://b.a.example/", false),
            ("*.a.example", "https://b.a.example/", false),
            ("A.Example", "https://a.example./", false),
            ("a.example:5000", "https://a.example/", true),
            ("a.example:5000", "https://a.example:5000/", false),
            ("x, 10.0.0.0/8 ,y", "https://10.2.3.4/", false),
            ("10.0.0.0/8", "https://11.2.3.4/", true),
            ("10.0.0.0/33", "https://10.2.3.4/", true),
            ("0.0.0.0/0", "https://10.2.3.4/", false),
            ("10.0.0.1", "https://10.0.0.1:5000/", false),
            ("0.0.1", "https://10.0.0.1/", true),
            ("fd00::/8", "https://[fd00::1]/", false),
            ("[fd00::1]:5000", "https://[fd00::1]:5000/", false),
            ("fd00::1", "https://[fd00::1]/", false),
            ("", "https://localhost:5000/", false),
            ("", "https://127.8.0.1/", false),
            ("", "https://[::1]:5000/", false),
        ] {
            let proxies = Proxies { https: Some(Secret::new("p:3128")), no_proxy: no_proxy.to_owned(), http: None };
            let of = proxies.of(&url.parse().unwrap());
            assert_eq!(of.is_some(), through, "{no_proxy:?} {url}");
            assert!(proxies.of(&"http://a.example/".parse().unwrap()).is_none());
        }
    }

    #[test]
    fn what_is_no_url_is_refused_and_not_shown() {
        for bad in ["socks5://p", "http://", "ht tp://user:hunter2@x", "user:hunter2@"] {
            let proxies = Proxies { http: Some(Secret::new(bad)), ..Proxies::default() };
            let error = proxies.check().unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
