//! Who asks: answers to a registry's challenges, and tokens that are kept for as long as they count.
//!
//! ```text
//!   401 + WWW-Authenticate ─▶ Basic:  name and password, to the registry
//!                          └▶ Bearer: name and password (GET) or an identity token (POST) to its realm ─▶ token
//! ```
//!
//! Source: the distribution project's "Token Authentication Specification" (`spec/auth/token.md`) and "OAuth2"
//! (`spec/auth/oauth.md`). A realm is asked over https, unless the registry itself speaks plain HTTP, and credentials
//! follow no redirect of it to another host.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::StreamExt as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;

use crate::challenge::{Challenge, challenges};
use crate::endpoint::authority;
use crate::error::{RegistryError, shown};
use crate::secret::Secret;
use crate::transport::{Answer, Ask, Site, Transport};

/// Most bytes of a token's answer.
const ANSWER_MAX: u64 = 256 << 10;
/// How long a token counts of which it is not said (`spec/auth/token.md`).
const DEFAULT_LIFE: Duration = Duration::from_mins(1);
/// The name under which tokens are asked for.
const CLIENT_ID: &str = "sandpen";

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// By name and password.
    Password {
        /// The name.
        username: String,
        /// The password, or a token that is used as one.
        password: Secret,
    },
    /// By a token that gets others (`identitytoken`).
    IdentityToken(Secret),
}

/// What has to be allowed: `repository:NAME:ACTIONS`, several of them, or nothing in particular.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scope(Vec<String>);

impl Scope {
    /// To get something from a repository.
    pub fn pull(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull")])
    }

    /// To get and to put something.
    pub fn push(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,push")])
    }

    /// And to get something from another repository.
    pub fn and_pull(mut self, repository: &str) -> Self {
        self.0.push(format!("repository:{repository}:pull"));
        self
    }
}

/// What registries are told, and for how long it counts.
#[derive(Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<(Url, Scope), Told>>,
    /// Of many who see that a token has expired one gets the new one.
    gate: tokio::sync::Mutex<()>,
}

struct Told {
    value: HeaderValue,
    until: Option<SystemTime>,
}

/// A realm's answer.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Tokens {
    /// What there is to tell a registry that still counts.
    pub fn known(&self, site: &Site, scope: &Scope, now: SystemTime) -> Option<HeaderValue> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let told = known.get(&(site.base.clone(), scope.clone()))?;
        told.until.is_none_or(|until| now < until).then(|| told.value.clone())
    }

    /// It did not count.
    pub fn forget(&self, site: &Site, scope: &Scope) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&(site.base.clone(), scope.clone()));
    }

    fn keep(&self, site: &Site, scope: &Scope, told: Told) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((site.base.clone(), scope.clone()), told);
    }
}

impl Transport {
    /// What answers a registry's challenge; `refused` is what it was told before.
    pub async fn authorize(
        &self,
        site: &Site,
        ask: &Ask<'_>,
        headers: &HeaderMap,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let _one = self.tokens.gate.lock().await;
        let now = SystemTime::now();
        if let Some(known) = self.tokens.known(site, ask.scope, now).filter(|known| Some(known) != refused) {
            return Ok(known);
        }
        let all = challenges(headers);
        let of = |scheme: &str| all.iter().find(|challenge| challenge.scheme == scheme);
        let told = if let Some(bearer) = of("bearer") {
            self.token(site, ask, bearer, now).await?
        } else if of("basic").is_some() {
            let Some(Credentials::Password { username, password }) = &site.credentials else {
                return Err(denied(site, ask.what, String::new()));
            };
            // The same would be refused again.
            if refused.is_some() {
                return Err(denied(site, ask.what, String::new()));
            }
            Told { value: basic(username, password), until: None }
        } else {
            let schemes: Vec<_> = all.iter().map(|challenge| shown(&challenge.scheme)).collect();
            let reason = if schemes.is_empty() { "it does not say how".to_owned() } else { schemes.join(", ") };
            return Err(RegistryError::Challenge { registry: site.name.clone(), reason });
        };
        let value = told.value.clone();
        self.tokens.keep(site, ask.scope, told);
        Ok(value)
    }

