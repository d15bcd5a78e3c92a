//! What a daemon is asked of sessions, and the way to one of them.

use hyper::Method;
use hyper_util::rt::TokioIo;
use sandpen_api::session::{NEWS_MAX_BYTES, OpenSession, PIECE_HEADER_BYTES, PIECE_MAX_BYTES, SessionSignal};
use sandpen_types::session::{SessionId, SessionInfo, SessionOffsets, SessionSpec};
use sandpen_types::spec::{SandboxKey, TerminalSize};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::super::connection::{Body, Connection};
use super::super::resume::Resume;
use super::super::{Client, ClientError, ClientOptions, path};
use super::{SessionClient, Socket, random_session_id};

impl Client {
    /// Begins a session; answers when its program runs or could not be executed. Asked again with the same number,
    /// nothing runs twice, and it answers how the session is.
    ///
    /// # Errors
    /// Codes [`InvalidSpec`](sandpen_api::ErrorCode::InvalidSpec), [`NotFound`](sandpen_api::ErrorCode::NotFound), [`NotLive`](sandpen_api::ErrorCode::NotLive),
    /// [`TooManySessions`](sandpen_api::ErrorCode::TooManySessions), [`GuestTooOld`](sandpen_api::ErrorCode::GuestTooOld),
    /// [`Unsupported`](sandpen_api::ErrorCode::Unsupported) and [`GuestUnreachable`](sandpen_api::ErrorCode::GuestUnreachable).
    pub async fn open_session(
        &self,
        key: &SandboxKey,
        id: SessionId,
        spec: SessionSpec,
    ) -> Result<SessionInfo, ClientError> {
        self.call(Method::POST, &path(key, "/sessions"), Some(&OpenSession::new(id, spec))).await
    }

    /// Runs a command beside the workload of a live sandbox. `options` find the next daemon if this one dies or is
    /// replaced; the command runs once even so.
    ///
    /// # Errors
    /// As [`Client::open_session`]; [`ClientError::NoSuccessor`] where no daemon goes on.
    pub async fn exec(
        &self,
        options: &ClientOptions,
        key: &SandboxKey,
        spec: SessionSpec,
    ) -> Result<SessionClient, ClientError> {
        let (id, mut client, mut resume) = (random_session_id(), self.clone(), Resume::new(options, Some(key)));
        loop {
            match client.open_session(key, id, spec.clone()).await {
                Ok(info) => return Ok(SessionClient::new(client, options, key, info, true)),
                Err(error) => client = resume.after(error).await?,
            }
        }
    }

    /// Becomes the client of a session, in the place of one that it may have: all of its output comes that is kept.
    ///
    /// # Errors
    /// As [`Client::session`]; [`ClientError::NoSuccessor`] where no daemon goes on.
    pub async fn attach_session(
        &self,
        options: &ClientOptions,
        key: &SandboxKey,
        id: SessionId,
    ) -> Result<SessionClient, ClientError> {
        let (mut client, mut resume) = (self.clone(), Resume::new(options, Some(key)));
        loop {
            match client.session(key, id).await {
                Ok(info) => return Ok(SessionClient::new(client, options, key, info, false)),
                Err(error) => client = resume.after(error).await?,
            }
        }
    }

    /// The sessions of a live sandbox, oldest first.
    ///
    /// # Errors
    /// Codes [`NotFound`](sandpen_api::ErrorCode::NotFound), [`NotLive`](sandpen_api::ErrorCode::NotLive), [`GuestTooOld`](sandpen_api::ErrorCode::GuestTooOld)
    /// and [`GuestUnreachable`](sandpen_api::ErrorCode::GuestUnreachable).
    pub async fn sessions(&self, key: &SandboxKey) -> Result<Vec<SessionInfo>, ClientError> {
        self.get(&path(key, "/sessions")).await
    }

    /// One of them.
    ///
    /// # Errors
    /// As [`Client::sessions`], and [`SessionNotFound`](sandpen_api::ErrorCode::SessionNotFound).
    pub async fn session(&self, key: &SandboxKey, id: SessionId) -> Result<SessionInfo, ClientError> {
        self.get(&path(key, &format!("/sessions/{id}"))).await
    }

    /// Sends a signal, 1 to 64, to a session's process group.
    ///
    /// # Errors
    /// As [`Client::session`].
    pub async fn signal_session(&self, key: &SandboxKey, id: SessionId, signal: i32) -> Result<(), ClientError> {
        let body = Body::json(&SessionSignal { signal })?;
        let reply = self.send(Method::POST, &path(key, &format!("/sessions/{id}/signal")), body).await?;
        reply.collect().await.map(drop)
    }

    /// Tells a session's terminal a size.
    ///
    /// # Errors
    /// As [`Client::session`].
    pub async fn resize_session(&self, key: &SandboxKey, id: SessionId, size: TerminalSize) -> Result<(), ClientError> {
        let reply = self.send(Method::POST, &path(key, &format!("/sessions/{id}/resize")), Body::json(&size)?).await?;
        reply.collect().await.map(drop)
    }

    /// Hangs a session up: SIGHUP, and SIGKILL where it does not end of that soon.
    ///
    /// # Errors
    /// As [`Client::session`].
    pub async fn hang_up_session(&self, key: &SandboxKey, id: SessionId) -> Result<(), ClientError> {
        let reply = self.send(Method::DELETE, &path(key, &format!("/sessions/{id}")), Body::Empty).await?;
        reply.collect().await.map(drop)
    }

    pub(super) async fn attach(
        &self,
        key: &SandboxKey,
        id: SessionId,
        from: Option<SessionOffsets>,
    ) -> Result<Socket, ClientError> {
        let query = from
            .map_or_else(String::new, |SessionOffsets { stdout, stderr }| format!("?stdout={stdout}&stderr={stderr}"));
        self.check_version()?;
        let target = path(key, &format!("/sessions/{id}/attach{query}"));
        let upgraded = match Connection::open(&self.dir).await?.upgrade(&target).await? {
            Ok(upgraded) => upgraded,
            Err(reply) => return Err(self.refusal(reply).await),
        };
        let most = NEWS_MAX_BYTES.max(PIECE_HEADER_BYTES + PIECE_MAX_BYTES);
        let config = WebSocketConfig::default().max_message_size(Some(most)).max_frame_size(Some(most));
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await)
    }
}
