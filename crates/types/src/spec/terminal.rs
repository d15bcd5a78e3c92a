//! The size of a workload's terminal.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SpecError;

/// How much a terminal shows; nothing of it can be 0, in JSON neither. As text `COLUMNSxLINES`, as X has it.
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

impl fmt::Display for TerminalSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.cols, self.rows)
    }
}

impl FromStr for TerminalSize {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        // `parse` would take a sign.
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let size =
            text.split_once('x').and_then(|(cols, rows)| Some(Self { rows: number(rows)?, cols: number(cols)? }));
        size.ok_or_else(|| SpecError::TerminalSize(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_size_is_read_as_it_is_written(rows in 1..=u16::MAX, cols in 1..=u16::MAX) {
            let size = TerminalSize::new(rows, cols).unwrap();
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        assert_eq!("80x24".parse(), Ok(TerminalSize::default()));
        for text in ["", "x", "80", "80x", "x24", "0x24", "80x0", "+80x24", "80x-1", "80x65536", "80X24", "80x24x1"] {
            assert!(matches!(text.parse::<TerminalSize>(), Err(SpecError::TerminalSize(_))), "{text}");
        }
    }
}
