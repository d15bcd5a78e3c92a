//! One request and its answer: redirects by hand, time-outs, credentials for the registry alone.
//!
//! A redirect is followed to http and https, and from https to https only. What the registry is told to believe us
//! (`Authorization`) goes to the registry's own scheme, host and port, and nowhere else.

mod answer;
mod broken;
mod site;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Client, Method, StatusCode, Url, redirect};
use rustls::RootCertStore;

pub(crate) use answer::Answer;
pub(crate) use site::Site;

use crate::auth::{Scope, Tokens};
use crate::certificates;
use crate::endpoint::{authority, is_insecure, is_same_origin};
use crate::error::{RegistryError, shown};
use crate::options::{Options, Times};
use crate::retry::{TRIES, pause};

/// Most redirects of one request.
const REDIRECTS_MAX: usize = 5;
/// Most connections' settings that are kept.
const CLIENTS_MAX: usize = 64;
/// What we call ourselves.
const USER_AGENT: &str = concat!("sandpen/", env!("CARGO_PKG_VERSION"));

/// The body of a request; made anew for each try.
pub(crate) type MakeBody<'a> = dyn Fn() -> BoxStream<'static, std::io::Result<Bytes>> + Send + Sync + 'a;

/// A request.
pub(crate) struct Ask<'a> {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    /// With the number of its bytes.
    pub body: Option<(u64, &'a MakeBody<'a>)>,
    /// What it is about, for messages.
    pub what: &'a str,
    /// What has to be allowed.
    pub scope: &'a Scope,
    /// So many times the usual time-out.
    pub patience: u32,
    /// The registry whose certificates count besides those of who is asked: who gives out its tokens is mostly a host of the
    /// same people, and Docker and Podman do not want the authority of both a second time.
    pub on_behalf_of: Option<&'a Url>,
}

impl<'a> Ask<'a> {
    /// Without a body.
    pub fn new(method: Method, url: Url, what: &'a str, scope: &'a Scope) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: None, what, scope, patience: 1, on_behalf_of: None }
    }

    /// With one more header.
    pub fn header(mut self, name: reqwest::header::HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }
}

/// Sends requests to registries.
pub(crate) struct Transport {
    pub options: Options,
    pub tokens: Tokens,
    /// By directory of certificates; those without one share a client.
    clients: Mutex<HashMap<String, Client>>,
    roots: RootCertStore,
    /// Where registries answer, by name.
    bases: tokio::sync::Mutex<HashMap<String, Url>>,
    /// Mirrors, by name, that could not be reached.
    unreachable: Mutex<HashSet<String>>,
}

impl Transport {
    pub fn new(options: Options) -> Result<Self, RegistryError> {
        options.proxies.check()?;
        Ok(Self {
            options,
            tokens: Tokens::default(),
            clients: Mutex::default(),
            roots: certificates::of_this_machine(),
            bases: tokio::sync::Mutex::default(),
            unreachable: Mutex::default(),
        })
    }

    pub fn times(&self) -> Times {
        self.options.times
    }

    /// Sends a request with what the registry wants to be told, asking for a new token once if the one that there is
    /// does not count. An answer of any status is one, but for 401.
    pub async fn send(&self, site: &Site, ask: &Ask<'_>) -> Result<Answer, RegistryError> {
        let told = self.tokens.known(site, ask.scope, SystemTime::now());
        let answer = self.follow(&site.base, ask, told.as_ref()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED || !answer.is_from_home() {
            return Ok(answer);
        }
        let told = self.authorize(site, ask, answer.headers(), told.as_ref()).await?;
        let answer = self.follow(&site.base, ask, Some(&told)).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && answer.is_from_home() {
            self.tokens.forget(site, ask.scope);
            return Err(answer.refusal(site, ask.what).await);
        }
        Ok(answer)
    }

    /// [`Self::send`], and an answer without success is an error.
    pub async fn send_ok(&self, site: &Site, ask: &Ask<'_>) -> Result<Answer, RegistryError> {
        let answer = self.send(site, ask).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(answer.refusal(site, ask.what).await)
    }

    /// Does something again while what goes wrong may go by itself. A registry that cannot be reached at all is no such
    /// thing: mostly it does not exist.
    pub async fn again<T, F>(&self, mut what: impl FnMut() -> F) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let mut failures = 1;
        loop {
            match what().await {
                Err(error) if error.is_transient() && !error.is_unreachable() && failures < tries(&error) => {
                    tracing::debug!(%error, failures, "a registry is asked again");
                    tokio::time::sleep(pause(self.times().backoff, failures, error.retry_after())).await;
                    failures += 1;
                }
                done => return done,
            }
        }
    }

