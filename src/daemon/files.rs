//! The routes of a sandbox's files. Each request has a session of its own, which ends with its answer: an idle daemon has
//! none of the sandbox's, and no request waits for another one.

mod query;
mod range;

use std::io;

use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT_RANGES, CONTENT_RANGE, RANGE};
use actix_web::web::{Data, Json, Payload};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sandpen_files::{Change, Entry, FileKind as Kind, Stat, Time, WatchEvent};
use sandpen_types::spec::ByteString;
use serde::Serialize;

use super::body::each_chunk;
use super::extract::{KeyPath, key};
use super::reject::Rejection;
use super::routes::done;
use super::shared::Shared;
use super::strict::Strict;
use crate::api::file::{FileChange, FileEntry, FileEvent, FileKind, FileRename, FileWritten};
use crate::api::{EVENTS_CONTENT_TYPE, ErrorBody, ErrorCode, ErrorDetail};
use crate::orchestrator::{FileWrite, SandpenError};
use query::FileQuery;

/// `GET …/files`.
pub async fn stat(shared: Data<Shared>, path: KeyPath, request: HttpRequest) -> Result<HttpResponse, Rejection> {
    let (key, query) = (key(path)?, FileQuery::read(&request, &["follow"])?);
    let files = shared.handle.files(&key, query.user.clone()).await?;
    let stat = files.stat(&query.path, query.flag("follow", false)?).await?;
    // One that is not there any more has no target.
    let is_link = stat.kind == Kind::Symlink;
    let target = if is_link { files.client().read_link(&query.path).await.ok() } else { None };
    Ok(HttpResponse::Ok().json(entry(query.path, stat, target)))
}

/// `DELETE …/files`.
pub async fn remove(shared: Data<Shared>, path: KeyPath, request: HttpRequest) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let (key, query, handle) = (key(path)?, FileQuery::read(&request, &["recursive"])?, shared.handle.clone());
    let recursive = query.flag("recursive", false)?;
    done(async move { handle.files(&key, query.user).await?.remove(&query.path, recursive).await }).await
}

/// `POST …/files/directory`.
pub async fn make_directory(
    shared: Data<Shared>,
    path: KeyPath,
    request: HttpRequest,
) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let (key, query, handle) = (key(path)?, FileQuery::read(&request, &["mode", "parents"])?, shared.handle.clone());
    let (mode, parents) = (query.mode()?, query.flag("parents", false)?);
    done(async move { handle.files(&key, query.user).await?.make_directory(&query.path, mode, parents).await }).await
}

/// `POST …/files/rename`.
pub async fn rename(
    shared: Data<Shared>,
    path: KeyPath,
    request: HttpRequest,
    body: Json<Strict<FileRename>>,
) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let Strict(FileRename { from, to, replace }) = body.into_inner();
    let (key, user, handle) = (key(path)?, FileQuery::read_user(&request)?, shared.handle.clone());
    done(async move { handle.files(&key, user).await?.rename(from.as_bytes(), to.as_bytes(), replace).await }).await
}

/// `POST …/files/change`.
pub async fn change(
    shared: Data<Shared>,
    path: KeyPath,
    request: HttpRequest,
    body: Json<Strict<FileChange>>,
) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let Strict(FileChange { mode, uid, gid, size, accessed, modified }) = body.into_inner();
    query::check_mode(mode)?;
    let (accessed, modified) = (accessed.map(from_moment), modified.map(from_moment));
    let change = Change { size, mode, uid, gid, accessed, modified };
    let (key, query, handle) = (key(path)?, FileQuery::read(&request, &[])?, shared.handle.clone());
    done(async move { handle.files(&key, query.user).await?.change(&query.path, change).await }).await
}

