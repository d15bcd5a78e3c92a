//! The routes of what takes room on the disk.

use actix_web::HttpResponse;
use actix_web::web::{Data, Json, Query};
use sandpen_types::spec::SpecError;
use serde::Deserialize;

use super::extract::flag;
use super::reject::Rejection;
use super::routes::finish;
use super::shared::Shared;
use crate::api::{DiskUsage, ErrorCode, PruneReply, PruneRequest};
use crate::orchestrator::PruneOptions;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageQuery {
    #[serde(default, deserialize_with = "flag")]
    items: bool,
}

/// `GET /v1/disk-usage`.
pub async fn disk_usage(shared: Data<Shared>, query: Query<UsageQuery>) -> Result<HttpResponse, Rejection> {
    let items = shared.handle.disk_usage().await?;
    Ok(HttpResponse::Ok().json(DiskUsage::new(&items, query.items)))
}

/// `POST /v1/prune`.
pub async fn prune(shared: Data<Shared>, body: Json<PruneRequest>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let PruneRequest { sandboxes, dry_run, only } = body.into_inner();
    if only.is_some() && !sandboxes {
        let reason = "`only` says which sandboxes are removed, which needs `\"sandboxes\": true`";
        return Err(Rejection::new(ErrorCode::InvalidRequest, reason));
    }
    let only = only.map(|keys| keys.iter().map(|key| key.parse()).collect::<Result<_, SpecError>>());
    let only =
        only.transpose().map_err(|error| Rejection::new(ErrorCode::InvalidRequest, format!("`only`: {error}")))?;
    let handle = shared.handle.clone();
    let pruned = finish(async move { handle.prune(PruneOptions { sandboxes, dry_run, only }).await }).await?;
    Ok(HttpResponse::Ok().json(PruneReply::from(pruned)))
}
