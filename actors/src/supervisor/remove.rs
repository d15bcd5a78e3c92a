//! A removal: by request, and of a sandbox that removes itself.
//!
//! ```text
//!   RemoveSandbox ─┬ ended ───────────────▶ name taken ─▶ logs ─▶ disk ─▶ row ─▶ name free
//!                  ├ live, with force: killed first ─▶ as above
//!                  └ live: refused
//!   end ─▶ remove_on_end ─▶ logs ─▶ disk ─▶ row ─▶ answered, name free
//! ```

use std::fs;
use std::io;
use std::sync::Arc;

use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, WrapFuture as _};
use sandpen_types::error_chain::error_chain;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::SandboxKey;
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::cache_uses;

use super::actor::{Answer, Supervisor};
use super::admits::{Request, When};
use super::child::Child;
use super::phase::Phase;
use super::removal_hold::lingers;
use super::stop::End;
use super::{RemoveSandbox, SupervisorError, disks, rename};
use crate::database::{self, GetSandbox};
use crate::log_writer::{LogError, remove_files};

impl Handler<RemoveSandbox> for Supervisor {
    type Result = Answer<()>;

    fn handle(&mut self, request: RemoveSandbox, ctx: &mut Self::Context) -> Self::Result {
        let RemoveSandbox { key, force } = request.clone();
        if let Some(helper) = self.helper(&key) {
            return self.once_helper_is_gone(&key, &helper, request, ctx);
        }
        let asked = if force { Request::RemoveByForce } else { Request::Remove };
        match self.admit(&key, asked) {
            Ok(When::Now) if self.children.contains_key(&key) => self.kill_and_remove(&key, ctx),
            Ok(When::Now) => self.remove_ended(key),
            Ok(When::OnceReleased | When::OnceHosted) => self.once_released(&key, request, ctx),
            Err(refusal) => self.refuse(refusal.error(key.clone(), self.status(&key), asked)),
        }
    }
}

impl Supervisor {
    fn kill_and_remove(&mut self, key: &SandboxKey, ctx: &mut Context<Self>) -> Answer<()> {
        let (again, key) = (ctx.address(), key.clone());
        let killed = self.end_child(&key, End::Kill, ctx);
        let removed = async move {
            killed.await?;
            match again.send(RemoveSandbox { key, force: false }).await? {
                // `remove_on_end` was faster.
                Err(SupervisorError::NotFound { .. }) => Ok(()),
                removed => removed,
            }
        };
        Box::pin(removed.into_actor(self))
    }

    fn remove_ended(&mut self, key: SandboxKey) -> Answer<()> {
        // The name stays taken until the last file is gone.
        self.children.insert(key.clone(), Child::new(Phase::Removing));
        let (database, dir, missing) = (self.config.database.clone(), self.config.state_dir.clone(), key.clone());
        let found = async move {
            let row = database.send(GetSandbox(missing.clone())).await??;
            let row = row.ok_or(SupervisorError::NotFound { key: missing })?;
            // Nobody would find its files by another name. One that removes itself is never renamed.
            rename::finish(&database, &dir, |rename| rename.sandbox == row.id).await?;
            Ok::<_, SupervisorError>(row)
        };
        let removed = found.into_actor(self).then(|row, this, _| {
            let removal = row.map(|row| this.remove_everything(&row));
            async move { removal?.await }.into_actor(this)
        });
        Box::pin(removed.map(move |removed, this, _| {
            this.children.remove(&key);
            removed
        }))
    }

    /// The last step of a child; with `remove_on_end` its row and log go too. Whoever waited for the
    /// end is answered when the name is free.
    pub(super) fn forget(&mut self, key: &SandboxKey, row: &Arc<SandboxRow>, ctx: &mut Context<Self>) {
        if lingers(row) {
            self.linger(row.clone(), ctx);
        }
        if !row.spec.remove_on_end || lingers(row) {
            self.leave_cache(row, ctx);
            self.answer_and_drop(key);
            return;
        }
        let removal = self.remove_everything(row);
        if let Some(child) = self.children.get_mut(key) {
            child.enter(Phase::Leaving);
        }
        let key = key.clone();
        ctx.spawn(removal.into_actor(self).map(move |removed, this, _| {
            if let Err(error) = removed {
                tracing::warn!(sandbox = %key, error = error_chain(&error), "removing an ended sandbox");
            }
            this.answer_and_drop(&key);
        }));
    }

    /// What it used of the cache may go from now on.
    fn leave_cache(&self, row: &SandboxRow, ctx: &mut Context<Self>) {
        let (dir, key, last) = (self.config.state_dir.clone(), row.spec.key.clone(), row.generation);
        let left = blocking(move || cache_uses::forget(&dir, &key, ..=last));
        ctx.spawn(left.into_actor(self).map(|_, _, _| ()));
    }

    pub(super) fn answer_and_drop(&mut self, key: &SandboxKey) {
        if let Some(mut child) = self.children.remove(key) {
            child.answer_ended();
        }
    }

    /// Log first: a row without files can be removed again, files without a row are found by nobody.
    pub(super) fn remove_everything(
        &self,
        row: &SandboxRow,
    ) -> impl Future<Output = Result<(), SupervisorError>> + use<> {
        let database = self.config.database.clone();
        let (id, key) = (row.id, row.spec.key.clone());
        let (log, vmm_log) = (self.config.state_dir.log(&key), self.config.state_dir.vmm_log(&key));
        let jobs = self.config.state_dir.jobs(id);
        let (dir, of_disk, last) = (self.config.state_dir.clone(), key.clone(), row.generation);
        let timings = self.config.timings.clone();
        async move {
            let files = move || {
                remove_files(&log)?;
                let gone = |removed: io::Result<()>, path| match removed {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => {
                        Err(LogError::File { action: "removing", path, source })
                    }
                    _ => Ok(()),
                };
                gone(fs::remove_dir_all(&jobs), jobs)?;
                gone(fs::remove_file(&vmm_log), vmm_log)
            };
            let removed = blocking(files).await.map_err(|_| SupervisorError::Gone)?;
            timings.forget(&key);
            removed.map_err(|source| SupervisorError::RemoveLog { key, source })?;
            let disk = blocking(move || {
                cache_uses::forget(&dir, &of_disk, ..=last);
                disks::remove_own(&dir, &of_disk)
            });
            let disk = disk.await;
            disk.map_err(|_| SupervisorError::Gone)??;
            Ok(database.send(database::RemoveSandbox(id)).await??)
        }
    }
}
