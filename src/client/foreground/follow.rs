//! The output of a sandbox in the foreground, over deaths of the daemon.

use sandpen_actors::spec::SandboxKey;
use tokio::sync::{mpsc, watch};

use super::super::{Client, ClientError, ClientOptions, OutputRequest, OutputStart};
use super::Notice;
use crate::api::Sandbox;
use crate::api::frame::Frame;

/// Daemons in a row that may die without one byte of progress.
const RECONNECTS: u32 = 3;

/// Reads the output to its end and answers the final state. Tells `opened` when nothing that is
/// written from then on can be missed.
pub(super) async fn follow(
    client: &Client,
    options: &ClientOptions,
    key: &SandboxKey,
    started: Sandbox,
    mut from: OutputStart,
    opened: watch::Sender<bool>,
    notices: &mpsc::Sender<Notice>,
) -> Result<Sandbox, ClientError> {
    let mut failures = 0;
    loop {
        let before = from;
        let ended = async { if started.is_ended() { Ok(started.clone()) } else { client.wait(key).await } };
        // Both at once: a daemon that stops its sandboxes and ends answers those who ask already.
        let result = tokio::try_join!(pump(client, key, &mut from, &opened, notices), ended);
        match result.map(|((), sandbox)| sandbox) {
            Err(error) if error.is_cut() => {
                failures = if from == before { failures + 1 } else { 1 };
                if failures > RECONNECTS {
                    return Err(error);
                }
                Client::connect(options).await?;
                let _ = notices.send(Notice::Reconnected).await;
            }
            result => return result,
        }
    }
}

async fn pump(
    client: &Client,
    key: &SandboxKey,
    from: &mut OutputStart,
    opened: &watch::Sender<bool>,
    notices: &mpsc::Sender<Notice>,
) -> Result<(), ClientError> {
    let mut output = client.output(key, OutputRequest { from: *from, follow: true, stream: None }).await?;
    if let Some(position) = output.position() {
        *from = OutputStart::Position(position);
    }
    opened.send_replace(true);
    while let Some(frame) = output.next().await? {
        let after = match &frame {
            Frame::Bytes { position, bytes, .. } => Some(position.saturating_add(bytes.len() as u64)),
            Frame::Gap { position, bytes } => Some(position.saturating_add(*bytes)),
            Frame::Dropped { .. } | Frame::End(_) => None,
        };
        // Nobody listens any more: the caller is going away, and this future with it.
        let _ = notices.send(Notice::Output(frame)).await;
        // Not before: this future may be dropped while a slow reader holds up the frame, which has
        // to come again then.
        if let Some(after) = after {
            *from = OutputStart::Position(after);
        }
    }
    Ok(())
}
