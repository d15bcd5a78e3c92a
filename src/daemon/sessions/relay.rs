//! The way between a session and its client's WebSocket. It decides nothing and keeps nothing: either side waits while the
//! other takes no more.
//!
//! ```text
//!   events ──▶ messages ─┬ Ended: the client's word that it has that is waited for ─▶ closed
//!                        └ Replaced, Refused, Left ─────────────────────────────────▶ closed
//!   messages ──▶ requests ─┬ nonsense: an error ─▶ closed
//!                          └ the client closes, or is gone
//!   the daemon ends ─▶ closed with 1012: the successor goes on; the sandbox's monitor failed ─▶ with 1013: attach again
//! ```

use std::io;

use actix_web::web::Data;
use actix_ws::{AggregatedMessage, CloseCode, CloseReason, Closed, MessageStream, ProtocolError};
use sandpen_types::session::{SessionInfo, SessionOffsets};
use sandpen_vmm::sessions::{Attachment, SessionEvent, SessionRequest};
use tokio::sync::mpsc;

use super::super::extract;
use super::super::shared::Shared;
use crate::api::ErrorCode;
use crate::api::session::{
    PIECE_HEADER_BYTES, PIECE_MAX_BYTES, SessionNews, SessionPiece, SessionStream, SessionWish, WISH_MAX_BYTES,
};
use crate::orchestrator::session_code;

/// How one side came to its end.
enum End {
    /// The session has nothing more to say, and the client need not answer.
    Told,
    /// The client has the end, closes the socket or is gone.
    Left,
    /// The client sent what cannot be.
    Nonsense(String),
    /// Nothing more comes from the session although it has not ended: the client shall attach again.
    Lost,
    /// The daemon ends: the client shall attach to its successor.
    DaemonEnds,
}

/// Passes everything on until either side or the daemon ends.
pub(super) async fn run(
    shared: Data<Shared>,
    attachment: Attachment,
    socket: actix_ws::Session,
    messages: MessageStream,
) {
    let Attachment { info, events, requests } = attachment;
    let id = info.id;
    let end = tokio::select! {
        // First: the end of the orchestrator must not pass for that of the session.
        biased;
        () = shared.ending.cancelled() => End::DaemonEnds,
        end = tell(info, events, socket.clone()) => end,
        end = hear(messages, requests, socket.clone()) => end,
    };
    let reason = match end {
        End::Told | End::Left => CloseCode::Normal.into(),
        End::Lost => CloseReason::from((CloseCode::Again, "attach again")),
        End::DaemonEnds => CloseReason::from((CloseCode::Restart, "the daemon ends; attach to the next one")),
        End::Nonsense(message) => {
            tracing::debug!(session = %id, message, "a client of a session sent what cannot be");
            let error = SessionNews::Error { code: ErrorCode::InvalidRequest.into(), message };
            // A client that is gone reads neither.
            let _ = say(&mut socket.clone(), &error).await;
            CloseCode::Policy.into()
        }
    };
    let _ = socket.close(Some(reason)).await;
}

async fn say(socket: &mut actix_ws::Session, news: &SessionNews) -> Result<(), Closed> {
    // Structs of strings and numbers always serialise.
    socket.text(serde_json::to_string(news).unwrap_or_default()).await
}

/// Tells the client what the session tells.
async fn tell(info: SessionInfo, mut events: mpsc::Receiver<SessionEvent>, mut socket: actix_ws::Session) -> End {
    if say(&mut socket, &SessionNews::Info(info)).await.is_err() {
        return End::Left;
    }
    while let Some(event) = events.recv().await {
        let (news, is_end) = match event {
            SessionEvent::Output { stream, offset, bytes } => {
                for message in SessionPiece::encode(SessionStream::Output(stream), offset, &bytes) {
                    if socket.binary(message).await.is_err() {
                        return End::Left;
                    }
                }
                continue;
            }
            SessionEvent::InputWindow { received, limit } => (SessionNews::InputWindow { received, limit }, false),
            SessionEvent::InputClosed => (SessionNews::InputClosed {}, false),
            SessionEvent::StreamEnded { stream, total } => (SessionNews::StreamEnded { stream, total }, false),
            SessionEvent::Ended(end) => {
                // Its word that it has this comes to the other side, and ends both.
                return match say(&mut socket, &SessionNews::Ended { end }).await {
                    Ok(()) => std::future::pending().await,
                    Err(Closed) => End::Left,
                };
            }
            SessionEvent::Replaced => (SessionNews::Replaced {}, true),
            // The close of the socket says it.
            SessionEvent::Left => return End::Told,
            SessionEvent::Refused(error) => {
                let code = session_code(&error).into();
                (SessionNews::Error { code, message: error.to_string() }, true)
            }
        };
        if say(&mut socket, &news).await.is_err() {
            return End::Left;
        }
        if is_end {
            return End::Told;
        }
    }
    End::Lost
}

