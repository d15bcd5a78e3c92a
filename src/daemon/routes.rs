//! The routes of the HTTP API, see `docs/http-api.md`. A handler checks what came in and calls the
//! orchestrator's handle; nothing else is decided here.
//!
//! Whatever changes something runs as a task of its own, which is awaited: a client that goes away
//! in the middle leaves no half-done request behind.

use std::time::Duration;

use actix_web::web::{self, Data, Json, Path, Query};
use actix_web::{HttpResponse, Resource};
use sandpen_actors::log_writer::dropped_bytes;
use sandpen_drivers::confine;
use sandpen_types::error_chain::error_chain;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{DiskName, LogBacklog, TerminalSize, VolumeName};
use sandpen_vmm::blocking::blocking;
use serde::Deserialize;

use super::disk_usage;
use super::events;
use super::extract::{KeyPath, flag, key, signal};
use super::files;
use super::images;
use super::jobs;
use super::reject::{self, Rejection};
use super::sessions;
use super::shared::Shared;
use super::stats;
use super::stream;
use super::strict::Strict;
use super::view;
use crate::api::{
    BODY_MAX_BYTES, CreateSandbox, DiskEntry, DroppedBytes, ErrorCode, GRACE_MAX_MS, HistoryQuery, KillRequest,
    PROMETHEUS_CONTENT_TYPE, ReconcileReply, RenameRequest, Sandbox, ShutdownReply, ShutdownRequest, StopRequest,
    Transition, VolumeEntry, prometheus,
};
use crate::orchestrator::SandpenError;

