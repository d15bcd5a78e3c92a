//! Why a program cannot be embedded. Written out by hand: a dependency would be one that every build begins with.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why a program cannot be embedded.
#[derive(Debug)]
pub enum EmbedError {
    /// Cargo did not set this variable: it was no build script that asked.
    NoBuildScript(&'static str),
    /// Neither guests nor hosts run on this target.
    Target(String),
    /// The inner cargo cannot be run.
    Run {
        /// What was to be built.
        program: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The inner cargo failed, and has said why.
    Failed {
        /// What was to be built.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
    },
    /// A file cannot be used.
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl EmbedError {
    /// What is wrong with this file.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

impl fmt::Display for EmbedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBuildScript(name) => {
                write!(f, "cargo did not set {name}: this is for the build scripts of what depends on the program")
            }
            Self::Target(target) => write!(f, "sandpen runs on Linux, and so do its guests: not on {target}"),
            Self::Run { program, source } => write!(f, "cannot run cargo to build {program}: {source}"),
            Self::Failed { program, status } => write!(
                f,
                "building {program} failed ({status}); it needs a static C library, package libc6-dev or glibc-static"
            ),
            Self::File { path, source } => write!(f, "cannot use {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for EmbedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Run { source, .. } | Self::File { source, .. } => Some(source),
            Self::NoBuildScript(_) | Self::Target(_) | Self::Failed { .. } => None,
        }
    }
}
