//! The routes of images.
//!
//! ```text
//!   POST load, import   {"path": …}      ┐                        {"progress": …} a line each
//!   POST pull           {"name": …}      │
//!   POST push           {"image": …}     │                        {"pushed": …} at the end
//!   PUT  load, import   an archive ─ file ┴─▶ a thread that works ─▶ {"images": […]} or {"error": …} at the end
//! ```
//! What fails before the first line has a status of its own. Work ends with its client: an image is there whole or not
//! at all, and anybody can ask again.

mod progress;
mod registry;

use std::io::{self, Seek as _};
use std::path::PathBuf;

use actix_web::HttpResponse;
use actix_web::web::{Bytes, Data, Json, Payload, Query};
use sandpen_types::error_chain::error_chain;
use sandpen_types::image::ImageReference;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use self::progress::work;
use super::body::each_chunk;
use super::extract::flag;
use super::reject::Rejection;
use super::routes::finish;
use super::shared::Shared;
use super::view;
use crate::api::{
    ErrorCode, ImageArchive, ImageCommitRequest, ImageDetail, ImageImportRequest, ImageLoadRequest, ImagePruneRequest,
    ImagePullRequest, ImagePushRequest, ImageSaveRequest, ImageTagRequest, ImageWork,
};
use crate::orchestrator::{ArchiveFormat, CommitRequest, ImageInfo, ImageSource, LoadOptions, SandpenError};

/// Most images that are saved together.
const SAVED_MAX: usize = 1000;

