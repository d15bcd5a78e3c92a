//! Images of root file systems: an archive becomes layers, each unpacked once, and layers become one read-only disk.
//!
//! May know: types, files, threads. May not: actors, drivers, sockets, and who runs a microVM from a disk.

pub mod archive;
pub mod config;
pub mod derive;
pub mod digest;
pub mod directory_disk;
pub mod disk;
pub mod erofs;
pub mod export;
mod fields;
pub mod import;
pub mod json;
pub mod layer;
pub mod manifest;
pub mod pack;
pub mod platform;
pub mod resolve;
pub mod save;
pub mod store;
pub mod tree;
pub mod walk;

#[cfg(test)]
mod tests;
