//! The built program from the outside: its command line, its daemon and its HTTP API. Workloads are host commands,
//! of the `process` driver, which makes it quick; real microVMs are in `tests/vm`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::duration_suboptimal_units,
    reason = "a test that cannot go on fails"
)]

#[cfg(feature = "testing")]
mod attach;
mod config;
mod confine;
mod core_dumps;
mod daemon;
#[cfg(feature = "testing")]
mod daemon_log;
#[cfg(feature = "testing")]
mod disk_usage;
mod doctor;
#[cfg(feature = "testing")]
mod env;
#[cfg(feature = "testing")]
mod events;
#[cfg(feature = "testing")]
mod exec;
#[cfg(feature = "testing")]
mod files;
#[cfg(feature = "testing")]
mod health;
#[cfg(feature = "testing")]
mod history;
#[cfg(feature = "testing")]
mod hostile_kernel;
mod http_api;
#[cfg(feature = "testing")]
mod image;
mod input;
#[cfg(feature = "testing")]
mod jobs;
mod kernel;
#[cfg(feature = "krun-driver")]
mod krunfw;
#[cfg(feature = "testing")]
mod log_times;
#[cfg(feature = "testing")]
mod login;
#[cfg(feature = "testing")]
mod logs;
#[cfg(feature = "testing")]
mod manage;
#[cfg(feature = "testing")]
mod mirrors;
mod older_daemon;
#[cfg(feature = "testing")]
mod process;
#[cfg(feature = "testing")]
mod pull;
#[cfg(feature = "testing")]
mod push;
#[cfg(feature = "testing")]
mod restart;
#[cfg(feature = "testing")]
mod resume;
#[cfg(feature = "testing")]
mod rm;
#[cfg(feature = "testing")]
mod sessions_http;
#[cfg(feature = "testing")]
mod ssh;
#[cfg(feature = "testing")]
mod start;
mod state_dir;
#[cfg(feature = "testing")]
mod state_of_before;
#[path = "../support/mod.rs"]
mod support;
mod systemd;
#[cfg(feature = "testing")]
mod taken_over;
#[cfg(feature = "testing")]
mod terminal;