/// `GET /v1/images`.
pub async fn list(shared: Data<Shared>) -> Result<HttpResponse, Rejection> {
    let images = shared.handle.images().await?;
    Ok(HttpResponse::Ok().json(images.into_iter().map(view::image).collect::<Vec<_>>()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageQuery {
    name: String,
}

/// `GET /v1/image?name=…`.
pub async fn get(shared: Data<Shared>, query: Query<ImageQuery>) -> Result<HttpResponse, Rejection> {
    let info = shared.handle.image(&query.name).await?;
    let config = serde_json::from_slice(&info.image.config);
    let config = config.map_err(|error| Rejection::from_error(ErrorCode::InvalidImage, &error))?;
    Ok(HttpResponse::Ok().json(ImageDetail { entry: view::image(info), config }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveQuery {
    name: String,
    #[serde(default, deserialize_with = "flag")]
    force: bool,
}

/// `DELETE /v1/image?name=…`.
pub async fn remove(shared: Data<Shared>, query: Query<RemoveQuery>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let (RemoveQuery { name, force }, handle) = (query.into_inner(), shared.handle.clone());
    let removed = finish(async move { handle.remove_image(&name, force).await }).await?;
    Ok(HttpResponse::Ok().json(view::removal(removed)))
}

/// `POST /v1/images/tag`.
pub async fn tag(shared: Data<Shared>, body: Json<ImageTagRequest>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let (ImageTagRequest { image, name }, handle) = (body.into_inner(), shared.handle.clone());
    let tagged = finish(async move { handle.tag_image(&image, &name).await }).await?;
    Ok(HttpResponse::Ok().json(view::image(tagged)))
}

/// `POST /v1/images/prune`.
pub async fn prune(shared: Data<Shared>, body: Json<ImagePruneRequest>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let (ImagePruneRequest { all, dry_run }, handle) = (body.into_inner(), shared.handle.clone());
    let removed = finish(async move { handle.prune_images(all, dry_run).await }).await?;
    Ok(HttpResponse::Ok().json(view::removal(removed)))
}

/// `POST /v1/images/load`: a file or directory of the host.
pub async fn load(shared: Data<Shared>, body: Json<ImageLoadRequest>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let ImageLoadRequest { path, name, platform } = body.into_inner();
    let source = source(path)?;
    let options = options(name, platform.as_deref())?;
    work(shared, |handle, told| async move { handle.load_images(source, options, told).await.map(came_in) }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadQuery {
    name: Option<ImageReference>,
    platform: Option<String>,
}

/// `PUT /v1/images/load`: an archive as the body.
pub async fn take(shared: Data<Shared>, query: Query<LoadQuery>, body: Payload) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let LoadQuery { name, platform } = query.into_inner();
    let options = options(name, platform.as_deref())?;
    let source = received(&shared, body).await?;
    work(shared, |handle, told| async move { handle.load_images(source, options, told).await.map(came_in) }).await
}

/// `POST /v1/images/import`: a root directory, or a tar of one.
pub async fn import(shared: Data<Shared>, body: Json<ImageImportRequest>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let ImageImportRequest { path, name } = body.into_inner();
    let source = source(path)?;
    work(shared, |handle, told| async move { handle.import_image(source, name, told).await.map(came_in) }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportQuery {
    name: ImageReference,
}

/// `PUT /v1/images/import`: a tar of a root directory as the body.
pub async fn pack(shared: Data<Shared>, query: Query<ImportQuery>, body: Payload) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let name = query.into_inner().name;
    let source = received(&shared, body).await?;
    work(shared, |handle, told| async move { handle.import_image(source, name, told).await.map(came_in) }).await
}

/// `POST /v1/images/commit`: what was written to a sandbox's root.
pub async fn commit(shared: Data<Shared>, body: Json<ImageCommitRequest>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let ImageCommitRequest { sandbox, name, changes } = body.into_inner();
    let request = CommitRequest { sandbox, name, changes };
    work(shared, |handle, told| async move { handle.commit(request, told).await.map(came_in) }).await
}

/// `POST /v1/images/pull`: an image of a registry.
pub async fn pull(shared: Data<Shared>, body: Json<ImagePullRequest>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let request = registry::pull(body.into_inner())?;
    work(shared, |handle, told| async move { handle.pull_image(request, told).await.map(came_in) }).await
}

/// `POST /v1/images/push`: an image of the store, to a registry.
pub async fn push(shared: Data<Shared>, body: Json<ImagePushRequest>) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let request = registry::push(body.into_inner());
    let pushed = |pushed| ImageWork::Pushed(view::pushed(pushed));
    work(shared, |handle, told| async move { handle.push_image(request, told).await.map(pushed) }).await
}

/// `POST /v1/images/save`: the archive. One that is not complete breaks off.
pub async fn save(shared: Data<Shared>, body: Json<ImageSaveRequest>) -> Result<HttpResponse, Rejection> {
    let ImageSaveRequest { images, format } = body.into_inner();
    if images.is_empty() || images.len() > SAVED_MAX {
        let message = format!("{} images are named; 1 to {SAVED_MAX} are accepted", images.len());
        return Err(Rejection::new(ErrorCode::InvalidRequest, message));
    }
    let format = match format {
        ImageArchive::Docker => ArchiveFormat::Docker,
        ImageArchive::Oci => ArchiveFormat::Oci,
    };
    let mut saved = shared.handle.save_images(&images, format).await?;
    // What fails at once has a status.
    let mut first = saved.next().await?;
    let pieces = async_stream::stream! {
        loop {
            let next = if let Some(piece) = first.take() {
                Ok(Some(piece))
            } else {
                tokio::select! {
                    biased;
                    () = shared.ending.cancelled() => {
                        yield Err(io::Error::other("the daemon is shutting down"));
                        break;
                    }
                    next = saved.next() => next,
                }
            };
            match next {
                Ok(Some(piece)) => yield Ok(Bytes::from(piece)),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(code = %error.code(), error = error_chain(&error), "images could not be saved whole");
                    yield Err(io::Error::other(error));
                    break;
                }
            }
        }
    };
    Ok(HttpResponse::Ok().content_type("application/x-tar").streaming(pieces))
}

fn source(path: PathBuf) -> Result<ImageSource, Rejection> {
    if path.is_absolute() {
        return Ok(ImageSource::Path(path));
    }
    let path = path.display();
    let message = format!("the path {path} is not absolute: the daemon's current directory is not yours");
    Err(Rejection::new(ErrorCode::InvalidRequest, message))
}

fn options(name: Option<ImageReference>, platform: Option<&str>) -> Result<LoadOptions, Rejection> {
    let platform = platform.map(str::parse).transpose();
    let platform = platform.map_err(|error| Rejection::new(ErrorCode::InvalidRequest, format!("{error}")))?;
    Ok(LoadOptions { name, platform })
}

/// The whole body, in a file without a name.
async fn received(shared: &Shared, body: Payload) -> Result<ImageSource, Rejection> {
    let file = shared.handle.image_spool().await?;
    let mut file = tokio::fs::File::from_std(file);
    let failed = |error: io::Error| {
        Rejection::from(SandpenError::from(crate::orchestrator::ImageError::from(
            crate::orchestrator::WorkError::System(error),
        )))
    };
    let cut = |_, error: &_| format!("the body broke off, and nothing of it was taken: {error}");
    each_chunk(&shared.ending, body, async |chunk| file.write_all(&chunk).await.map_err(failed), cut).await?;
    file.flush().await.map_err(failed)?;
    let mut file = file.into_std().await;
    file.rewind().map_err(failed)?;
    Ok(ImageSource::File(file))
}

/// The end of work that brought images.
fn came_in(images: Vec<ImageInfo>) -> ImageWork {
    ImageWork::Images(images.into_iter().map(view::image).collect())
}
