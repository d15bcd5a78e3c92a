//! How a client goes from its session: with it, or without.
//!
//! ```text
//!   detach ─▶ it runs on;   forget ─▶ its end was had;   hang_up_now ─▶ it ends, of which nobody hears
//!   run_out ─▶ all that it still writes is dropped ─▶ its end ─▶ forgotten
//! ```

use futures::{SinkExt as _, StreamExt as _};
use sandpen_api::ErrorCode;
use sandpen_api::session::SessionWish;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::super::ClientError;
use super::hold::text;
use super::{SessionClient, cut};

impl SessionClient {
    /// Hangs it up without a wait for its end, of which nobody wants to hear.
    ///
    /// # Errors
    /// As [`SessionClient::next`].
    pub async fn hang_up_now(&mut self) -> Result<(), ClientError> {
        loop {
            let error = match self.client.hang_up_session(&self.key, self.info.id).await {
                Err(error) if matches!(error.code(), Some(ErrorCode::SessionNotFound | ErrorCode::NotLive)) => {
                    return Ok(());
                }
                Err(error) => error,
                Ok(()) => return Ok(()),
            };
            self.client = self.resume.after(error).await?;
        }
    }

    /// Takes and drops all that it still writes, until it has ended; it is forgotten then. What nobody takes would hold it.
    ///
    /// # Errors
    /// As [`SessionClient::next`].
    pub async fn run_out(&mut self) -> Result<(), ClientError> {
        while !self.is_over {
            self.taken(self.hold.given);
            match self.next().await {
                Ok(_) => {}
                Err(error) if matches!(error.code(), Some(ErrorCode::SessionNotFound | ErrorCode::NotLive)) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.taken(self.hold.given);
        self.forget().await
    }

    /// Leaves it on purpose: it runs on without a client. What it wrote and was not told as taken is kept for the next one.
    ///
    /// # Errors
    /// As [`SessionClient::next`].
    pub async fn detach(&mut self) -> Result<(), ClientError> {
        self.leave(SessionWish::Detach {}).await
    }

    /// Says that its end, and all before it, is where it belongs: the session is forgotten.
    ///
    /// # Errors
    /// As [`SessionClient::next`].
    pub async fn forget(&mut self) -> Result<(), ClientError> {
        match self.leave(SessionWish::TakenEnd {}).await {
            // By the daemon before, which could not answer; or its guest is gone, and all sessions with it.
            Err(error) if matches!(error.code(), Some(ErrorCode::SessionNotFound | ErrorCode::NotLive)) => Ok(()),
            left => left,
        }
    }

    async fn leave(&mut self, wish: SessionWish) -> Result<(), ClientError> {
        self.is_over = true;
        loop {
            let Err(error) = self.say_last(wish).await else { return Ok(()) };
            self.socket = None;
            self.client = self.resume.after(error).await?;
        }
    }

    async fn say_last(&mut self, wish: SessionWish) -> Result<(), ClientError> {
        self.attach().await?;
        let Some(socket) = &mut self.socket else { return Ok(()) };
        while let Some(message) = self.hold.next_message() {
            socket.feed(message).await.map_err(cut)?;
        }
        socket.send(text(&wish)).await.map_err(cut)?;
        socket.close(None).await.map_err(cut)?;
        // Its answer comes when all before was passed on.
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(Some(reason))))
                    if reason.code == CloseCode::Restart || reason.code == CloseCode::Again =>
                {
                    return Err(ClientError::SessionCut { ends: true, source: None });
                }
                Some(Ok(Message::Close(_))) => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(source)) => return Err(cut(source)),
                None => return Err(ClientError::SessionCut { ends: false, source: None }),
            }
        }
    }
}
