//! Where the time of a start went, as users see it.

use serde::{Deserialize, Serialize};

/// The steps of a sandbox's latest start that are done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Whether this daemon found the microVM running: then the steps before that are not known.
    pub adopted: bool,
    /// When the start was asked for, or the microVM found: microseconds of the host's monotonic clock.
    pub began_us: u64,
    /// In the order in which they were done.
    pub steps: Vec<StepTime>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTime {
    /// Its word ([`StartStep::name`](sandpen_types::start_step::StartStep::name)).
    pub step: String,
    /// Who spent the time: `sandpen`, `vmm` or `guest`.
    pub by: String,
    /// Microseconds since `began_us`.
    pub at_us: u64,
    /// Microseconds since the step before it; they add up to the last one's `at_us`.
    pub took_us: u64,
}
