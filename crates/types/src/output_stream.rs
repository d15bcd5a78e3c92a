//! What a workload writes to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of the workload's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStream {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl fmt::Display for OutputStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither stdout nor stderr")]
pub struct NoSuchStream(pub String);

impl FromStr for OutputStream {
    type Err = NoSuchStream;

    fn from_str(word: &str) -> Result<Self, NoSuchStream> {
        let found = Self::ALL.into_iter().find(|stream| stream.as_str() == word);
        found.ok_or_else(|| NoSuchStream(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_as_it_is_written() {
        for stream in OutputStream::ALL {
            assert_eq!(stream.to_string().parse(), Ok(stream));
            assert_eq!(serde_json::to_value(stream).unwrap(), stream.as_str());
        }
        assert!("stdin".parse::<OutputStream>().is_err());
    }
}
