//! What goes wrong around sandboxes and inside sandpen: sudden deaths of the daemon and the waiters, panics of
//! actors, full disks, processes that stop. What runs is not harmed, and what is recorded is true. Workloads are
//! host commands, of the `process` driver.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::duration_suboptimal_units,
    reason = "a test that cannot go on fails"
)]

mod actor_panics;
mod daemon_death;
mod daemon_end;
mod deaths;
mod helpers;
mod host;
mod jobs;
mod log_backlog;
mod played;
mod races;
mod reconcile;
mod sessions;
#[path = "../support/mod.rs"]
mod support;
mod waiter_death;
