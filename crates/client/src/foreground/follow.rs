//! The output of a sandbox in the foreground, whatever becomes of the daemon.

use sandpen_api::{ErrorCode, OutputQuery, Sandbox};
use sandpen_types::log_start::LogStart;
use sandpen_types::spec::SandboxKey;
use tokio::sync::{mpsc, watch};

use super::super::output::{FrameReader, Place};
use super::super::resume::Resume;
use super::super::{Client, ClientError, ClientOptions};
use super::Notice;

/// Reads the output to its end and answers the final state. Tells `opened` when nothing that is
/// written from then on can be missed.
pub(super) async fn follow(
    client: &Client,
    options: &ClientOptions,
    key: &SandboxKey,
    started: Sandbox,
    from: LogStart,
    opened: watch::Sender<bool>,
    notices: &mpsc::Sender<Notice>,
) -> Result<Sandbox, ClientError> {
    let (mut client, mut place) = (client.clone(), Place::new(from));
    let mut resume = Resume::new(options, Some(key));
    loop {
        let ended = async { if started.is_ended() { Ok(started.clone()) } else { client.wait_here(key).await } };
        let pumped = pump(&client, key, &mut place, &mut resume, &opened, notices);
        // Both at once: a daemon that stops its sandboxes and ends answers those who ask already.
        let error = match tokio::try_join!(pumped, ended) {
            Ok(((), sandbox)) => return Ok(sandbox),
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
    key: &SandboxKey,
    place: &mut Place,
    resume: &mut Resume,
    opened: &watch::Sender<bool>,
    notices: &mpsc::Sender<Notice>,
) -> Result<(), ClientError> {
    let request = OutputQuery { follow: true, ..OutputQuery::default() };
    let mut frames = FrameReader::open(client, key, request, place).await?;
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
