//! The routes of sessions: commands beside the workload of a live sandbox. What goes through their sockets is in `relay`.

mod relay;

use actix_web::web::{Data, Json, Path, Payload, Query};
use actix_web::{HttpRequest, HttpResponse};
use chrono::{DateTime, Utc};
use sandpen_types::session::{SessionId, SessionOffsets, SessionSpec};
use sandpen_types::spec::{SandboxKey, TerminalSize};
use serde::{Deserialize, Serialize};

use super::extract::{self, KeyPath, key};
use super::reject::Rejection;
use super::routes::{done, finish};
use super::shared::Shared;
use super::strict::Strict;
use crate::api::ErrorCode;
use crate::api::session::{OpenSession, SessionSignal};
use crate::orchestrator::{Handle, SandpenError};

/// Three path segments, percent-decoded.
pub(super) type SessionPath = Path<(String, String, String)>;

/// The sandbox and the session, or job, that a path names.
pub(super) fn names(path: SessionPath) -> Result<(SandboxKey, SessionId), Rejection> {
    let (config, name, id) = path.into_inner();
    let id = id.parse().map_err(|error| Rejection::from_error(ErrorCode::InvalidName, &error))?;
    Ok((key(Path::from((config, name)))?, id))
}

/// Begins the session or job that a request describes: 201, or 200 where it was asked for before.
pub(super) async fn begin<T, F>(
    shared: &Shared,
    path: KeyPath,
    body: Json<Strict<OpenSession>>,
    open: impl FnOnce(Handle, SandboxKey, SessionId, SessionSpec) -> F,
    asked_at: impl FnOnce(&T) -> DateTime<Utc>,
) -> Result<HttpResponse, Rejection>
where
    T: Serialize + 'static,
    F: Future<Output = Result<T, SandpenError>> + 'static,
{
    shared.accepting()?;
    let Strict(request) = body.into_inner();
    let (key, now) = (key(path)?, Utc::now());
    let (id, spec): (SessionId, SessionSpec) = request.into();
    let info = finish(open(shared.handle.clone(), key, id, spec)).await?;
    let was_there = asked_at(&info) < now;
    Ok(if was_there { HttpResponse::Ok() } else { HttpResponse::Created() }.json(info))
}

/// `POST …/sessions`.
pub async fn open(
    shared: Data<Shared>,
    path: KeyPath,
    body: Json<Strict<OpenSession>>,
) -> Result<HttpResponse, Rejection> {
    let open = |handle: Handle, key, id, spec| async move { handle.open_session(&key, id, spec).await };
    begin(&shared, path, body, open, |info| info.asked_at).await
}

/// `GET …/sessions`.
pub async fn list(shared: Data<Shared>, path: KeyPath) -> Result<HttpResponse, Rejection> {
    Ok(HttpResponse::Ok().json(shared.handle.sessions(&key(path)?).await?))
}

/// `GET …/sessions/{id}`.
pub async fn get(shared: Data<Shared>, path: SessionPath) -> Result<HttpResponse, Rejection> {
    let (key, id) = names(path)?;
    Ok(HttpResponse::Ok().json(shared.handle.session(&key, id).await?))
}

/// `POST …/sessions/{id}/signal`.
pub async fn signal(
    shared: Data<Shared>,
    path: SessionPath,
    body: Json<SessionSignal>,
) -> Result<HttpResponse, Rejection> {
    let ((key, id), signal, handle) = (names(path)?, extract::signal(body.signal)?, shared.handle.clone());
    done(async move { handle.signal_session(&key, id, signal).await }).await
}

/// `POST …/sessions/{id}/resize`.
pub async fn resize(
    shared: Data<Shared>,
    path: SessionPath,
    size: Json<TerminalSize>,
) -> Result<HttpResponse, Rejection> {
    let ((key, id), size, handle) = (names(path)?, size.into_inner(), shared.handle.clone());
    done(async move { handle.resize_session(&key, id, size).await }).await
}

/// `DELETE …/sessions/{id}`.
pub async fn end(shared: Data<Shared>, path: SessionPath) -> Result<HttpResponse, Rejection> {
    let ((key, id), handle) = (names(path)?, shared.handle.clone());
    done(async move { handle.hang_up_session(&key, id).await }).await
}

/// Query of `GET …/sessions/{id}/attach`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachKeys {
    stdout: Option<u64>,
    stderr: Option<u64>,
}

impl AttachKeys {
    /// What the client has.
    fn from(&self) -> Result<Option<SessionOffsets>, Rejection> {
        match (self.stdout, self.stderr) {
            (Some(stdout), Some(stderr)) => Ok(Some(SessionOffsets { stdout, stderr })),
            (None, None) => Ok(None),
            _ => {
                let message = "give the offsets of both streams, or of none";
                Err(Rejection::new(ErrorCode::InvalidRequest, message))
            }
        }
    }
}

/// `GET …/sessions/{id}/attach`, a WebSocket.
pub async fn attach(
    shared: Data<Shared>,
    path: SessionPath,
    query: Query<AttachKeys>,
    request: HttpRequest,
    body: Payload,
) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let ((key, id), from) = (names(path)?, query.from()?);
    // Before another client is replaced for nothing.
    let (response, socket, messages) = actix_ws::handle(&request, body).map_err(|error| {
        let message = format!("this path takes the handshake of a WebSocket: {error}");
        Rejection::new(ErrorCode::InvalidRequest, message)
    })?;
    let attachment = shared.handle.attachment(&key, id, from).await?;
    let relay = relay::run(shared, attachment, socket, messages);
    // The client observes it: the socket ends with it, however it ends, and the client asks again or is gone.
    drop(actix_web::rt::spawn(relay));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_come_in_pairs() {
        let of = |text: &str| Query::<AttachKeys>::from_query(text).ok().map(|query| query.from());
        assert!(matches!(of(""), Some(Ok(None))));
        let both = SessionOffsets { stdout: 1, stderr: u64::MAX };
        assert!(matches!(of("stdout=1&stderr=18446744073709551615"), Some(Ok(Some(from))) if from == both));
        assert!(matches!(of("stdout=1"), Some(Err(_))) && matches!(of("stderr=1"), Some(Err(_))));
        for odd in
            ["stdout=", "stdout=-1&stderr=1", "stdout=1&stderr=18446744073709551616", "stdin=1", "stdout=1&stdout=1"]
        {
            assert!(of(odd).is_none(), "{odd}");
        }
    }
}