/// Passes on what the client wants.
async fn hear(messages: MessageStream, requests: mpsc::Sender<SessionRequest>, mut socket: actix_ws::Session) -> End {
    let most = PIECE_HEADER_BYTES + PIECE_MAX_BYTES;
    let mut messages = messages.max_frame_size(most).aggregate_continuations().max_continuation_size(most);
    while let Some(message) = messages.recv().await {
        let request = match message {
            Ok(AggregatedMessage::Binary(message)) => input(message),
            Ok(AggregatedMessage::Text(text)) => wish(&text),
            Ok(AggregatedMessage::Ping(bytes)) => match socket.pong(&bytes).await {
                Ok(()) => continue,
                Err(Closed) => return End::Left,
            },
            Ok(AggregatedMessage::Pong(_)) => continue,
            Ok(AggregatedMessage::Close(_)) => break,
            Err(ProtocolError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => return End::Left,
            Err(error) => Err(error.to_string()),
        };
        let request = match request {
            Ok(request) => request,
            Err(message) => return End::Nonsense(message),
        };
        let is_last = request == SessionRequest::TakenEnd;
        // Who takes none any more may have events to tell, which the other side does.
        let _ = requests.send(request).await;
        if is_last {
            break;
        }
    }
    // What the client wanted is not lost with its hold: all of it was taken when there is room for as much again.
    let _ = requests.reserve_many(requests.max_capacity()).await;
    End::Left
}

fn input(message: bytes::Bytes) -> Result<SessionRequest, String> {
    match SessionPiece::decode(message) {
        Ok(SessionPiece { stream: SessionStream::Stdin, offset, bytes }) => Ok(SessionRequest::Input { offset, bytes }),
        Ok(_) => Err("a client writes to stream 0 (stdin) only".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn wish(text: &str) -> Result<SessionRequest, String> {
    if text.len() > WISH_MAX_BYTES {
        return Err(format!("a message of {} bytes in text; at most {WISH_MAX_BYTES} are accepted", text.len()));
    }
    let wish =
        serde_json::from_str(text).map_err(|error| format!("the message is not what is expected here: {error}"))?;
    Ok(match wish {
        SessionWish::Taken { stdout, stderr } => SessionRequest::Taken(SessionOffsets { stdout, stderr }),
        SessionWish::EndInput { total } => SessionRequest::EndInput { total },
        SessionWish::Resize(size) => SessionRequest::Resize(size),
        SessionWish::Signal(signal) => {
            SessionRequest::Signal(extract::signal(signal.signal).map_err(|refused| refused.to_string())?)
        }
        SessionWish::HangUp {} => SessionRequest::HangUp,
        SessionWish::Detach {} => SessionRequest::Detach,
        SessionWish::TakenEnd {} => SessionRequest::TakenEnd,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_in_words() {
        assert_eq!(wish(r#"{"type":"detach"}"#), Ok(SessionRequest::Detach));
        for signal in [0, -1, 65] {
            let refused = wish(&format!(r#"{{"type":"signal","signal":{signal}}}"#)).unwrap_err();
            assert!(refused.contains("does not exist"), "{refused}");
        }
        assert!(wish("{}").unwrap_err().contains("missing field"));
        assert!(wish(&" ".repeat(WISH_MAX_BYTES + 1)).unwrap_err().contains("at most"));
        let mut pieces =
            SessionPiece::encode(SessionStream::Output(sandpen_types::output_stream::OutputStream::Stdout), 0, b"x");
        assert!(input(pieces.next().unwrap()).unwrap_err().contains("stdin"));
        assert!(input(bytes::Bytes::new()).is_err());
    }
}
