//! Root directories, and how they are written in one line.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::SpecError;

/// Where a sandbox's root directory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// One host directory, shared read-write.
    Native(PathBuf),
    /// Read-only lower directories, topmost first, under a writable layer of the sandbox's own.
    Overlayfs(Vec<PathBuf>),
}

impl Rootfs {
    /// `native:PATH` or `overlayfs:A:B`; a backslash stands before each `:` and `\` of a path, so
    /// that the text is unambiguous.
    pub fn to_text(&self) -> String {
        let escape = |path: &Path| path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:");
        match self {
            Self::Native(path) => format!("native:{}", escape(path)),
            Self::Overlayfs(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| escape(path)).collect();
                format!("overlayfs:{}", paths.join(":"))
            }
        }
    }

    /// Reads what [`Rootfs::to_text`] wrote.
    ///
    /// # Errors
    /// [`SpecError::RootfsText`] for anything else.
    pub fn from_text(text: &str) -> Result<Self, SpecError> {
        let refused = || SpecError::RootfsText(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(refused)?;
        let mut paths = vec![String::new()];
        let mut chars = rest.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some(c @ ('\\' | ':')) => paths.last_mut().ok_or_else(refused)?.push(c),
                    _ => return Err(refused()),
                },
                ':' => paths.push(String::new()),
                c => paths.last_mut().ok_or_else(refused)?.push(c),
            }
        }
        if paths.iter().any(String::is_empty) {
            return Err(refused());
        }
        let mut paths: Vec<PathBuf> = paths.into_iter().map(PathBuf::from).collect();
        match (kind, paths.len()) {
            ("native", 1) => Ok(Self::Native(paths.remove(0))),
            ("overlayfs", _) => Ok(Self::Overlayfs(paths)),
            _ => Err(refused()),
        }
    }

    /// Every host directory that is used.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Native(path) => vec![path],
            Self::Overlayfs(paths) => paths.iter().map(PathBuf::as_path).collect(),
        }
    }
}
