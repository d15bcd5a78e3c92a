//! What a client wants of a registry, as it is asked for.

use super::super::reject::Rejection;
use crate::api::{
    ErrorCode, ImageCredentials, ImageProxies, ImagePullRequest, ImagePushRequest, RegistryPassword, RegistryToken,
};
use crate::orchestrator::{PullRequest, PushRequest, RegistryAccess};
use crate::registry::{Credentials, Proxies, Secret};

/// What a body asks to get.
pub fn pull(body: ImagePullRequest) -> Result<PullRequest, Rejection> {
    let ImagePullRequest { name, platform, credentials, insecure, proxies } = body;
    let platform = platform.as_deref().map(str::parse).transpose();
    let platform = platform.map_err(|error| Rejection::new(ErrorCode::InvalidRequest, format!("{error}")))?;
    Ok(PullRequest { reference: name, platform, access: access(credentials, insecure, proxies) })
}

/// What a body asks to put.
pub fn push(body: ImagePushRequest) -> PushRequest {
    let ImagePushRequest { image, destination, credentials, insecure, proxies } = body;
    PushRequest { image, destination, access: access(credentials, insecure, proxies) }
}

fn access(credentials: Option<ImageCredentials>, insecure: bool, proxies: Option<ImageProxies>) -> RegistryAccess {
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
    RegistryAccess { credentials, insecure, proxies }
}
