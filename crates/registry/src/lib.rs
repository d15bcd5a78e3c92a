//! Speaking with registries: references become manifests and blobs, and the other way round.
//!
//! ```text
//!   reference ─▶ endpoints (mirrors, the registry) ─▶ transport ──▶ manifest ─▶ configuration, layers ─▶ blob
//!                                                       │  ▲
//!   credentials (files, helpers: the command line's) ─▶ auth (challenge ─▶ token)
//! ```
//!
//! The protocol is that of the OCI distribution specification 1.1, with what the distribution project's registry adds
//! to it (tokens, `docs/content/spec/auth`). Nothing here reads the process's environment: proxies, directories of
//! certificates and credentials are handed over by whoever asks, and kept in memory only.
//!
//! May know: types, how manifests, configurations and platforms are read, HTTP. May not: actors, drivers, the store of
//! images, and what becomes of the bytes.

pub mod auth;
pub mod blob;
mod certificates;
mod challenge;
pub mod client;
pub mod credentials;
mod endpoint;
pub mod error;
pub mod options;
pub mod proxies;
pub mod push;
mod retry;
pub mod secret;
mod transport;

pub use auth::Credentials;
pub use blob::{Blob, BlobStream, checked};
pub use client::{Pulled, Registry};
pub use error::{CertificateProblem, RegistryError};
pub use options::{Options, Times};
pub use proxies::Proxies;
pub use push::{BlobSource, ByteStream, Push};
pub use secret::Secret;
