//! The words for programs of what is wrong with a sandbox's files.

use sandpen_api::ErrorCode;
use sandpen_files::{FileErrorKind, FilesError};

/// The code of what is wrong with a sandbox's file.
pub(super) fn files_code(error: &FilesError) -> ErrorCode {
    match error {
        FilesError::File(error) => match error.kind {
            FileErrorKind::NotFound => ErrorCode::FileNotFound,
            FileErrorKind::Exists => ErrorCode::FileExists,
            FileErrorKind::NotDirectory => ErrorCode::NotADirectory,
            FileErrorKind::IsDirectory => ErrorCode::IsADirectory,
            FileErrorKind::NotEmpty => ErrorCode::DirectoryNotEmpty,
            FileErrorKind::PermissionDenied => ErrorCode::PermissionDenied,
            FileErrorKind::ReadOnly => ErrorCode::FilesReadOnly,
            FileErrorKind::NoSpace => ErrorCode::FilesFull,
            FileErrorKind::NotFile => ErrorCode::NotAFile,
            FileErrorKind::InvalidName => ErrorCode::InvalidPath,
            FileErrorKind::TooLarge => ErrorCode::InvalidRequest,
            FileErrorKind::Unsupported => ErrorCode::Unsupported,
            FileErrorKind::TooManyOpen | FileErrorKind::NotOpen | FileErrorKind::Other(_) => ErrorCode::FileFailed,
        },
        FilesError::TooMuch { .. } => ErrorCode::InvalidRequest,
        FilesError::Nonsense(_) | FilesError::Frame(_) | FilesError::Gone(_) => ErrorCode::GuestUnreachable,
    }
}

#[cfg(test)]
mod tests {
    use sandpen_files::FileError;

    use super::*;

    /// Programs act on these words.
    #[test]
    fn each_failure_of_a_file_has_its_code() {
        let codes = [
            (FileErrorKind::NotFound, ErrorCode::FileNotFound),
            (FileErrorKind::Exists, ErrorCode::FileExists),
            (FileErrorKind::NotDirectory, ErrorCode::NotADirectory),
            (FileErrorKind::IsDirectory, ErrorCode::IsADirectory),
            (FileErrorKind::NotEmpty, ErrorCode::DirectoryNotEmpty),
            (FileErrorKind::PermissionDenied, ErrorCode::PermissionDenied),
            (FileErrorKind::ReadOnly, ErrorCode::FilesReadOnly),
            (FileErrorKind::NoSpace, ErrorCode::FilesFull),
            (FileErrorKind::NotFile, ErrorCode::NotAFile),
            (FileErrorKind::InvalidName, ErrorCode::InvalidPath),
            (FileErrorKind::TooLarge, ErrorCode::InvalidRequest),
            (FileErrorKind::Unsupported, ErrorCode::Unsupported),
            (FileErrorKind::TooManyOpen, ErrorCode::FileFailed),
            (FileErrorKind::NotOpen, ErrorCode::FileFailed),
            (FileErrorKind::Other(5), ErrorCode::FileFailed),
        ];
        for (kind, code) in codes {
            assert_eq!(files_code(&FileError { kind, path: b"/a".to_vec() }.into()), code, "{kind}");
        }
        assert_eq!(files_code(&FilesError::TooMuch { path: vec![] }), ErrorCode::InvalidRequest);
        for error in [FilesError::Nonsense("x"), FilesError::Gone("x".into())] {
            assert_eq!(files_code(&error), ErrorCode::GuestUnreachable);
        }
    }
}
