//! Archives of images: what is in one, and reading its layers, several side by side.
//!
//! | told by | what it is | written by |
//! | --- | --- | --- |
//! | `oci-layout` and `index.json` in a tar | an OCI archive | `docker save` since 25, `skopeo`, `podman` |
//! | the same in a directory | an OCI layout | `skopeo`, `umoci`, `buildah` |
//! | `manifest.json` in a tar | a Docker archive | `docker save` since 1.10, `skopeo`, `podman`, `nix`, `bazel` |
//!
//! Sources: the OCI image specification 1.1 (image-layout.md), Docker's image specification 1.2 ("Combined Image JSON +
//! Filesystem Changeset Format").
//!
//! Where a tar is both, as that of a current `docker save`, it is read as an OCI archive: there every digest is stated
//! and can be checked, and images of several platforms are told apart. Names in its `manifest.json` are added to those
//! in its index.
//!
//! A tar is a file that can be read from anywhere: one pass over its headers makes an index, and every blob is read by
//! its position, without a descriptor or an offset of its own. Nothing is unpacked, and links are followed within the
//! index only. What an archive says is checked here as far as it can be without reading layers: whoever reads those
//! compares them with [`ArchivedLayer::blob`] and, unpacked, with [`ArchivedLayer::diff_id`].

mod directory;
mod docker;
mod error;
mod oci;
mod tar_index;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use sandpen_types::image::{ImageDigest, ImageReference};

pub use error::ArchiveError;

use crate::config::ImageConfig;
use crate::json::DOCUMENT_MAX;
use crate::layer::Compression;
use crate::platform::Platform;
use directory::LayoutDirectory;
use tar_index::TarIndex;

/// Most images of an archive.
pub const IMAGES_MAX: usize = 1024;
/// Most bytes of all configurations, manifests and indexes of an archive together: they are kept in memory.
pub const DOCUMENTS_MAX: u64 = 32 << 20;

const OCI_LAYOUT: &str = "oci-layout";
const OCI_INDEX: &str = "index.json";
const DOCKER_MANIFEST: &str = "manifest.json";
/// What Docker wrote before 1.10 and nothing else beside.
const DOCKER_REPOSITORIES: &str = "repositories";

/// What a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outer {
    /// A tar, not compressed.
    Tar,
    /// Compressed by gzip.
    Gzip,
    /// Compressed by Zstandard.
    Zstd,
    /// Compressed by xz.
    Xz,
    /// Compressed by bzip2.
    Bzip2,
    /// Nothing of these.
    Unknown,
}

/// Bytes that [`sniff`] wants to see: one header of a tar.
pub const SNIFFED: usize = 512;

/// What a file is, by its first [`SNIFFED`] bytes, or by all of a shorter one.
pub fn sniff(first: &[u8]) -> Outer {
    match (Compression::of(first), first) {
        (Compression::Gzip, _) => Outer::Gzip,
        (Compression::Zstd, _) => Outer::Zstd,
        (_, [0xfd, b'7', b'z', b'X', b'Z', 0, ..]) => Outer::Xz,
        (_, [b'B', b'Z', b'h', b'1'..=b'9', ..]) => Outer::Bzip2,
        _ if tar_index::is_header(first) => Outer::Tar,
        _ => Outer::Unknown,
    }
}

/// An image in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedImage {
    /// What it is called; an image may have no name.
    pub names: Vec<ImageReference>,
    /// Names in an OCI index that are no references: tags, or whatever a tool took.
    pub ref_names: Vec<String>,
    /// Its configuration, as it is stored.
    pub config: Vec<u8>,
    /// Of that.
    pub config_digest: ImageDigest,
    /// Its manifest, as it is stored, and the digest of that; a Docker archive has none.
    pub manifest: Option<(ImageDigest, Vec<u8>)>,
    /// What its configuration says.
    pub parsed: ImageConfig,
    /// Its layers, the lowest first, one for each diff_id.
    pub layers: Vec<ArchivedLayer>,
}

/// A layer in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedLayer {
    /// What the configuration says of its content, unpacked.
    pub diff_id: ImageDigest,
    /// What the archive says of its bytes as they are stored, compressed or not; older archives say nothing.
    pub blob: Option<ImageDigest>,
    /// Those bytes: as many are there, and the archive says no other number.
    pub size: u64,
    /// Where it is in the archive.
    path: String,
}

/// An open archive.
#[derive(Debug)]
pub struct ImageArchive {
    source: Source,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Oci,
    Docker,
}

impl ImageArchive {
    /// Opens a tar, from its first byte whatever the file's offset is. A compressed one is an error that names how
    /// it is compressed ([`ArchiveError::Compressed`]).
    pub fn open(file: File) -> Result<Self, ArchiveError> {
        let mut first = [0; SNIFFED];
        let len = read_up_to(&file, &mut first).map_err(|error| ArchiveError::io("the archive", error))?;
        match sniff(&first[..len]) {
            Outer::Tar => {}
            Outer::Unknown => return Err(ArchiveError::NotTar),
            outer => return Err(ArchiveError::Compressed(outer)),
        }
        let index = TarIndex::new(file)?;
        let has = |name: &str| index.has(name);
        let format = if has(OCI_LAYOUT) && has(OCI_INDEX) {
            Format::Oci
        } else if has(DOCKER_MANIFEST) {
            Format::Docker
        } else if has(DOCKER_REPOSITORIES) {
            return Err(ArchiveError::TooOld);
        } else {
            return Err(ArchiveError::NotImages);
        };
        Ok(Self { source: Source::Tar(index), format })
    }

