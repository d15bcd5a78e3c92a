//! Images of root file systems: an archive becomes layers, each unpacked once, and layers become one read-only disk.
//!
//! May know: types, files, threads. May not: actors, drivers, sockets, and who runs a microVM from a disk.

pub mod config;
pub mod digest;
pub mod disk;
pub mod erofs;
pub mod json;
pub mod layer;
pub mod manifest;
pub mod platform;
pub mod resolve;
pub mod store;
pub mod tree;
