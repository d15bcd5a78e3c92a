//! What was not as it should be, without an end of it all: the first ones, and how many there were.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// How many are told.
const TOLD: usize = 8;
/// Most bytes of one of them.
const TEXT_MAX: usize = 8 << 10;

/// Bytes as a path.
pub fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// A path as it is shown: in quotes, with escapes for what would act on a terminal and for what is no text.
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(as_path(self.0), f)
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The first of several things, each in one line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noted {
    first: Vec<String>,
    count: u64,
}

impl Noted {
    pub(crate) fn add(&mut self, path: &[u8], what: &dyn std::error::Error) {
        self.count += 1;
        if self.first.len() < TOLD {
            let mut line = format!("{}: {}", Shown(path), chain(what));
            line.truncate(line.floor_char_boundary(TEXT_MAX));
            self.first.push(line);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first ones, the oldest first.
    pub fn first(&self) -> &[String] {
        &self.first
    }
}

/// A line each, and one that says how many more there are.
impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in self.first.iter().enumerate() {
            write!(f, "{}{line}", if number == 0 { "" } else { "\n" })?;
        }
        match self.count - self.first.len() as u64 {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// What became of a copy that went to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What of it is missing or not as it was: the copy failed.
    pub problems: Noted,
    /// What there is to know.
    pub notes: Noted,
    /// Entries that were packed or made.
    pub entries: u64,
}