    /// Opens the directory of an OCI layout.
    pub fn open_layout(directory: OwnedFd) -> Result<Self, ArchiveError> {
        Ok(Self { source: Source::Directory(LayoutDirectory::new(directory)), format: Format::Oci })
    }

    /// The images in it: of those that are there for several platforms, the ones for this. An image that says nothing
    /// about its platform beside its configuration, as all in a Docker archive, is there for every one:
    /// [`ImageConfig::platform`] tells what it is for.
    pub fn images(&self, platform: &Platform) -> Result<Vec<ArchivedImage>, ArchiveError> {
        let mut documents = Documents { source: &self.source, left: DOCUMENTS_MAX };
        let images = match self.format {
            Format::Oci => oci::images(&mut documents, platform)?,
            Format::Docker => docker::images(&mut documents)?,
        };
        if images.is_empty() {
            return Err(ArchiveError::Empty);
        }
        let mut named: Vec<_> = images.iter().flat_map(|image| &image.names).collect();
        named.sort_unstable();
        match named.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(ArchiveError::NameTwice { name: pair[0].to_string() }),
            None => Ok(images),
        }
    }

    /// Opens a layer. Readers do not disturb each other, and may go to other threads.
    pub fn open_layer(&self, layer: &ArchivedLayer) -> Result<BlobReader, ArchiveError> {
        let blob = self.source.needed(&layer.path)?;
        if blob.size() != layer.size {
            let (path, claimed, found) = (layer.path.clone(), layer.size, blob.size());
            return Err(ArchiveError::LyingSize { path, claimed, found });
        }
        Ok(blob)
    }
}

/// A stored blob, read from its first byte to its last.
#[derive(Debug, Clone)]
pub struct BlobReader {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl BlobReader {
    /// Bytes that are still to come, all of them at the beginning.
    pub fn size(&self) -> u64 {
        self.end - self.at
    }
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.size()).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 {
            return Ok(0);
        }
        let len = self.file.read_at(&mut buf[..most], self.at)?;
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive became shorter while it was read"));
        }
        self.at += u64::try_from(len).unwrap_or_default(); // at most what is left
        Ok(len)
    }
}

/// Where blobs are read from.
#[derive(Debug)]
enum Source {
    Tar(TarIndex),
    Directory(LayoutDirectory),
}

impl Source {
    /// The file of this name, which is one of the archive's and has no `..` in it.
    fn find(&self, path: &str) -> Result<Option<BlobReader>, ArchiveError> {
        match self {
            Self::Tar(index) => index.find(path),
            Self::Directory(directory) => directory.find(path),
        }
    }

    fn needed(&self, path: &str) -> Result<BlobReader, ArchiveError> {
        self.find(path)?.ok_or_else(|| ArchiveError::Missing { path: path.to_owned() })
    }
}

/// The documents of an archive, of which not too much is read.
struct Documents<'a> {
    source: &'a Source,
    left: u64,
}

impl Documents<'_> {
    fn read(&mut self, path: &str) -> Result<Vec<u8>, ArchiveError> {
        let mut blob = self.source.needed(path)?;
        if blob.size() > DOCUMENT_MAX {
            return Err(ArchiveError::LargeDocument { path: path.to_owned(), size: blob.size() });
        }
        self.left = self.left.checked_sub(blob.size()).ok_or(ArchiveError::ManyDocuments)?;
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).map_err(|error| ArchiveError::io(path, error))?;
        Ok(bytes)
    }
}

/// The image of these parts, of which the layers came from a list of the archive.
fn image(config: Vec<u8>, config_digest: ImageDigest, layers: Vec<Stored>) -> Result<ArchivedImage, ArchiveError> {
    let parsed = ImageConfig::parse(&config)?;
    if parsed.diff_ids.len() != layers.len() {
        return Err(ArchiveError::LayerCount { layers: layers.len(), diff_ids: parsed.diff_ids.len() });
    }
    let layer = |(stored, diff_id): (Stored, &ImageDigest)| ArchivedLayer {
        diff_id: *diff_id,
        blob: stored.blob,
        size: stored.size,
        path: stored.path,
    };
    let layers = layers.into_iter().zip(&parsed.diff_ids).map(layer).collect();
    let (names, ref_names) = (Vec::new(), Vec::new());
    Ok(ArchivedImage { names, ref_names, config, config_digest, manifest: None, parsed, layers })
}

/// A layer that was found.
struct Stored {
    blob: Option<ImageDigest>,
    size: u64,
    path: String,
}

/// Reads until the buffer is full or the file ends.
fn read_up_to(file: &File, buf: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buf.len() {
        match file.read_at(&mut buf[len..], u64::try_from(len).unwrap_or(u64::MAX)) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
