//! Those who wait for an end or for a restart, or want to hear of everything.

use actix::Handler;
use sandpen_types::row::SandboxRow;

use super::actor::Supervisor;
use super::admits::Request;
use super::{AwaitRestart, SubscribeStateChanges, SupervisorError, WaitSandbox};
use crate::database::GetSandbox;
use crate::runtime::long_answer::LongAnswer;

impl Handler<WaitSandbox> for Supervisor {
    type Result = LongAnswer<Result<SandboxRow, SupervisorError>>;

    fn handle(&mut self, WaitSandbox { key }: WaitSandbox, _: &mut Self::Context) -> Self::Result {
        if let Ok(child) = self.admitted(&key, Request::Wait) {
            return LongAnswer::when(child.ended(), |row| Ok((*row).clone()));
        }
        let row = self.config.database.send(GetSandbox(key.clone()));
        let is_leaving = self.shutting_down.is_some();
        LongAnswer::of(async move {
            match row.await??.ok_or(SupervisorError::NotFound { key })? {
                // The next orchestrator's to wait for.
                row if is_leaving && !row.state.is_ended() => Err(SupervisorError::ShuttingDown),
                row => Ok(row),
            }
        })
    }
}

impl Handler<AwaitRestart> for Supervisor {
    type Result = LongAnswer<Result<Option<u64>, SupervisorError>>;

    fn handle(&mut self, AwaitRestart { key, after }: AwaitRestart, ctx: &mut Self::Context) -> Self::Result {
        let supervisor = self.itself(ctx);
        let Ok(child) = self.admitted(&key, Request::AwaitRestart) else {
            return LongAnswer::of(async { Ok(None) });
        };
        let generation = child.row().filter(|_| child.monitor().is_some()).map(|row| row.generation);
        if let Some(generation) = generation.filter(|generation| *generation > after) {
            return LongAnswer::of(async move { Ok(Some(generation)) });
        }
        // The end of the child drops the sender.
        let next = child.hosted();
        LongAnswer::of(async move {
            let _ = next.await;
            supervisor.send(AwaitRestart { key, after }).await?
        })
    }
}

impl Handler<SubscribeStateChanges> for Supervisor {
    type Result = ();

    fn handle(&mut self, SubscribeStateChanges { recipient }: SubscribeStateChanges, _: &mut Self::Context) {
        self.subscribers.push(recipient);
    }
}
