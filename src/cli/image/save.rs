//! Where an archive goes: standard output, or a file that is there whole or not at all.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sandpen::client::ImageArchiveReader;
use tempfile::NamedTempFile;

use super::super::{CliError, stdio};

/// Where the archive goes.
pub enum Target {
    /// Standard output, which is no terminal.
    Stdout,
    /// What is there and is no ordinary file: a pipe, a device.
    Special(PathBuf, File),
    /// A file of this name, once all is there.
    File(PathBuf, NamedTempFile),
}

impl Target {
    /// Opens it, before anything is asked for.
    pub fn open(path: &Path) -> Result<Self, CliError> {
        if path == Path::new("-") {
            return if io::stdout().is_terminal() { Err(CliError::ArchiveOnTerminal) } else { Ok(Self::Stdout) };
        }
        let failed = |source| CliError::ArchiveFile { path: path.to_owned(), source };
        match path.metadata() {
            Ok(meta) if meta.is_dir() => Err(failed(io::ErrorKind::IsADirectory.into())),
            Ok(meta) if !meta.is_file() => {
                let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
                Ok(Self::Special(path.to_owned(), file))
            }
            _ => {
                // A link stays one.
                let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
                let directory = real.parent().filter(|parent| !parent.as_os_str().is_empty());
                let directory = directory.unwrap_or(Path::new("."));
                // As any file that is made: what the umask leaves.
                let permissions = Permissions::from_mode(0o666);
                let draft =
                    tempfile::Builder::new().prefix(".sandpen-").permissions(permissions).tempfile_in(directory);
                Ok(Self::File(real, draft.map_err(failed)?))
            }
        }
    }

    /// Writes the archive there.
    pub async fn write(self, mut archive: ImageArchiveReader) -> Result<u8, CliError> {
        match self {
            Self::Stdout => {
                let mut stdout = stdio::stdout();
                copy(&mut archive, &mut stdout, CliError::Output).await?;
                stdout.flush().map_err(CliError::Output)?;
            }
            Self::Special(path, mut file) => {
                copy(&mut archive, &mut file, |source| CliError::ArchiveFile { path: path.clone(), source }).await?;
            }
            Self::File(path, mut draft) => {
                let failed = |source| CliError::ArchiveFile { path: path.clone(), source };
                copy(&mut archive, draft.as_file_mut(), failed).await?;
                draft.persist(&path).map_err(|error| failed(error.error))?;
            }
        }
        Ok(0)
    }
}

async fn copy(
    archive: &mut ImageArchiveReader,
    to: &mut impl Write,
    failed: impl Fn(io::Error) -> CliError,
) -> Result<(), CliError> {
    while let Some(bytes) = archive.next().await? {
        to.write_all(&bytes).map_err(&failed)?;
    }
    Ok(())
}
