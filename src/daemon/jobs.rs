//! The routes of jobs: sessions whose output goes to logs of their own. Their output and their input are in `stream`.

use actix_web::HttpResponse;
use actix_web::web::{Data, Json};
use chrono::Utc;
use sandpen_types::session::{SessionId, SessionSpec};
use sandpen_types::spec::TerminalSize;

use super::extract::{self, KeyPath, key};
use super::reject::Rejection;
use super::routes::finish;
use super::sessions::{SessionPath, names};
use super::shared::Shared;
use super::strict::Strict;
use crate::api::session::{OpenSession, SessionSignal};

/// `POST …/jobs`.
pub async fn open(
    shared: Data<Shared>,
    path: KeyPath,
    body: Json<Strict<OpenSession>>,
) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let Strict(request) = body.into_inner();
    let (key, handle, now) = (key(path)?, shared.handle.clone(), Utc::now());
    let (id, spec): (SessionId, SessionSpec) = request.into();
    let info = finish(async move { handle.open_job(&key, id, spec).await }).await?;
    // One that was there already was asked for before.
    Ok(if info.asked_at < now { HttpResponse::Ok().json(info) } else { HttpResponse::Created().json(info) })
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
    finish(async move { handle.signal_job(&key, id, signal).await }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST …/jobs/{id}/resize`.
pub async fn resize(
    shared: Data<Shared>,
    path: SessionPath,
    size: Json<TerminalSize>,
) -> Result<HttpResponse, Rejection> {
    let ((key, id), size, handle) = (names(path)?, size.into_inner(), shared.handle.clone());
    finish(async move { handle.resize_job(&key, id, size).await }).await?;
    Ok(HttpResponse::NoContent().finish())
}
