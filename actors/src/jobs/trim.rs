//! What is kept of ended jobs: the newest, with their logs.

use std::sync::Arc;

use sandpen_types::error_chain::error_chain;
use sandpen_types::job::ENDED_JOBS_KEPT;
use sandpen_types::session::SessionId;
use sandpen_vmm::blocking::blocking;

use super::KeeperConfig;
use crate::database::{JobRow, ListJobs, RemoveJobs};
use crate::log_writer::remove_files;

/// Removes the oldest ended jobs beyond the bound. What cannot go now goes with a later one.
pub(super) async fn trim(config: Arc<KeeperConfig>) {
    let sandbox = config.row.id;
    let surplus = match config.database.send(ListJobs(sandbox)).await {
        Ok(Ok(rows)) => surplus(rows, ENDED_JOBS_KEPT),
        unread => return tracing::warn!(?unread, "the jobs of a sandbox cannot be listed; all are kept"),
    };
    if surplus.is_empty() {
        return;
    }
    // Log first: a row without files can be removed again, files without a row are found by nobody.
    let of_files = config.clone();
    let removed = blocking(move || {
        let removed = surplus.into_iter().filter(|id| match remove_files(&of_files.log(*id)) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(job = %id, error = error_chain(&error), "the log of an old job cannot be removed yet");
                false
            }
        });
        removed.collect::<Vec<_>>()
    });
    let Ok(ids) = removed.await else { return };
    let forgotten = config.database.send(RemoveJobs { sandbox, ids }).await;
    if !matches!(forgotten, Ok(Ok(()))) {
        tracing::warn!(?forgotten, "old jobs cannot be forgotten yet");
    }
}

/// The oldest ended ones of these beyond `kept`.
fn surplus(rows: Vec<JobRow>, kept: usize) -> Vec<SessionId> {
    let ended = rows.into_iter().filter_map(|row| Some((row.ended?.0, row.asked_at, row.id)));
    let mut ended: Vec<_> = ended.collect();
    ended.sort_unstable();
    ended.truncate(ended.len().saturating_sub(kept));
    ended.into_iter().map(|(_, _, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};
    use sandpen_types::session::SessionEnd;

    use super::*;

    #[test]
    fn the_newest_ended_ones_stay_and_those_that_run() {
        let row = |number: u32, ended: Option<u32>| JobRow {
            sandbox: 1,
            id: SessionId::new(number.into()).unwrap(),
            label: String::new(),
            terminal: false,
            stdin: false,
            asked_at: DateTime::UNIX_EPOCH,
            is_begun: true,
            ended: ended.map(|at| (DateTime::UNIX_EPOCH + TimeDelta::seconds(at.into()), SessionEnd::TimedOut)),
        };
        let rows = || vec![row(1, None), row(2, Some(30)), row(3, Some(10)), row(4, None), row(5, Some(20))];
        let ids = |kept| surplus(rows(), kept).into_iter().map(SessionId::get).collect::<Vec<_>>();
        assert_eq!((ids(4), ids(3), ids(2), ids(0)), (vec![], vec![], vec![3], vec![3, 5, 2]));
    }
}