/// `GET …/files/content`: bare bytes. An answer that is not complete breaks off.
pub async fn read(shared: Data<Shared>, path: KeyPath, request: HttpRequest) -> Result<HttpResponse, Rejection> {
    let (key, query) = (key(path)?, FileQuery::read(&request, &[])?);
    let range = request.headers().get(RANGE).map(range::read).transpose()?;
    let files = shared.handle.files(&key, query.user).await?;
    let mut file = files.read(&query.path, range.unwrap_or_default()).await?;
    let mut response = HttpResponse::Ok();
    if range.is_some() {
        let (begin, size) = (file.offset, file.size().map_or_else(|| "*".to_owned(), |size| size.to_string()));
        // Its answer begins with where it ends.
        let Some(length @ 1..) = file.length else {
            let problem = "and the range has more than 1 MiB, of which nobody knows the end; read less, or all of it";
            return Err(SandpenError::RangeUnknown { path: query.path, problem }.into());
        };
        response.status(StatusCode::PARTIAL_CONTENT);
        response.insert_header((CONTENT_RANGE, format!("bytes {begin}-{}/{size}", begin + (length - 1))));
    }
    let bytes = async_stream::stream! {
        loop {
            let next = tokio::select! {
                biased;
                () = shared.ending.cancelled() => {
                    yield Err(io::Error::other("the daemon is shutting down"));
                    break;
                }
                next = file.next() => next,
            };
            match next {
                Ok(Some(bytes)) => yield Ok(Bytes::from(bytes)),
                Ok(None) => {
                    if file.missing() > 0 {
                        yield Err(io::Error::other("the file became shorter while it was read"));
                    }
                    break;
                }
                Err(error) => {
                    tracing::warn!(sandbox = %key, code = %error.code(), %error, "a file could not be sent whole");
                    yield Err(io::Error::other(error));
                    break;
                }
            }
        }
    };
    let response = response.insert_header((ACCEPT_RANGES, "bytes")).content_type("application/octet-stream");
    Ok(response.streaming(bytes))
}

/// `PUT …/files/content`. A body that breaks off changes nothing.
pub async fn write(
    shared: Data<Shared>,
    path: KeyPath,
    request: HttpRequest,
    body: Payload,
) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let (key, query) = (key(path)?, FileQuery::read(&request, &["mode"])?);
    let files = shared.handle.files(&key, query.user.clone()).await?;
    let file = files.write(&query.path, query.mode()?).await?;
    fill(&shared, file, body, "; the file is as it was").await
}

/// `POST …/files/append`.
pub async fn append(
    shared: Data<Shared>,
    path: KeyPath,
    request: HttpRequest,
    body: Payload,
) -> Result<HttpResponse, Rejection> {
    shared.accepting()?;
    let (key, query) = (key(path)?, FileQuery::read(&request, &["mode"])?);
    let files = shared.handle.files(&key, query.user.clone()).await?;
    let file = files.append(&query.path, query.mode()?).await?;
    fill(&shared, file, body, ", of which some are in the file").await
}

/// Writes a body to a file.
async fn fill(shared: &Shared, mut file: FileWrite, body: Payload, cut: &str) -> Result<HttpResponse, Rejection> {
    let cut = |bytes, error: &_| format!("the body broke off after {bytes} bytes{cut}: {error}");
    let bytes = each_chunk(&shared.ending, body, async |chunk| file.write(&chunk).await, cut).await?;
    file.finish().await?;
    Ok(HttpResponse::Ok().json(FileWritten { bytes }))
}

/// `GET …/files/list`: in no order. An answer that is not complete ends with a line that says why.
pub async fn list(shared: Data<Shared>, path: KeyPath, request: HttpRequest) -> Result<HttpResponse, Rejection> {
    let (key, query) = (key(path)?, FileQuery::read(&request, &[])?);
    let files = shared.handle.files(&key, query.user).await?;
    let directory = files.client().open_directory(&query.path).await.map_err(SandpenError::from)?;
    let lines = async_stream::stream! {
        loop {
            match directory.next_page().await.map_err(SandpenError::from) {
                Ok(page) if page.is_empty() => break,
                Ok(page) => yield page.into_iter().map(|Entry { name, stat, target }| {
                    line(&entry(name, stat, target))
                }).collect::<io::Result<Vec<Bytes>>>().map(|lines| Bytes::from(lines.concat())),
                Err(error) => {
                    yield line(&ErrorBody { error: ErrorDetail::new(error.code(), &error) });
                    break;
                }
            }
        }
    };
    Ok(HttpResponse::Ok().content_type(EVENTS_CONTENT_TYPE).streaming(lines))
}

