//! What a client wants of a registry, as it is asked for.

use super::super::reject::Rejection;
use crate::api::{
    ErrorCode, ImageCredentials, ImageMirror, ImageProxies, ImagePullRequest, ImagePushRequest, MIRRORS_MAX,
    RegistryPassword, RegistryToken,
};
use crate::orchestrator::{PullMirror, PullRequest, PushRequest, RegistryAccess};
use crate::registry::{Credentials, Proxies, Secret};

/// What a body asks to get.
pub fn pull(body: ImagePullRequest) -> Result<PullRequest, Rejection> {
    let ImagePullRequest { name, platform, credentials, insecure, proxies, mirrors } = body;
    if mirrors.len() > MIRRORS_MAX {
        let message = format!("{} mirrors are named; at most {MIRRORS_MAX} are accepted", mirrors.len());
        return Err(Rejection::new(ErrorCode::InvalidRequest, message));
    }
    let platform = platform.as_deref().map(str::parse).transpose();
    let platform = platform.map_err(|error| Rejection::new(ErrorCode::InvalidRequest, format!("{error}")))?;
    let mirrors = mirrors.into_iter().map(|ImageMirror { place, credentials, insecure }| PullMirror {
        place,
        credentials: credentials.map(read),
        insecure,
    });
    let mirrors = mirrors.collect();
    Ok(PullRequest { reference: name, platform, access: access(credentials, insecure, proxies), mirrors })
}

/// What a body asks to put.
pub fn push(body: ImagePushRequest) -> PushRequest {
    let ImagePushRequest { image, destination, credentials, insecure, proxies } = body;
    PushRequest { image, destination, access: access(credentials, insecure, proxies) }
}

fn access(credentials: Option<ImageCredentials>, insecure: bool, proxies: Option<ImageProxies>) -> RegistryAccess {
    let ImageProxies { http, https, no_proxy } = proxies.unwrap_or_default();
    let proxies =
        Proxies { http: http.map(Secret::new), https: https.map(Secret::new), no_proxy: no_proxy.unwrap_or_default() };
    RegistryAccess { credentials: credentials.map(read), insecure, proxies }
}

fn read(credentials: ImageCredentials) -> Credentials {
    match credentials {
        ImageCredentials::Password(RegistryPassword { username, password }) => {
            Credentials::Password { username, password: Secret::new(password) }
        }
        ImageCredentials::IdentityToken(RegistryToken { identity_token }) => {
            Credentials::IdentityToken(Secret::new(identity_token))
        }
    }
}
