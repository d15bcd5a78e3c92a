//! What requests say in their path and query.

use actix_web::web::Path;
use sandpen_types::signal::Signal;
use sandpen_types::spec::{ConfigName, SandboxKey, SandboxName, SpecError};
use serde::{Deserialize as _, Deserializer};

use super::reject::Rejection;
use crate::api::ErrorCode;

/// Two path segments, percent-decoded.
pub(super) type KeyPath = Path<(String, String)>;

/// The key that a path names.
pub(super) fn key(path: KeyPath) -> Result<SandboxKey, Rejection> {
    let (config, name) = path.into_inner();
    let refused = |e: SpecError| Rejection::from_error(ErrorCode::InvalidName, &e);
    Ok(SandboxKey { config: ConfigName::new(config).map_err(refused)?, name: SandboxName::new(name).map_err(refused)? })
}

/// A signal that a request names; 0 would only ask whether somebody is there.
pub(super) fn signal(number: i32) -> Result<i32, Rejection> {
    let message = || format!("signal {number} does not exist; use 1 to {}", Signal::MAX);
    Signal::new(number).map(|_| number).map_err(|_| Rejection::new(ErrorCode::InvalidRequest, message()))
}

/// Reads `?flag`, `?flag=true` and the like.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        other => Err(serde::de::Error::custom(format!("{other:?} is neither true nor false"))),
    }
}
