//! What an orchestrator that died between the end of a job on record and its guest's hearing of that has left in the guest: the
//! session, which would take the room of another one.

use std::time::Duration;

use sandpen_types::session::SessionId;
use sandpen_vmm::sessions::{SessionError, SessionEvent, SessionRequest};

use super::way::Way;

/// How long all of it may take; what is left then the guest forgets when it needs the room.
const LIMIT: Duration = Duration::from_secs(30);

/// Has the guest forget the sessions of these jobs, which have ended.
pub(super) async fn tidy(way: Way, ended: Vec<SessionId>) {
    let tidied = tokio::time::timeout(LIMIT, async {
        let sessions = way.sessions_now()?;
        for session in sessions.list().await?.into_iter().filter(|session| ended.contains(&session.id)) {
            if session.end.is_none() {
                // Of one that nobody will hear of again.
                sessions.tell(session.id, SessionRequest::HangUp).await?;
            }
            let mut attachment = sessions.attach(session.id, None).await?;
            while let Some(event) = attachment.events.recv().await {
                let request = match event {
                    SessionEvent::Output { stream, offset, bytes } => {
                        *attachment.info.kept_from.of(stream) = offset + bytes.len() as u64;
                        SessionRequest::Taken(attachment.info.kept_from)
                    }
                    SessionEvent::Ended(_) => SessionRequest::TakenEnd,
                    _ => continue,
                };
                let is_last = request == SessionRequest::TakenEnd;
                // Whoever takes none any more tells no more.
                let _ = attachment.requests.send(request).await;
                if is_last {
                    break;
                }
            }
        }
        Ok::<_, SessionError>(())
    });
    match tidied.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "sessions of jobs that have ended stay in the guest for now"),
        Err(_) => tracing::debug!("sessions of jobs that have ended do not go"),
    }
}
