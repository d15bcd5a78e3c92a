//! What starts, ends and removes sandboxes that are there.

use std::time::Duration;

use hyper::Method;
use sandpen_api::{KillRequest, RenameRequest, Sandbox, StopRequest};
use sandpen_types::signal::Signal;
use sandpen_types::spec::SandboxKey;

use super::connection::Body;
use super::{Client, ClientError, milliseconds, path};

impl Client {
    /// Starts an ended sandbox again, with the same specification, environment and disk; answers when it is RUNNING or
    /// has ended.
    ///
    /// # Errors
    /// Codes [`NotFound`](sandpen_api::ErrorCode::NotFound), [`AlreadyLive`](sandpen_api::ErrorCode::AlreadyLive) and those of
    /// [`Client::start_sandbox`].
    pub async fn start_again(&self, key: &SandboxKey) -> Result<Sandbox, ClientError> {
        self.call::<(), _>(Method::POST, &path(key, "/start"), None).await
    }

    /// Ends a sandbox gracefully, if it has not ended, and starts it again as [`Client::start_again`] does.
    ///
    /// # Errors
    /// As of that and of [`Client::stop`].
    pub async fn restart(
        &self,
        key: &SandboxKey,
        grace: Duration,
        signal: Option<Signal>,
    ) -> Result<Sandbox, ClientError> {
        let body = StopRequest { grace_ms: milliseconds(grace), signal };
        self.call(Method::POST, &path(key, "/restart"), Some(&body)).await
    }

    /// Gives an ended sandbox another name: its history, its log and its disk go along.
    ///
    /// # Errors
    /// Codes [`NotFound`](sandpen_api::ErrorCode::NotFound) and [`AlreadyLive`](sandpen_api::ErrorCode::AlreadyLive): it has not
    /// ended, or there is one of that name.
    pub async fn rename(&self, from: &SandboxKey, to: &SandboxKey) -> Result<Sandbox, ClientError> {
        self.call(Method::POST, &path(from, "/rename"), Some(&RenameRequest { to: to.clone() })).await
    }

    /// Ends a sandbox gracefully; answers when it has ended.
    ///
    /// # Errors
    /// Codes [`NotFound`](sandpen_api::ErrorCode::NotFound), [`NotLive`](sandpen_api::ErrorCode::NotLive) and
    /// [`Unrecorded`](sandpen_api::ErrorCode::Unrecorded).
    pub async fn stop(&self, key: &SandboxKey, grace: Duration) -> Result<Sandbox, ClientError> {
        self.stop_with(key, grace, None).await
    }

    /// The same by a signal, in the place of the one of its specification (SIGTERM where that names none).
    ///
    /// # Errors
    /// As [`Client::stop`].
    pub async fn stop_with(
        &self,
        key: &SandboxKey,
        grace: Duration,
        signal: Option<Signal>,
    ) -> Result<Sandbox, ClientError> {
        let body = StopRequest { grace_ms: milliseconds(grace), signal };
        self.call(Method::POST, &path(key, "/stop"), Some(&body)).await
    }

    /// Sends a signal; with SIGKILL answers when the sandbox has ended.
    ///
    /// # Errors
    /// As [`Client::stop`]; for other signals [`GuestUnreachable`](sandpen_api::ErrorCode::GuestUnreachable) too.
    pub async fn kill(&self, key: &SandboxKey, signal: i32) -> Result<Sandbox, ClientError> {
        self.call(Method::POST, &path(key, "/kill"), Some(&KillRequest { signal })).await
    }

    /// Removes an ended sandbox; with `force` a live one is killed first.
    ///
    /// # Errors
    /// Codes [`NotFound`](sandpen_api::ErrorCode::NotFound), and without `force` [`AlreadyLive`](sandpen_api::ErrorCode::AlreadyLive).
    pub async fn remove(&self, key: &SandboxKey, force: bool) -> Result<(), ClientError> {
        let reply = self.send(Method::DELETE, &path(key, &format!("?force={force}")), Body::Empty).await?;
        reply.collect().await.map(drop)
    }
}
