//! How microVMs are made: what all drivers share, and the drivers.

pub mod control;
mod guest;

pub use guest::guest_binary;
