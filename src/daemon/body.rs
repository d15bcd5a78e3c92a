//! Bodies of requests that are too long to be held: chunk by chunk, each one used before the next one is asked for.

use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use futures::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::reject::Rejection;
use crate::api::ErrorCode;

/// Gives a body's chunks to `take`, until the daemon is `ending`; answers how many bytes it had. Where it breaks off, `cut`
/// says so to the client, after how many bytes that were taken, and why.
///
/// # Errors
/// What `take` says, that the body broke off, or that the daemon ends.
pub(super) async fn each_chunk<E>(
    ending: &CancellationToken,
    mut body: impl Stream<Item = Result<Bytes, PayloadError>> + Unpin,
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
            () = ending.cancelled() => return Err(Rejection::shutting_down()),
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

#[cfg(test)]
mod tests {
    use actix_web::ResponseError as _;
    use futures::stream;

    use super::*;

    fn chunks<const N: usize>(chunks: [&'static str; N]) -> impl Stream<Item = Result<Bytes, PayloadError>> + Unpin {
        stream::iter(chunks.map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))))
    }

    /// What comes of a body, and what was taken of it; nobody takes `no`.
    async fn taken(
        ending: &CancellationToken,
        body: impl Stream<Item = Result<Bytes, PayloadError>> + Unpin,
    ) -> (Result<u64, (u16, String)>, Vec<u8>) {
        let mut all = Vec::new();
        let take = async |chunk: Bytes| {
            if chunk == "no" {
                return Err(Rejection::new(ErrorCode::NoStdin, "not wanted"));
            }
            all.extend_from_slice(&chunk);
            Ok(())
        };
        let end = each_chunk(ending, body, take, |bytes, error| format!("cut after {bytes}: {error}")).await;
        (end.map_err(|rejection| (rejection.status_code().as_u16(), rejection.to_string())), all)
    }

    #[actix_web::test]
    async fn a_body_is_taken_to_its_end_to_where_it_broke_off_or_to_what_is_refused() {
        let ending = CancellationToken::new();
        assert_eq!(taken(&ending, chunks([])).await, (Ok(0), Vec::new()));
        assert_eq!(taken(&ending, chunks(["one", "", "two"])).await, (Ok(6), b"onetwo".to_vec()));
        let broken = chunks(["one", "two"]).chain(stream::iter([Err(PayloadError::Incomplete(None))]));
        let (end, all) = taken(&ending, broken.chain(chunks(["three"]))).await;
        let (status, message) = end.unwrap_err();
        assert!(status == 400 && message.starts_with("cut after 6: "), "{status} {message}");
        assert_eq!(all, b"onetwo");
        let (end, all) = taken(&ending, chunks(["one", "no", "two"])).await;
        assert_eq!((end.unwrap_err().1, all), ("not wanted".to_owned(), b"one".to_vec()));
    }

    #[actix_web::test]
    async fn a_body_that_does_not_go_on_ends_with_the_daemon() {
        let ending = CancellationToken::new();
        let begun = chunks(["one"]).chain(stream::pending());
        let (end, ()) = tokio::join!(taken(&ending, begun), async { ending.cancel() });
        assert_eq!(end.0.unwrap_err().1, Rejection::shutting_down().to_string());
    }
}
