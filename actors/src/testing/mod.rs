//! For tests alone: drivers that make no microVM, and panics at chosen places.

#[cfg(any(test, feature = "testing"))]
pub mod fake_driver;
#[cfg(any(test, feature = "testing"))]
pub mod fake_sessions;
#[cfg(feature = "testing")]
pub mod panic;
#[cfg(feature = "testing")]
pub mod process_driver;
