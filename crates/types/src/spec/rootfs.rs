//! Root directories and images, and how they are written in one line.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ByteString, SpecError};
use crate::image::{ImageDigest, ImageReference};

/// Where a sandbox's root comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// One host directory, shared read-write.
    Native(PathBuf),
    /// Read-only lower directories, topmost first, under a writable layer of the sandbox's own.
    Overlayfs(Vec<PathBuf>),
    /// An image of the store, under a writable layer of the sandbox's own.
    Image(ImageRoot),
}

/// An image as a root, and what of its configuration is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRoot {
    /// Its name, as it was asked for.
    pub reference: ImageReference,
    /// Its configuration's digest: what runs, at each restart too. Found out when the sandbox is asked for, with what the
    /// configuration says taken into the specification; `None` before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<ImageDigest>,
    /// In the place of the image's entrypoint; the image's own arguments are not taken then. An empty one is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<ByteString>>,
    /// Whether the image's health check is left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_healthcheck: bool,
    /// Whether every port that the image exposes is published on a free port of 127.0.0.1.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub publish_all: bool,
}

impl ImageRoot {
    /// An image with all that its configuration says.
    pub fn new(reference: ImageReference) -> Self {
        Self { reference, digest: None, entrypoint: None, no_healthcheck: false, publish_all: false }
    }
}

impl Rootfs {
    /// `native:PATH`, `overlayfs:A:B`, or `image:REFERENCE=DIGEST` without what is not taken; a backslash stands before each `:` and `\` of a path, so
    /// that the text is unambiguous.
    pub fn to_text(&self) -> String {
        let escape = |path: &Path| path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:");
        match self {
            Self::Native(path) => format!("native:{}", escape(path)),
            Self::Overlayfs(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| escape(path)).collect();
                format!("overlayfs:{}", paths.join(":"))
            }
            Self::Image(image) => match image.digest {
                Some(digest) => format!("image:{}={digest}", image.reference),
                None => format!("image:{}", image.reference),
            },
        }
    }

    /// Reads what [`Rootfs::to_text`] wrote.
    ///
    /// # Errors
    /// [`SpecError::RootfsText`] for anything else.
    pub fn from_text(text: &str) -> Result<Self, SpecError> {
        let refused = || SpecError::RootfsText(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(refused)?;
        if kind == "image" {
            let (reference, digest) = rest.split_once('=').map_or((rest, None), |(name, digest)| (name, Some(digest)));
            let digest = digest.map(str::parse).transpose().map_err(|_| refused())?;
            return Ok(Self::Image(ImageRoot { digest, ..ImageRoot::new(reference.parse().map_err(|_| refused())?) }));
        }
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

    /// Whether it is an image whose configuration was not taken into the specification yet.
    pub fn is_unresolved(&self) -> bool {
        matches!(self, Self::Image(ImageRoot { digest: None, .. }))
    }

    /// Every host directory that is used.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Native(path) => vec![path],
            Self::Overlayfs(paths) => paths.iter().map(PathBuf::as_path).collect(),
            Self::Image(_) => Vec::new(),
        }
    }
}
