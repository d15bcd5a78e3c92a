//! Bodies of requests that are too long to be held: chunk by chunk, each one used before the next one is asked for.

use actix_web::error::PayloadError;
use actix_web::web::{Bytes, Payload};
use futures::StreamExt as _;

use super::reject::Rejection;
use super::shared::Shared;
use crate::api::ErrorCode;

/// Gives a body's chunks to `take`; answers how many bytes it had. Where it breaks off, `cut` says so to the client, after how
/// many bytes that were taken, and why.
///
/// # Errors
/// What `take` says, that the body broke off, or that the daemon ends.
pub(super) async fn each_chunk<E>(
    shared: &Shared,
    mut body: Payload,
    mut take: impl AsyncFnMut(Bytes) -> Result<(), E>,
    cut: impl FnOnce(u64, &PayloadError) -> String,
) -> Result<u64, Rejection>
where
    Rejection: From<E>,
{
    let mut taken = 0;
    loop {
        let chunk = tokio::select! {
            chunk = body.next() => chunk,
            () = shared.ending.cancelled() => return Err(Rejection::shutting_down()),
        };
        match chunk {
            Some(Ok(chunk)) => {
                let bytes = chunk.len() as u64;
                take(chunk).await?;
                taken += bytes;
            }
            Some(Err(error)) => return Err(Rejection::new(ErrorCode::InvalidRequest, cut(taken, &error))),
            None => return Ok(taken),
        }
    }
}
