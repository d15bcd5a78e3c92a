//! Which driver makes the microVM.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which driver makes the microVM. As text `auto` or a name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverChoice {
    /// The best one that works on this host.
    #[default]
    Auto,
    /// This one or none.
    Named(String),
}

const AUTO: &str = "auto";

impl fmt::Display for DriverChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => AUTO,
            Self::Named(name) => name,
        })
    }
}

impl FromStr for DriverChoice {
    type Err = Infallible;

    /// Any other word is a name: which drivers there are, the daemon knows.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == AUTO { Self::Auto } else { Self::Named(text.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_as_it_is_written() {
        for (text, choice) in [("auto", DriverChoice::Auto), ("qemu", DriverChoice::Named("qemu".into()))] {
            assert_eq!(text.parse(), Ok(choice.clone()));
            assert_eq!(choice.to_string(), text);
        }
    }
}
