//! Starts by request: of a specification, and of an ended sandbox once more.

use std::time::Duration;

use chrono::Utc;
use sandpen_actors::supervisor::{AwaitStarted, StartSandbox, SupervisorError};
use sandpen_actors::telemetry::counters::Counter;
use sandpen_types::row::SandboxRow;
use sandpen_types::signal::Signal;
use sandpen_types::spec::{CheckedSpec, SandboxKey, SpecError};

use super::{Handle, SandpenError};

/// To so many supervisors a start is given that each of them fails on.
const START_ATTEMPTS: usize = 10;

impl Handle {
    /// Starts a sandbox, new or ended, by a [`SandboxSpec`](sandpen_types::spec::SandboxSpec) or what becomes one;
    /// resolves when it is RUNNING or has ended: look at the row's state.
    ///
    /// # Errors
    /// Refusals of the specification, an image that is not there or says what no sandbox can have, a live sandbox of that
    /// name, a driver that cannot be used.
    pub async fn start_sandbox<S>(&self, spec: S) -> Result<SandboxRow, SandpenError>
    where
        S: TryInto<CheckedSpec, Error = SpecError>,
    {
        // The one door: nothing behind it sees a specification that was not checked.
        let spec = spec.try_into().map_err(|refused| {
            self.faults.count(Counter::RefusedSpec);
            SupervisorError::from(refused)
        })?;
        // Until the sandbox is on record, nobody removes the image that was found.
        let (spec, _lease) = self.resolve_image(spec).await?;
        self.start(StartSandbox::anew(spec)).await
    }

    /// Starts an ended sandbox again as it was: with the same specification, environment and disk; resolves as
    /// [`Handle::start_sandbox`].
    ///
    /// # Errors
    /// `NotFound`, a sandbox that is live or removes itself, and those of [`Handle::start_sandbox`].
    pub async fn start_again(&self, key: &SandboxKey) -> Result<SandboxRow, SandpenError> {
        let row = self.to_start_again(key).await?;
        let spec = CheckedSpec::try_from((*row.spec).clone()).map_err(SupervisorError::from)?;
        self.start(StartSandbox { spec, again: Some(row.id) }).await
    }

    /// Ends a sandbox gracefully, if it has not ended, and starts it again as [`Handle::start_again`] does.
    ///
    /// # Errors
    /// As of that and of [`Handle::stop`].
    pub async fn restart(
        &self,
        key: &SandboxKey,
        grace: Duration,
        signal: Option<Signal>,
    ) -> Result<SandboxRow, SandpenError> {
        // Before anything is ended: whether it can be.
        self.to_start_again(key).await?;
        match self.stop_with(key, grace, signal).await {
            Ok(_) | Err(SandpenError::Supervisor(SupervisorError::NotLive { .. })) => self.start_again(key).await,
            Err(error) => Err(error),
        }
    }

    async fn to_start_again(&self, key: &SandboxKey) -> Result<SandboxRow, SandpenError> {
        let row = self.get(key).await?.ok_or_else(|| SupervisorError::NotFound { key: key.clone() })?;
        match row.spec.remove_on_end {
            true => Err(SupervisorError::RemovesItself { key: key.clone() }.into()),
            false => Ok(row),
        }
    }

    async fn start(&self, start: StartSandbox) -> Result<SandboxRow, SandpenError> {
        let (asked_at, key) = (Utc::now(), start.spec.key.clone());
        for _ in 0..START_ATTEMPTS {
            if let Ok(answer) = self.supervisor.send_once(start.clone()).await {
                return Ok(answer?);
            }
            // The supervisor failed meanwhile. What it had begun, the next one goes on with.
            match self.supervisor.send(AwaitStarted { key: key.clone() }).await? {
                Err(SupervisorError::NotLive { .. } | SupervisorError::NotFound { .. }) => {}
                // An earlier start, of which something is left.
                Ok(row) if row.state.is_ended() && row.updated_at < asked_at => {}
                answer => return Ok(answer?),
            }
            if let Some(row) = self.get(&key).await?.filter(|row| row.state.is_ended() && row.updated_at >= asked_at) {
                // As fast as that.
                return Ok(row);
            }
        }
        Err(SandpenError::Gone)
    }
}
