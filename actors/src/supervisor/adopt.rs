//! How a live row comes to a monitor when its microVM may be there already: adopted, or given up.
//!
//! ```text
//!   monitor lost ─▶ row read ─┬ live ─────────────────────▶ hosted, the microVM is looked for
//!                     ↻ 1 s   ├ live, lost too often ──────▶ killed, FAILED on record ─▶ on_ended
//!                             └ ended meanwhile ───────────▶ released ─▶ on_ended
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use nix::libc::SIGKILL;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{DriverChoice, SandboxKey};
use sandpen_types::state::{Event, ExitStatus, FailureReason};
use sandpen_vmm::driver::{Driver, DriverError, Launch, VmmEvent};
use tokio_util::sync::CancellationToken;

use super::actor::Supervisor;
use super::child::Child;
use super::phase::Phase;
use super::record::{RETRY_PAUSE, record_until_durable, settled};
use crate::database::GetSandbox;
use crate::monitor::StartMode;

/// How long an orphaned VMM may take to end after SIGKILL.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(5);

impl Supervisor {
    /// A live sandbox lost its monitor or its log writer: find the microVM again.
    pub(super) fn adopt_again(&mut self, key: &SandboxKey, ctx: &mut Context<Self>) {
        let intensity = self.config.intensity;
        let Some(child) = self.children.get_mut(key) else { return };
        let may_go_on = child.losses.count(Instant::now(), intensity);
        self.find_again(key.clone(), may_go_on, ctx);
    }

    fn is_lost(&self, key: &SandboxKey) -> bool {
        matches!(self.children.get(key).map(Child::phase), Some(Phase::Lost { .. }))
    }

    fn find_again(&mut self, key: SandboxKey, may_go_on: bool, ctx: &mut Context<Self>) {
        let database = self.config.database.clone();
        let wanted = key.clone();
        // What was told last can be older than what is durable, or is about to be.
        let read = async move { settled(&database, GetSandbox(wanted)).await };
        ctx.spawn(read.into_actor(self).map(move |row, this, ctx| match row {
            // Left to the next orchestrator meanwhile.
            _ if !this.is_lost(&key) => {}
            Ok(Ok(Some(row))) if row.state.is_live() && may_go_on => this.adopt(row, StartMode::Resume, ctx),
            Ok(Ok(Some(row))) if row.state.is_live() => this.give_up(row, ctx),
            Ok(Ok(Some(row))) => {
                this.note_row(&Arc::new(row));
                this.release_and_end(&key, ctx);
            }
            Ok(Ok(None)) => {
                tracing::error!(sandbox = %key, "the row was removed while its microVM lived");
                this.children.remove(&key);
            }
            // The microVM runs on meanwhile, and its waiter keeps its output.
            unread => {
                tracing::error!(sandbox = %key, ?unread, "the row of a live sandbox cannot be read; trying again");
                ctx.run_later(RETRY_PAUSE, move |this, ctx| this.find_again(key, may_go_on, ctx));
            }
        }));
    }

    /// Looks for the microVM of a live row.
    pub(super) fn adopt(&mut self, mut row: SandboxRow, mode: StartMode, ctx: &mut Context<Self>) {
        row.supervisor_pid = self.config.supervisor_pid;
        row.boot_id.clone_from(&self.boot_id);
        match self.driver_of(&row) {
            Ok(driver) => self.host(row, driver, mode, ctx),
            Err(error) => {
                tracing::error!(sandbox = %row.spec.key, error = %error.chain(), "a live sandbox's driver is not there");
                self.give_up(row, ctx);
            }
        }
    }

    pub(super) fn driver_of(&self, row: &SandboxRow) -> Result<Arc<dyn Driver>, DriverError> {
        let choice = row.driver.clone().map_or(DriverChoice::Auto, DriverChoice::Named);
        self.config.drivers.select(&choice, &row.spec)
    }

    pub(super) fn launch_of(&self, row: &SandboxRow) -> Launch {
        let key = &row.spec.key;
        Launch {
            spec: row.spec.clone(),
            generation: row.generation,
            runtime_dir: self.config.state_dir.runtime(key),
            vmm_log: self.config.state_dir.vmm_log(key),
            state_id: self.config.state_id.clone(),
            uid: self.config.uids.map(|uids| uids.uid(row.id)),
            timings: self.config.timings.of_live(key),
            cancel: CancellationToken::new(),
        }
    }

    /// Ends a microVM whose monitor failed too often; its sandbox is FAILED.
    fn give_up(&mut self, row: SandboxRow, ctx: &mut Context<Self>) {
        let key = row.spec.key.clone();
        if let Some(child) = self.children.get_mut(&key) {
            child.enter(Phase::GivingUp);
        }
        let (driver, launch) = (self.driver_of(&row), self.launch_of(&row));
        let (database, faults) = (self.config.database.clone(), self.config.faults.clone());
        let end = async move {
            if let Ok(driver) = driver {
                kill(&*driver, launch).await;
            }
            let message = "its monitor failed too often".to_owned();
            let faulted = Event::Faulted(FailureReason::Internal { message });
            let row = record_until_durable(&database, &faults, &row, faulted).await?;
            record_until_durable(&database, &faults, &row, Event::VmmExited(ExitStatus::Unknown)).await
        };
        ctx.spawn(end.into_actor(self).map(move |row, this, ctx| {
            match row {
                Ok(row) => this.note_row(&Arc::new(row)),
                Err(error) => tracing::error!(sandbox = %key, %error, "giving up a sandbox"),
            }
            this.on_ended(&key, ctx);
        }));
    }
}

/// Ends a microVM without a monitor, and whatever runs under its waiter still.
async fn kill(driver: &dyn Driver, launch: Launch) {
    let Ok(mut vmm) = driver.adopt(launch).await else { return };
    if let Err(error) = vmm.process.signal_vmm(SIGKILL) {
        tracing::error!(error = %error.chain(), "a microVM that is given up could not be killed");
    }
    let gone = async {
        while let Some(event) = vmm.events.recv().await {
            if matches!(event, VmmEvent::VmmExited(_)) {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(GIVE_UP_LIMIT, gone).await;
    if let Err(error) = vmm.process.release().await {
        tracing::error!(error = %error.chain(), "a microVM that is given up could not be cleaned up");
    }
}
