//! The output of a sandbox, or of a job, in the foreground, whatever becomes of the daemon.

use sandpen_api::{ErrorCode, OutputQuery};
use sandpen_types::log_start::LogStart;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

use super::super::output::{FrameReader, Place};
use super::super::resume::Resume;
use super::super::source::Source;
use super::super::{Client, ClientError, ClientOptions};
use super::Notice;

/// Reads the output to its end and answers the final state. Tells `opened` when nothing that is
/// written from then on can be missed.
pub(super) async fn follow<T: Clone + DeserializeOwned>(
    client: &Client,
    options: &ClientOptions,
    source: &Source,
    // Its final state, where that is known.
    ended: Option<T>,
    from: LogStart,
    opened: watch::Sender<bool>,
    notices: &mpsc::Sender<Notice>,
) -> Result<T, ClientError> {
    let (mut client, mut place) = (client.clone(), Place::new(from));
    let mut resume = Resume::new(options, Some(&source.key));
    loop {
        let ended = async {
            match &ended {
                Some(ended) => Ok(ended.clone()),
                None => client.wait_here(source).await,
            }
        };
        let pumped = pump(&client, source, &mut place, &mut resume, &opened, notices);
        // Both at once: a daemon that stops its sandboxes and ends answers those who ask already.
        let error = match tokio::try_join!(pumped, ended) {
            Ok(((), ended)) => return Ok(ended),
            Err(error) => error,
        };
        if matches!(error.code(), Some(ErrorCode::ShuttingDown | ErrorCode::Gone)) {
            let _ = notices.send(Notice::DaemonEnds).await;
        }
        client = resume.after(error).await?;
        let _ = notices.send(Notice::Reconnected).await;
    }
}

async fn pump(
    client: &Client,
    source: &Source,
    place: &mut Place,
    resume: &mut Resume,
    opened: &watch::Sender<bool>,
    notices: &mpsc::Sender<Notice>,
) -> Result<(), ClientError> {
    let request = OutputQuery { follow: true, ..OutputQuery::default() };
    let mut frames = FrameReader::open(client, source, request, place).await?;
    opened.send_replace(true);
    while let Some(frame) = frames.next().await? {
        let mut after = *place;
        after.pass(&frame);
        // Nobody listens any more: the caller is going away, and this future with it.
        let _ = notices.send(Notice::Output(frame)).await;
        // Not before: this future may be dropped while a slow reader holds up the frame, which has
        // to come again then.
        *place = after;
        resume.progressed();
    }
    Ok(())
}
