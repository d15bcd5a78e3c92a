//! What the system says of a file that something was asked of.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is wrong. Encoded by position: new ones at the end only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileErrorKind {
    /// There is nothing of that name.
    NotFound,
    /// There is something of that name.
    Exists,
    /// A directory is needed.
    NotDirectory,
    /// It is a directory.
    IsDirectory,
    /// The directory has something in it.
    NotEmpty,
    /// The user may not.
    PermissionDenied,
    /// The file system is read-only.
    ReadOnly,
    /// The file system is full, or the user's share of it.
    NoSpace,
    /// It is a pipe, a socket or the like.
    NotFile,
    /// As many are open as can be.
    TooManyOpen,
    /// No path can be like that.
    InvalidName,
    /// No offset or size can be like that here.
    TooLarge,
    /// Nothing is open under that number.
    NotOpen,
    /// The guest or the file system does not know how.
    Unsupported,
    /// Anything else: the system's number (errno).
    Other(i32),
}

impl FileErrorKind {
    /// What a system's number means.
    pub fn of(errno: rustix::io::Errno) -> Self {
        use rustix::io::Errno;
        match errno {
            Errno::NOENT => Self::NotFound,
            Errno::EXIST => Self::Exists,
            Errno::NOTDIR => Self::NotDirectory,
            Errno::ISDIR => Self::IsDirectory,
            Errno::NOTEMPTY => Self::NotEmpty,
            Errno::ACCESS | Errno::PERM => Self::PermissionDenied,
            Errno::ROFS => Self::ReadOnly,
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace,
            Errno::MFILE | Errno::NFILE => Self::TooManyOpen,
            Errno::NAMETOOLONG => Self::InvalidName,
            Errno::FBIG | Errno::OVERFLOW => Self::TooLarge,
            Errno::OPNOTSUPP | Errno::NOSYS => Self::Unsupported,
            errno => Self::Other(errno.raw_os_error()),
        }
    }
}

impl fmt::Display for FileErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no such file or directory",
            Self::Exists => "it exists already",
            Self::NotDirectory => "not a directory",
            Self::IsDirectory => "is a directory",
            Self::NotEmpty => "the directory is not empty",
            Self::PermissionDenied => "permission denied",
            Self::ReadOnly => "the file system is read-only",
            Self::NoSpace => "no space is left on its file system",
            Self::NotFile => "neither a regular file nor a directory",
            Self::TooManyOpen => "too many files are open",
            Self::InvalidName => {
                "no such path can be: paths are absolute, of at most 4095 bytes, 255 a name, and without NUL bytes"
            }
            Self::TooLarge => "the offset or size is beyond what a file can have",
            Self::NotOpen => "nothing is open under that number",
            Self::Unsupported => "the guest or its file system does not support that",
            Self::Other(errno) => return std::io::Error::from_raw_os_error(*errno).fmt(f),
        })
    }
}

/// What is wrong, and with what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {kind}", Shown(.path))]
pub struct FileError {
    /// What.
    pub kind: FileErrorKind,
    /// As it was asked for; empty where there is none.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
}

/// A path as it may be shown: without control characters.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("\"\"");
        }
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { fmt::Write::write_char(f, c)? }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_shown_without_control_characters() {
        let shown = |path: &[u8]| FileError { kind: FileErrorKind::NotFound, path: path.into() }.to_string();
        assert_eq!(shown(b"/a b"), "/a b: no such file or directory");
        assert_eq!(shown(b"/a\n\x1b[31m\0\xff"), "/a\\n\\u{1b}[31m\\u{0}\\xff: no such file or directory");
        assert_eq!(shown(b""), "\"\": no such file or directory");
    }

    #[test]
    fn numbers_of_the_system_are_named() {
        use rustix::io::Errno;
        assert_eq!(FileErrorKind::of(Errno::NOENT), FileErrorKind::NotFound);
        assert_eq!(FileErrorKind::of(Errno::DQUOT), FileErrorKind::NoSpace);
        assert_eq!(FileErrorKind::of(Errno::BUSY), FileErrorKind::Other(16));
        assert!(FileErrorKind::Other(16).to_string().contains("busy"));
    }
}
