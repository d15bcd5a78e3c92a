//! sandpen runs untrusted code in microVMs and keeps them running: a library to embed, a daemon
//! and a command line, with one core.

pub mod api;
pub mod client;
pub mod daemon;
pub mod orchestrator;
pub mod paths;
pub mod private_dir;
