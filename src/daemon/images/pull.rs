//! What a client wants of a registry, as it is asked for.

use super::super::reject::Rejection;
use crate::api::{ErrorCode, ImageCredentials, ImageProxies, ImagePullRequest, RegistryPassword, RegistryToken};
use crate::orchestrator::PullRequest;
use crate::registry::{Credentials, Proxies, Secret};

/// The request of a body.
pub fn request(body: ImagePullRequest) -> Result<PullRequest, Rejection> {
    let ImagePullRequest { name, platform, credentials, insecure, proxies } = body;
    let platform = platform.as_deref().map(str::parse).transpose();
    let platform = platform.map_err(|error| Rejection::new(ErrorCode::InvalidRequest, format!("{error}")))?;
    let credentials = credentials.map(|credentials| match credentials {
        ImageCredentials::Password(RegistryPassword { username, password }) => {
            Credentials::Password { username, password: Secret::new(password) }
        }
        ImageCredentials::IdentityToken(RegistryToken { identity_token }) => {
            Credentials::IdentityToken(Secret::new(identity_token))
        }
    });
    let ImageProxies { http, https, no_proxy } = proxies.unwrap_or_default();
    let proxies =
        Proxies { http: http.map(Secret::new), https: https.map(Secret::new), no_proxy: no_proxy.unwrap_or_default() };
    Ok(PullRequest { reference: name, platform, credentials, insecure, proxies })
}