/// `GET …/files/watch`: events until the client goes, or nothing more can be told, which the last line says.
pub async fn watch(shared: Data<Shared>, path: KeyPath, request: HttpRequest) -> Result<HttpResponse, Rejection> {
    let (key, query) = (key(path)?, FileQuery::read(&request, &["recursive"])?);
    let recursive = query.flag("recursive", false)?;
    let mut watch = shared.handle.watch_files(&key, query.user, &query.path, recursive).await?;
    let lines = async_stream::stream! {
        yield line(&FileEvent::Watching {});
        loop {
            let next = tokio::select! {
                biased;
                () = shared.ending.cancelled() => {
                    let error = ErrorDetail::message(ErrorCode::ShuttingDown, "the daemon is shutting down");
                    yield line(&ErrorBody { error });
                    break;
                }
                next = watch.next() => next,
            };
            match next {
                Ok(Some(happened)) => if let Some(happened) = event(happened) {
                    yield line(&happened);
                }
                Ok(None) => break,
                Err(error) => {
                    yield line(&ErrorBody { error: ErrorDetail::new(error.code(), &error) });
                    break;
                }
            }
        }
    };
    Ok(HttpResponse::Ok().content_type(EVENTS_CONTENT_TYPE).streaming(lines))
}

fn line(value: &impl Serialize) -> io::Result<Bytes> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(Bytes::from(line))
}

fn text(bytes: Vec<u8>) -> ByteString {
    ByteString::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
}

/// One that nobody could say is the first there is.
fn moment(time: Time) -> DateTime<Utc> {
    DateTime::from_timestamp(time.seconds, time.nanos).unwrap_or(DateTime::UNIX_EPOCH)
}

fn from_moment(moment: DateTime<Utc>) -> Time {
    // A leap second's are more than a whole one.
    Time { seconds: moment.timestamp(), nanos: moment.timestamp_subsec_nanos().min(999_999_999) }
}

fn entry(name: Vec<u8>, stat: Stat, target: Option<Vec<u8>>) -> FileEntry {
    let Stat { kind, mode, uid, gid, size, links, inode, device, allocated, accessed, modified, changed } = stat;
    FileEntry {
        name: text(name),
        kind: match kind {
            Kind::File => FileKind::File,
            Kind::Directory => FileKind::Directory,
            Kind::Symlink => FileKind::Symlink,
            Kind::Fifo => FileKind::Fifo,
            Kind::Socket => FileKind::Socket,
            Kind::CharDevice => FileKind::CharDevice,
            Kind::BlockDevice => FileKind::BlockDevice,
            Kind::Unknown => FileKind::Unknown,
        },
        mode,
        uid,
        gid,
        size,
        allocated,
        links,
        inode,
        device,
        accessed: moment(accessed),
        modified: moment(modified),
        changed: moment(changed),
        target: target.map(text),
    }
}

/// What is told; the first and the last word are said otherwise.
fn event(event: WatchEvent) -> Option<FileEvent> {
    Some(match event {
        WatchEvent::Watching | WatchEvent::Failed(_) => return None,
        WatchEvent::Created { path, is_directory } => FileEvent::Created { path: text(path), directory: is_directory },
        WatchEvent::Modified { path } => FileEvent::Modified { path: text(path) },
        WatchEvent::Closed { path } => FileEvent::Closed { path: text(path) },
        WatchEvent::Attributes { path, is_directory } => {
            FileEvent::Attributes { path: text(path), directory: is_directory }
        }
        WatchEvent::Removed { path, is_directory } => FileEvent::Removed { path: text(path), directory: is_directory },
        WatchEvent::Renamed { from, to, is_directory } => {
            FileEvent::Renamed { from: text(from), to: text(to), directory: is_directory }
        }
        WatchEvent::Overflow => FileEvent::Overflow {},
    })
}
