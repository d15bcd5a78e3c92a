//! The routes of jobs: sessions whose output goes to logs of their own. Their output and their input are in `stream`.

use actix_web::HttpResponse;
use actix_web::web::{Data, Json};
use sandpen_types::spec::TerminalSize;

use super::extract::{self, KeyPath, key};
use super::reject::Rejection;
use super::routes::done;
use super::sessions::{SessionPath, begin, names};
use super::shared::Shared;
use super::strict::Strict;
use crate::api::session::{OpenSession, SessionSignal};
use crate::orchestrator::Handle;

/// `POST …/jobs`.
pub async fn open(
    shared: Data<Shared>,
    path: KeyPath,
    body: Json<Strict<OpenSession>>,
) -> Result<HttpResponse, Rejection> {
    let open = |handle: Handle, key, id, spec| async move { handle.open_job(&key, id, spec).await };
    begin(&shared, path, body, open, |info| info.asked_at).await
}

/// `GET …/jobs`.
pub async fn list(shared: Data<Shared>, path: KeyPath) -> Result<HttpResponse, Rejection> {
    Ok(HttpResponse::Ok().json(shared.handle.jobs(&key(path)?).await?))
}

/// `GET …/jobs/{id}`.
pub async fn get(shared: Data<Shared>, path: SessionPath) -> Result<HttpResponse, Rejection> {
    let (key, id) = names(path)?;
    Ok(HttpResponse::Ok().json(shared.handle.job(&key, id).await?))
}

/// `GET …/jobs/{id}/wait`.
pub async fn wait(shared: Data<Shared>, path: SessionPath) -> Result<HttpResponse, Rejection> {
    let (key, id) = names(path)?;
    tokio::select! {
        biased;
        () = shared.ending.cancelled() => Err(Rejection::shutting_down()),
        info = shared.handle.wait_job(&key, id) => Ok(HttpResponse::Ok().json(info?)),
    }
}

/// `POST …/jobs/{id}/signal`.
pub async fn signal(
    shared: Data<Shared>,
    path: SessionPath,
    body: Json<SessionSignal>,
) -> Result<HttpResponse, Rejection> {
    let ((key, id), signal, handle) = (names(path)?, extract::signal(body.signal)?, shared.handle.clone());
    done(async move { handle.signal_job(&key, id, signal).await }).await
}

/// `POST …/jobs/{id}/resize`.
pub async fn resize(
    shared: Data<Shared>,
    path: SessionPath,
    size: Json<TerminalSize>,
) -> Result<HttpResponse, Rejection> {
    let ((key, id), size, handle) = (names(path)?, size.into_inner(), shared.handle.clone());
    done(async move { handle.resize_job(&key, id, size).await }).await
}
