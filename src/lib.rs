//! Placeholder.
pub mod driver;
