//! Real microVMs through the built program: of QEMU with Linux, and of libkrun with bare-metal guests. No more than
//! two at a time, because each keeps a core busy under emulation. Linux under libkrun is in `tests/nested`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod agent;
mod arranged;
mod boot;
#[cfg(feature = "testing")]
mod busy;
mod clock;
mod confine;
mod embed;
mod exec;
mod features;
mod file_api;
mod files;
mod forged;
mod health;
#[cfg(all(feature = "krun-driver", feature = "testing"))]
mod hostile_kernel;
mod image_disk;
mod images;
mod inside;
mod kernel;
#[cfg(all(feature = "krun-driver", feature = "testing"))]
mod krun;
mod life;
mod log_backlog;
mod memory;
mod net;
mod output;
mod port_forward;
mod run;
mod service;
mod ssh;
mod start;
mod stats;
mod storage;
#[path = "../support/mod.rs"]
mod support;
mod template;
mod terminal;
mod timings;
mod user;
