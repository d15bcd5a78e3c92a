//! The size of a workload's terminal.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

/// How much a terminal shows; nothing of it can be 0, in JSON neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Lines, 1 to 65535.
    pub rows: NonZeroU16,
    /// Characters a line, 1 to 65535.
    pub cols: NonZeroU16,
}

impl TerminalSize {
    /// A size, unless one of the numbers is 0.
    pub fn new(rows: u16, cols: u16) -> Option<Self> {
        Some(Self { rows: NonZeroU16::new(rows)?, cols: NonZeroU16::new(cols)? })
    }
}

impl Default for TerminalSize {
    /// 24 lines of 80 characters, as the first video terminals had.
    fn default() -> Self {
        Self { rows: NonZeroU16::MIN.saturating_add(23), cols: NonZeroU16::MIN.saturating_add(79) }
    }
}
