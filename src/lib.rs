//! sandpen runs untrusted code in microVMs and keeps them running: a library to embed, a daemon
//! and a command line, with one core.

pub mod api;
pub mod client;
pub mod daemon;
pub mod driver;
pub mod orchestrator;
pub mod paths;
pub mod private_dir;

pub use orchestrator::{
    Handle, LockError, Output, OutputFrom, OutputOptions, Sandpen, SandpenBuilder, SandpenError, StartError,
    StdinWriter,
};
pub use sandpen_actors as actors;
