//! What is loaded: OCI layouts of one layer and of twenty, made of files of this host's `/usr`, and layers with very many
//! empty files. Which files they are depends on their names alone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::Hasher as _;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Result;

/// Where the files come from, and the largest that is taken.
const SOURCE: &str = "/usr";
const FILE_MAX: u64 = 4 << 20;
/// Bytes of a file on average: a large one is taken where the others are smaller, and the other way round.
const MEAN: u64 = 36 << 10;
/// The tag of every image.
pub const TAG: &str = "bench";

/// Files of the host, in an order that says nothing about them.
pub struct Files {
    left: std::vec::IntoIter<(PathBuf, u64)>,
}

impl Files {
    /// All that there are.
    pub fn find() -> Result<Self> {
        let (mut files, mut left) = (Vec::new(), vec![PathBuf::from(SOURCE)]);
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                let (path, kind) = (entry.path(), entry.file_type()?);
                if kind.is_dir() {
                    left.push(path);
                } else if kind.is_file() {
                    let bytes = entry.metadata()?.len();
                    // One that we may not read is no use.
                    if (1..=FILE_MAX).contains(&bytes) && File::open(&path).is_ok() {
                        files.push((path, bytes));
                    }
                }
            }
        }
        files.sort_by_cached_key(|(path, _)| {
            // Always the same one.
            let mut hasher = std::hash::DefaultHasher::new();
            hasher.write(path.as_os_str().as_bytes());
            (hasher.finish(), path.clone())
        });
        Ok(Self { left: files.into_iter() })
    }

    /// The next ones, so many that they have these bytes together; none where there are no more.
    pub fn take(&mut self, bytes: u64) -> Vec<PathBuf> {
        let (mut taken, mut sum) = (Vec::new(), 0);
        for (path, size) in self.left.by_ref() {
            if (size > MEAN) == (sum > taken.len() as u64 * MEAN) && !taken.is_empty() {
                continue;
            }
            taken.push(path);
            sum += size;
            if sum >= bytes {
                break;
            }
        }
        taken
    }
}

/// A copy of the files below `root`, at their own paths.
pub fn copy(files: &[PathBuf], root: &Path) -> Result<()> {
    for file in files {
        let to = root.join(file.strip_prefix("/")?);
        fs::create_dir_all(to.parent().ok_or("no parent")?)?;
        fs::copy(file, to)?;
    }
    Ok(())
}

/// A layer of a layout.
pub struct Layer {
    diff_id: String,
    digest: String,
    bytes: u64,
}

/// The directory of an OCI layout, in the making.
pub struct Layout {
    directory: PathBuf,
}

impl Layout {
    /// An empty one.
    pub fn new(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(directory.join("blobs/sha256"))?;
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self { directory })
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest)
    }

    /// A layer packed with gzip; `write` gives its archive.
    pub fn layer(&self, level: u32, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Layer> {
        let temporary = tempfile::NamedTempFile::new_in(&self.directory)?;
        let packed = io::BufWriter::with_capacity(1 << 20, Hashing::new(temporary.reopen()?));
        let mut archive = Hashing::new(GzEncoder::new(packed, Compression::new(level)));
        write(&mut archive)?;
        let Hashing { inner, hash, .. } = archive;
        let Hashing { hash: packed, bytes, .. } =
            inner.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        let layer = Layer { diff_id: hex(hash), digest: hex(packed), bytes };
        temporary.persist(self.blob(&layer.digest))?;
        Ok(layer)
    }

    fn document(&self, document: &serde_json::Value) -> Result<(String, usize)> {
        let text = serde_json::to_vec(document)?;
        let digest = hex(Sha256::new_with_prefix(&text));
        fs::write(self.blob(&digest), &text)?;
        Ok((digest, text.len()))
    }

    /// The layout with its one image.
    pub fn finish(self, layers: &[Layer]) -> Result<Image> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let digest = |digest: &str| format!("sha256:{digest}");
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(&layer.diff_id)).collect();
        let (config, config_bytes) = self.document(&json!({
            "architecture": architecture, "os": "linux", "config": { "Cmd": ["/bin/sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }))?;
        let descriptor = |kind: &str, hex: &str, bytes: u64| json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(hex), "size": bytes });
        let descriptors: Vec<_> =
            layers.iter().map(|layer| descriptor("layer.v1.tar+gzip", &layer.digest, layer.bytes)).collect();
        let (manifest, manifest_bytes) = self.document(&json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", &config, config_bytes as u64), "layers": descriptors,
        }))?;
        let mut manifest = descriptor("manifest.v1+json", &manifest, manifest_bytes as u64);
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": TAG });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(self.directory.join("index.json"), serde_json::to_vec(&index)?)?;
        let layers = layers.iter().map(|layer| self.blob(&layer.digest)).collect();
        Ok(Image { directory: self.directory, layers })
    }
}

/// An image that can be loaded.
pub struct Image {
    /// Its layout.
    pub directory: PathBuf,
    /// Its layers, packed.
    pub layers: Vec<PathBuf>,
}

/// Hashes and counts what goes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The archive of these files, with the directories on their way; paths are below `base`. With none, of all below it.
pub fn archive(base: &Path, files: &[PathBuf], out: &mut dyn Write) -> Result<()> {
    let mut names = BTreeSet::new();
    for file in files {
        names.extend(file.strip_prefix(base)?.ancestors().filter(|path| !path.as_os_str().is_empty()));
    }
    let mut list = tempfile::NamedTempFile::new()?;
    let texts: Vec<_> = names.iter().map(|path| path.as_os_str().as_bytes()).collect();
    list.write_all(&texts.join(&0))?;
    let mut tar = Command::new("tar");
    tar.args(["--create", "--format=gnu", "--sort=name", "--numeric-owner", "--owner=0", "--group=0", "--mtime=@0"]);
    tar.arg("--directory").arg(base);
    if files.is_empty() {
        tar.arg(".");
    } else {
        tar.args(["--no-recursion", "--null", "--files-from"]).arg(list.path());
    }
    let mut tar = tar.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let copied = io::copy(tar.stdout.as_mut().ok_or("no stdout")?, out);
    drop(tar.stdout.take());
    let status = tar.wait()?;
    copied?;
    if status.success() { Ok(()) } else { Err(format!("tar ended with {status}").into()) }
}

/// The archive of `directories` with `files` empty files each.
pub fn crowd(directories: usize, files: usize, out: &mut dyn Write) -> Result<()> {
    for directory in 0..directories {
        out.write_all(&header(&format!("d{directory:04}/"), b'5'))?;
        for file in 0..files {
            out.write_all(&header(&format!("d{directory:04}/entry-{file:07}"), b'0'))?;
        }
    }
    Ok(out.write_all(&[0; 1024])?)
}

/// A header of POSIX's `ustar` of something without contents.
fn header(name: &str, kind: u8) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000755");
    // Owner, group, bytes and time.
    for (at, digits) in [(108, 7), (116, 7), (124, 11), (136, 11)] {
        put(at, &b"00000000000"[..digits]);
    }
    // What a checksum counts in its own place.
    put(148, &[b' '; 8]);
    put(156, &[kind]);
    put(257, b"ustar");
    put(263, b"00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// Whether a program is in the path.
pub fn is_installed(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|directory| directory.join(OsStr::new(program)).is_file())
}