/// Adds all routes.
pub fn configure(config: &mut web::ServiceConfig) {
    let resource =
        |path: &str| -> Resource { web::resource(path).default_service(web::to(reject::method_not_allowed)) };
    let sandbox = |rest: &str| resource(&format!("/v1/sandboxes/{{config}}/{{name}}{rest}"));
    config
        .app_data(web::JsonConfig::default().limit(BODY_MAX_BYTES).error_handler(reject::invalid_json))
        .app_data(web::QueryConfig::default().error_handler(reject::invalid))
        .app_data(web::PathConfig::default().error_handler(reject::invalid))
        .service(resource("/v1/version").route(web::get().to(version)))
        .service(resource("/v1/shutdown").route(web::post().to(shutdown)))
        .service(resource("/v1/sandboxes").route(web::get().to(list)).route(web::post().to(start)))
        .service(sandbox("").route(web::get().to(get)).route(web::delete().to(remove)))
        .service(sandbox("/wait").route(web::get().to(wait)))
        .service(sandbox("/history").route(web::get().to(history)))
        .service(sandbox("/output").route(web::get().to(stream::output)))
        .service(sandbox("/vmm-log").route(web::get().to(stream::vmm_log)))
        .service(sandbox("/stdin").route(web::post().to(stream::stdin)))
        .service(sandbox("/resize").route(web::post().to(resize)))
        .service(sandbox("/rename").route(web::post().to(rename)))
        .service(sandbox("/start").route(web::post().to(start_again)))
        .service(sandbox("/restart").route(web::post().to(restart)))
        .service(sandbox("/stop").route(web::post().to(stop)))
        .service(sandbox("/kill").route(web::post().to(kill)))
        .service(sandbox("/sessions").route(web::get().to(sessions::list)).route(web::post().to(sessions::open)))
        .service(sandbox("/sessions/{id}").route(web::get().to(sessions::get)).route(web::delete().to(sessions::end)))
        .service(sandbox("/sessions/{id}/signal").route(web::post().to(sessions::signal)))
        .service(sandbox("/sessions/{id}/resize").route(web::post().to(sessions::resize)))
        .service(sandbox("/sessions/{id}/attach").route(web::get().to(sessions::attach)))
        .service(sandbox("/files").route(web::get().to(files::stat)).route(web::delete().to(files::remove)))
        .service(sandbox("/files/content").route(web::get().to(files::read)).route(web::put().to(files::write)))
        .service(sandbox("/files/append").route(web::post().to(files::append)))
        .service(sandbox("/files/list").route(web::get().to(files::list)))
        .service(sandbox("/files/directory").route(web::post().to(files::make_directory)))
        .service(sandbox("/files/rename").route(web::post().to(files::rename)))
        .service(sandbox("/files/change").route(web::post().to(files::change)))
        .service(sandbox("/files/watch").route(web::get().to(files::watch)))
        .service(sandbox("/jobs").route(web::get().to(jobs::list)).route(web::post().to(jobs::open)))
        .service(sandbox("/jobs/{id}").route(web::get().to(jobs::get)))
        .service(sandbox("/jobs/{id}/wait").route(web::get().to(jobs::wait)))
        .service(sandbox("/jobs/{id}/output").route(web::get().to(stream::job_output)))
        .service(sandbox("/jobs/{id}/stdin").route(web::post().to(stream::job_stdin)))
        .service(sandbox("/jobs/{id}/signal").route(web::post().to(jobs::signal)))
        .service(sandbox("/jobs/{id}/resize").route(web::post().to(jobs::resize)))
        .service(resource("/v1/events").route(web::get().to(events::events)))
        .service(resource("/v1/metrics").route(web::get().to(metrics)))
        .service(resource("/v1/reconcile").route(web::post().to(reconcile)))
        .service(resource("/v1/disks").route(web::get().to(disks)))
        .service(resource("/v1/disks/{name}").route(web::delete().to(remove_disk)))
        .service(resource("/v1/volumes").route(web::get().to(volumes)))
        .service(resource("/v1/volumes/{name}").route(web::delete().to(remove_volume)))
        .service(resource("/v1/images").route(web::get().to(images::list)))
        .service(resource("/v1/image").route(web::get().to(images::get)).route(web::delete().to(images::remove)))
        .service(resource("/v1/images/load").route(web::post().to(images::load)).route(web::put().to(images::take)))
        .service(resource("/v1/images/commit").route(web::post().to(images::commit)))
        .service(resource("/v1/images/import").route(web::post().to(images::import)).route(web::put().to(images::pack)))
        .service(resource("/v1/images/pull").route(web::post().to(images::pull)))
        .service(resource("/v1/images/push").route(web::post().to(images::push)))
        .service(resource("/v1/images/save").route(web::post().to(images::save)))
        .service(resource("/v1/images/tag").route(web::post().to(images::tag)))
        .service(resource("/v1/images/prune").route(web::post().to(images::prune)))
        .service(resource("/v1/stats").route(web::get().to(stats::stats)))
        .service(resource("/v1/disk-usage").route(web::get().to(disk_usage::disk_usage)))
        .service(resource("/v1/prune").route(web::post().to(disk_usage::prune)))
        .configure(super::testing::configure)
        .default_service(web::to(reject::no_such_route));
}

/// Runs `work` to its end even if the client goes away meanwhile.
pub(super) async fn finish<T: 'static>(
    work: impl Future<Output = Result<T, SandpenError>> + 'static,
) -> Result<T, Rejection> {
    match actix_web::rt::spawn(work).await {
        Ok(result) => result.map_err(Rejection::from),
        Err(_) => Err(Rejection::new(ErrorCode::Internal, "the request's task panicked; the daemon's log says more")),
    }
}