    /// Sends a request and follows redirects. `told` goes to the origin of `home` alone.
    pub async fn follow(&self, home: &Url, ask: &Ask<'_>, told: Option<&HeaderValue>) -> Result<Answer, RegistryError> {
        let mut url = ask.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let is_home = is_same_origin(home, &url);
            let client = self.client(&url, ask.on_behalf_of.filter(|_| is_home))?;
            let answer = self.send_once(&client, &url, ask, told.filter(|_| is_home)).await?;
            let answer = Answer::new(answer, url.clone(), is_home, self.times().idle);
            let (status, is_safe) = (answer.status(), matches!(ask.method, Method::GET | Method::HEAD));
            let is_followed = match status.as_u16() {
                307 | 308 => true,
                301..=303 => is_safe,
                _ => false,
            };
            if !is_followed {
                return Ok(answer);
            }
            url = next(&url, answer.headers())?;
        }
        Err(RegistryError::Redirect { host: authority(home), reason: format!("more than {REDIRECTS_MAX} times") })
    }

    /// Sends a request, whatever the answer.
    pub async fn send_without_redirect(&self, ask: &Ask<'_>) -> Result<Answer, RegistryError> {
        let client = self.client(&ask.url, ask.on_behalf_of)?;
        let answer = self.send_once(&client, &ask.url, ask, None).await?;
        Ok(Answer::new(answer, ask.url.clone(), true, self.times().idle))
    }

    async fn send_once(
        &self,
        client: &Client,
        url: &Url,
        ask: &Ask<'_>,
        told: Option<&HeaderValue>,
    ) -> Result<reqwest::Response, RegistryError> {
        let mut request = client.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
        if let Some(told) = told {
            request = request.header(AUTHORIZATION, told.clone());
        }
        // Something was taken of the body since it was looked at.
        let moved = Arc::new(AtomicBool::new(false));
        if let Some((len, body)) = ask.body {
            let moved = Arc::clone(&moved);
            let body = body().inspect(move |_| moved.store(true, Ordering::Relaxed));
            request = request.header(reqwest::header::CONTENT_LENGTH, len).body(reqwest::Body::wrap_stream(body));
        }
        let idle = self.times().idle.saturating_mul(ask.patience);
        let mut answer = std::pin::pin!(request.send());
        loop {
            match tokio::time::timeout(idle, &mut answer).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => return Err(broken::explain(&error, url, &self.options.certificates)),
                Err(_) if moved.swap(false, Ordering::Relaxed) => {}
                Err(_) => return Err(RegistryError::Silent { host: authority(url), after: idle }),
            }
        }
    }

    /// The client that speaks with the host of a URL; a registry's certificates may count there too, behind the host's own.
    fn client(&self, url: &Url, on_behalf_of: Option<&Url>) -> Result<Client, RegistryError> {
        let host = authority(url);
        let other = on_behalf_of.map(authority).filter(|other| *other != host);
        let of = |host: &String| certificates::directories_of(&self.options.certificates, host);
        let directories = [other.as_ref().map(of).unwrap_or_default(), of(&host)].concat();
        let is_insecure = is_insecure(&self.options.insecure, &host);
        let key = match directories[..] {
            [] => format!("/{is_insecure}"),
            _ => format!("{host}/{}", other.unwrap_or_default()),
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let mut tls = certificates::tls(&self.roots, &directories, !is_insecure)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let proxies = self.options.proxies.clone();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .proxy(reqwest::Proxy::custom(move |url| proxies.of(url)))
            .connect_timeout(self.times().connect)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(USER_AGENT)
            .referer(false)
            .build()
            .map_err(|error| broken::explain(&error, url, &self.options.certificates))?;
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// How often a document is asked for: whoever says nothing is not waited for again and again.
fn tries(error: &RegistryError) -> u32 {
    if matches!(error, RegistryError::Silent { .. }) { 2 } else { TRIES }
}

/// Where a redirect, or the place of an upload, leads to.
pub(crate) fn next(from: &Url, headers: &HeaderMap) -> Result<Url, RegistryError> {
    let refused = |reason: String| RegistryError::Redirect { host: authority(from), reason };
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| refused("without saying where to".to_owned()))?;
    let mut to = from.join(location).map_err(|_| refused(format!("to \"{}\", which is no URL", shown(location))))?;
    match (from.scheme(), to.scheme()) {
        ("https" | "http", "https") | ("http", "http") => {}
        (_, "http") => return Err(refused(format!("from https to http ({})", shown(&authority(&to))))),
        (_, other) => return Err(refused(format!("to another scheme, \"{}\"", shown(other)))),
    }
    // Credentials in it would be sent as ours.
    if !to.username().is_empty() || to.password().is_some() {
        let _ = to.set_username("");
        let _ = to.set_password(None);
    }
    Ok(to)
}
