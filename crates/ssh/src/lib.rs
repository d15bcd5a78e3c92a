//! An SSH server on standard streams, for the `ProxyCommand` of an SSH client: what the client asks for becomes sessions of one
//! sandbox, which needs neither a network nor a server in its root.
//!
//! May know: `sandpen-client`, `sandpen-files`, `sandpen-types`, ring, tokio. May not: what a daemon or a guest is made of, a
//! terminal.
//!
//! ```text
//!   ssh, sftp, editors ──pipe──▶ Transport: packets, keys ──▶ server: user, channels ──▶ sessions of the daemon's client
//! ```
//!
//! The protocol is done here, and not by a library: those that there are answer for bytes that nobody has taken yet, so that one
//! channel whose program does not read holds up all of them, itself included when it waits to be read.

pub mod config;
pub mod host_key;
mod message;
mod server;
mod sftp;
mod transport;
mod wire;

pub use server::{ServeError, Target, serve};
pub use transport::TransportError;