/// The same for work that answers nothing.
pub(super) async fn done(
    work: impl Future<Output = Result<(), SandpenError>> + 'static,
) -> Result<HttpResponse, Rejection> {
    finish(work).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn grace(milliseconds: u64) -> Result<Duration, Rejection> {
    if milliseconds > GRACE_MAX_MS {
        let message = format!("grace_ms is {milliseconds}; at most {GRACE_MAX_MS} (a day) is accepted");
        return Err(Rejection::new(ErrorCode::InvalidRequest, message));
    }
    Ok(Duration::from_millis(milliseconds))
}

fn brief_view(shared: &Shared, row: &SandboxRow) -> Sandbox {
    Sandbox::new(row, shared.handle.state_dir())
}

/// With what is left out of lists.
fn full_view(shared: &Shared, row: &SandboxRow) -> Sandbox {
    let timings = shared.handle.start_timings(&row.spec.key);
    Sandbox { timings: timings.as_ref().map(view::timings), ..brief_view(shared, row) }
}

/// With what the database knows of its latest start besides; without it where that cannot be read now.
async fn whole_view(shared: &Shared, row: &SandboxRow) -> Sandbox {
    let out_of_memory = shared.handle.out_of_memory(row).await.unwrap_or_else(|error| {
        tracing::warn!(sandbox = %row.spec.key, error = error_chain(&error), "whether its memory was used up is not known");
        None
    });
    Sandbox { out_of_memory, ..full_view(shared, row) }
}

async fn version(shared: Data<Shared>) -> HttpResponse {
    HttpResponse::Ok().json(&shared.version)
}

async fn start(shared: Data<Shared>, body: Json<Strict<CreateSandbox>>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let Strict(request) = body.into_inner();
    let handle = shared.handle.clone();
    let row = finish(async move { handle.start_sandbox(request).await }).await?;
    Ok(HttpResponse::Created().json(full_view(&shared, &row)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    #[serde(default, deserialize_with = "flag")]
    all: bool,
}

async fn list(shared: Data<Shared>, query: Query<ListQuery>) -> Result<HttpResponse, Rejection> {
    let rows = shared.handle.list().await?;
    let views = rows.iter().map(|row| brief_view(&shared, row)).filter(|sandbox| query.all || sandbox.is_active());
    Ok(HttpResponse::Ok().json(views.collect::<Vec<_>>()))
}

async fn get(shared: Data<Shared>, path: KeyPath) -> Result<HttpResponse, Rejection> {
    let key = key(path)?;
    let row = shared.handle.get(&key).await?.ok_or_else(|| Rejection::not_found(&key))?;
    let (runtime_dir, log) = (shared.handle.state_dir().runtime(&key), shared.handle.state_dir().log(&key));
    let may_drop = row.spec.log.backlog == LogBacklog::Drop;
    let read = move || {
        let dropped = may_drop.then(|| dropped_bytes(&log)).transpose();
        (confine::read(&runtime_dir), dropped)
    };
    let (confinement, dropped) = blocking(read).await.map_err(|e| Rejection::from_error(ErrorCode::Internal, &e))?;
    let dropped = dropped.map_err(|e| Rejection::from_error(ErrorCode::Internal, &e))?;
    let log_dropped = dropped.map(|(stdout, stderr)| DroppedBytes { stdout, stderr });
    Ok(HttpResponse::Ok().json(Sandbox { confinement, log_dropped, ..whole_view(&shared, &row).await }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryKeys {
    after: Option<String>,
    before: Option<String>,
    limit: Option<String>,
}

async fn history(shared: Data<Shared>, path: KeyPath, query: Query<HistoryKeys>) -> Result<HttpResponse, Rejection> {
    let key = key(path)?;
    let HistoryQuery(page) =
        HistoryQuery::read(query.after.as_deref(), query.before.as_deref(), query.limit.as_deref())
            .map_err(|error| Rejection::from_error(ErrorCode::InvalidRequest, &error))?;
    let records = shared.handle.history(&key, page).await?;
    Ok(HttpResponse::Ok().json(records.iter().map(Transition::from).collect::<Vec<_>>()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    #[serde(default, deserialize_with = "flag")]
    force: bool,
}

async fn remove(shared: Data<Shared>, path: KeyPath, query: Query<RemoveQuery>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let (key, force, handle) = (key(path)?, query.force, shared.handle.clone());
    done(async move { handle.remove(&key, force).await }).await
}

async fn wait(shared: Data<Shared>, path: KeyPath) -> Result<HttpResponse, Rejection> {
    let key = key(path)?;
    tokio::select! {
        biased;
        () = shared.ending.cancelled() => Err(Rejection::shutting_down()),
        row = shared.handle.wait(&key) => Ok(HttpResponse::Ok().json(whole_view(&shared, &row?).await)),
    }
}

async fn start_again(shared: Data<Shared>, path: KeyPath) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let (key, handle) = (key(path)?, shared.handle.clone());
    let row = finish(async move { handle.start_again(&key).await }).await?;
    Ok(HttpResponse::Ok().json(full_view(&shared, &row)))
}

async fn restart(shared: Data<Shared>, path: KeyPath, body: Json<StopRequest>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let (key, grace, handle) = (key(path)?, grace(body.grace_ms)?, shared.handle.clone());
    let row = finish(async move { handle.restart(&key, grace, body.signal).await }).await?;
    Ok(HttpResponse::Ok().json(full_view(&shared, &row)))
}

async fn stop(shared: Data<Shared>, path: KeyPath, body: Json<StopRequest>) -> Result<HttpResponse, Rejection> {
    let (key, grace, handle) = (key(path)?, grace(body.grace_ms)?, shared.handle.clone());
    let row = finish(async move { handle.stop_with(&key, grace, body.signal).await }).await?;
    Ok(HttpResponse::Ok().json(brief_view(&shared, &row)))
}

async fn kill(shared: Data<Shared>, path: KeyPath, body: Json<KillRequest>) -> Result<HttpResponse, Rejection> {
    let (key, signal, handle) = (key(path)?, signal(body.signal)?, shared.handle.clone());
    let row = finish(async move { handle.kill(&key, signal).await }).await?;
    Ok(HttpResponse::Ok().json(brief_view(&shared, &row)))
}

async fn rename(shared: Data<Shared>, path: KeyPath, body: Json<RenameRequest>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let (from, to, handle) = (key(path)?, body.into_inner().to, shared.handle.clone());
    let row = finish(async move { handle.rename(&from, &to).await }).await?;
    Ok(HttpResponse::Ok().json(brief_view(&shared, &row)))
}

async fn resize(shared: Data<Shared>, path: KeyPath, size: Json<TerminalSize>) -> Result<HttpResponse, Rejection> {
    let (key, size, handle) = (key(path)?, size.into_inner(), shared.handle.clone());
    done(async move { handle.resize(&key, size).await }).await
}

async fn disks(shared: Data<Shared>) -> Result<HttpResponse, Rejection> {
    let disks = shared.handle.disks().await?;
    Ok(HttpResponse::Ok().json(disks.into_iter().map(DiskEntry::from).collect::<Vec<_>>()))
}

async fn remove_disk(shared: Data<Shared>, path: Path<String>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let name = DiskName::new(path.into_inner()).map_err(|e| Rejection::from_error(ErrorCode::InvalidName, &e))?;
    let handle = shared.handle.clone();
    done(async move { handle.remove_disk(&name).await }).await
}

async fn volumes(shared: Data<Shared>) -> Result<HttpResponse, Rejection> {
    let volumes = shared.handle.volumes().await?;
    let entries = volumes.into_iter().map(|volume| VolumeEntry::new(volume, shared.handle.state_dir()));
    Ok(HttpResponse::Ok().json(entries.collect::<Vec<_>>()))
}

async fn remove_volume(shared: Data<Shared>, path: Path<String>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let name = VolumeName::new(path.into_inner()).map_err(|e| Rejection::from_error(ErrorCode::InvalidName, &e))?;
    let handle = shared.handle.clone();
    done(async move { handle.remove_volume(&name).await }).await
}

/// How the metrics are written.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MetricsFormat {
    #[default]
    Prometheus,
    Json,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricsQuery {
    #[serde(default)]
    format: MetricsFormat,
}

async fn metrics(shared: Data<Shared>, query: Query<MetricsQuery>) -> HttpResponse {
    let metrics = shared.handle.metrics().await;
    match query.format {
        MetricsFormat::Json => HttpResponse::Ok().json(metrics),
        MetricsFormat::Prometheus => {
            HttpResponse::Ok().content_type(PROMETHEUS_CONTENT_TYPE).body(prometheus(&metrics))
        }
    }
}

async fn reconcile(shared: Data<Shared>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let handle = shared.handle.clone();
    let report = finish(async move { handle.reconcile().await }).await?;
    Ok(HttpResponse::Ok().json(ReconcileReply::from(report)))
}

async fn shutdown(shared: Data<Shared>, body: Json<ShutdownRequest>) -> Result<HttpResponse, Rejection> {
    let grace = if body.stop_sandboxes { Some(grace(body.grace_ms)?) } else { None };
    shared.shut_down(grace).await?;
    // The connection ends with the daemon; a client must not keep it for another request.
    Ok(HttpResponse::Ok().force_close().json(ShutdownReply { pid: shared.version.pid }))
}