    async fn token(
        &self,
        site: &Site,
        ask: &Ask<'_>,
        challenge: &Challenge,
        now: SystemTime,
    ) -> Result<Told, RegistryError> {
        let refused = |reason: String| RegistryError::Challenge { registry: site.name.clone(), reason };
        let realm = challenge.get("realm").ok_or_else(|| refused("it does not say who gives out tokens".to_owned()))?;
        let mut realm = Url::parse(realm).map_err(|_| refused(format!("\"{}\" is no URL", shown(realm))))?;
        if realm.scheme() != "https" && !(realm.scheme() == "http" && site.base.scheme() == "http") {
            return Err(refused(format!(
                "its tokens are given out over {} by {}, which is not safe",
                shown(realm.scheme()),
                shown(&authority(&realm))
            )));
        }
        if !realm.username().is_empty() || realm.password().is_some() {
            return Err(refused("credentials stand in the URL of who gives out tokens".to_owned()));
        }
        let service = challenge.get("service");
        // What we need, and not what it says that we need: that may be more.
        let scopes = if ask.scope.0.is_empty() {
            challenge.get("scope").map(str::to_owned).into_iter().collect()
        } else {
            ask.scope.0.clone()
        };
        let what = format!("a token for {}", ask.what);
        let answer = match &site.credentials {
            Some(Credentials::IdentityToken(token)) => {
                let mut form = vec![
                    ("grant_type", "refresh_token".to_owned()),
                    ("client_id", CLIENT_ID.to_owned()),
                    ("scope", scopes.join(" ")),
                    ("refresh_token", token.expose().to_owned()),
                ];
                form.extend(service.map(|service| ("service", service.to_owned())));
                self.send_form(site, realm, &form, &what).await?
            }
            name_or_nobody => {
                let (account, told) = match name_or_nobody {
                    Some(Credentials::Password { username, password }) => {
                        (Some(("account", username.as_str())), Some(basic(username, password)))
                    }
                    _ => (None, None),
                };
                let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
                let query = service.map(|service| ("service", service)).into_iter().chain(scopes).chain(account);
                realm.query_pairs_mut().extend_pairs(query);
                let none = Scope::default();
                let mut request = Ask::new(Method::GET, realm.clone(), &what, &none);
                request.on_behalf_of = Some(&site.base);
                self.follow(&realm, &request, told.as_ref()).await?
            }
        };
        self.read_token(site, ask, answer, now).await
    }

    /// A form with a token in it follows no redirect.
    async fn send_form(
        &self,
        site: &Site,
        realm: Url,
        form: &[(&str, String)],
        what: &str,
    ) -> Result<Answer, RegistryError> {
        let form = Bytes::from(form_encoded(form));
        let len = u64::try_from(form.len()).unwrap_or(u64::MAX);
        let body = move || futures::stream::iter([Ok(form.clone())]).boxed();
        let none = Scope::default();
        let mut request = Ask::new(Method::POST, realm, what, &none)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        request.body = Some((len, &body));
        request.on_behalf_of = Some(&site.base);
        let answer = self.send_without_redirect(&request).await?;
        if answer.status().is_redirection() {
            let reason = "who gave it a token that must not be passed on".to_owned();
            return Err(RegistryError::Redirect { host: answer.host().to_owned(), reason });
        }
        Ok(answer)
    }

    async fn read_token(
        &self,
        site: &Site,
        ask: &Ask<'_>,
        mut answer: Answer,
        now: SystemTime,
    ) -> Result<Told, RegistryError> {
        match answer.status().as_u16() {
            200 => {}
            // OAuth2 says of a token that does not count that the request is bad.
            400 | 401 | 403 => return Err(denied(site, ask.what, answer.said().await)),
            _ => return Err(answer.refusal(site, &format!("a token for {}", ask.what)).await),
        }
        let bytes = answer.bytes(ANSWER_MAX).await?;
        let read: Option<TokenAnswer> = serde_json::from_slice(&bytes).ok();
        let token = read.as_ref().and_then(|read| read.token.as_deref().or(read.access_token.as_deref()));
        let token = token.filter(|token| !token.is_empty());
        let value = token.and_then(|token| sensitive(&format!("Bearer {token}")));
        let value = value.ok_or_else(|| answer.senseless("there is no token in what it gives out"))?;
        let life = read.and_then(|read| read.expires_in).map_or(DEFAULT_LIFE, Duration::from_secs);
        // Some time passes on the way; and some registries say 0.
        let until = now.checked_add(life.max(DEFAULT_LIFE).mul_f64(0.9));
        Ok(Told { value, until })
    }
}

fn denied(site: &Site, what: &str, said: String) -> RegistryError {
    RegistryError::Denied {
        what: what.to_owned(),
        registry: site.name.clone(),
        with_credentials: site.credentials.is_some(),
        said,
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// RFC 7617.
fn basic(username: &str, password: &Secret) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{username}:{}", password.expose()));
    // Base64 is always fit for a header.
    sensitive(&format!("Basic {encoded}")).unwrap_or_else(|| HeaderValue::from_static("Basic"))
}

/// `application/x-www-form-urlencoded`.
fn form_encoded(pairs: &[(&str, String)]) -> String {
    let mut url = Url::parse("http://form/").ok();
    if let Some(url) = &mut url {
        url.query_pairs_mut().extend_pairs(pairs);
    }
    url.and_then(|url| url.query().map(str::to_owned)).unwrap_or_default()
}
