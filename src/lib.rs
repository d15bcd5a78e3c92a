//! Placeholder.

pub mod driver;
pub mod kernel;
