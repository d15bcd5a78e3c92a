//! What an installed kernel consists of, as `manifest.json` beside its files.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use sandpen_cache::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::modules;

/// The manifest's file name.
pub(crate) const FILE_NAME: &str = "manifest.json";
/// Version of the manifest's format; a reader takes no other.
const FORMAT: u32 = 1;
/// A manifest is some kilobytes; what is larger is none.
const SIZE_MAX: u64 = 1 << 20;

/// Why an installed kernel cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The manifest cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The manifest is not understood.
    #[error("{path:?} is not a manifest that this version understands")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// It holds a version or a name that no install writes.
    #[error("the manifest holds {0:?}, which no install writes")]
    Content(String),
    /// A file is missing or changed.
    #[error("{path:?} has {found:?} bytes, {recorded} were installed")]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size now; `None` if it is not there.
        found: Option<u64>,
        /// Its size when installed.
        recorded: u64,
    },
}

/// How the origin of a kernel begins that was fetched from Debian's archive…
pub(crate) const OF_PACKAGE: &str = "package ";
/// …and of one that was installed from files.
pub(crate) const OF_FILES: &str = "files ";
/// How versions of Debian's cloud kernels end.
const DEBIANS: &str = "-cloud-amd64";

/// A file by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
}

impl FileRecord {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { size: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) }
    }

    /// Whether `bytes` are this file's.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        *self == Self::of(bytes)
    }
}

/// A module as installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledModule {
    /// Its name, with `_`; the file is `modules/<name>.ko`.
    pub name: String,
    /// Modules that must be loaded before.
    pub depends: Vec<String>,
    /// By which the kernel asks for it, besides its name; `*` stands for anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Its content.
    pub file: FileRecord,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of this file.
    format: u32,
    /// The kernel's version.
    pub version: String,
    /// Where it came from, for people; its first word tells a package from files.
    pub origin: String,
    /// The unpacked kernel.
    pub vmlinux: FileRecord,
    /// In loading order.
    pub modules: Vec<InstalledModule>,
    /// Those of [`wanted`](Self::wanted) that the kernel itself holds.
    #[serde(default)]
    pub builtin: Vec<String>,
    /// Names of all modules that the install looked for; empty of one that an older sandpen made.
    #[serde(default)]
    pub wanted: Vec<String>,
}

impl Manifest {
    pub(crate) fn new(
        version: String,
        origin: String,
        vmlinux: FileRecord,
        modules: Vec<InstalledModule>,
        builtin: Vec<String>,
    ) -> Self {
        let wanted = modules::wanted_names().map(str::to_owned).collect();
        Self { format: FORMAT, version, origin, vmlinux, modules, builtin, wanted }
    }

    /// Whether both describe the same files, wherever they came from.
    pub(crate) fn same_files(&self, other: &Self) -> bool {
        self.version == other.version
            && self.vmlinux == other.vmlinux
            && self.modules == other.modules
            && self.builtin == other.builtin
            && self.wanted == other.wanted
    }

    fn read(path: &Path) -> Result<Self, ManifestError> {
        let failed = |source| ManifestError::Read { path: path.to_owned(), source };
        let mut text = Vec::new();
        std::fs::File::open(path).and_then(|file| file.take(SIZE_MAX).read_to_end(&mut text)).map_err(failed)?;
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|source| ManifestError::Parse { path: path.to_owned(), source })?;
        if manifest.format != FORMAT {
            return Err(ManifestError::Content(format!("format {}", manifest.format)));
        }
        if !crate::kernel_file::is_version(&manifest.version) {
            return Err(ManifestError::Content(manifest.version));
        }
        // Module names become paths.
        if let Some(module) = manifest.modules.iter().find(|module| !is_module_name(&module.name)) {
            return Err(ManifestError::Content(module.name.clone()));
        }
        // Aliases become lines.
        let mut aliases = manifest.modules.iter().flat_map(|module| &module.aliases);
        match aliases.find(|alias| !modules::is_alias(alias)) {
            Some(alias) => Err(ManifestError::Content(alias.clone())),
            None => Ok(manifest),
        }
    }
}

fn is_module_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A kernel lacks a driver: it was built without, or an older sandpen installed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the guest kernel {version} was installed without its module {name}; run `sandpen kernel install` again, or take a \
     kernel that has it"
)]
pub struct ModuleMissing {
    name: String,
    version: String,
}

/// A kernel that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledKernel {
    directory: PathBuf,
    manifest: Manifest,
}

impl InstalledKernel {
    /// Reads and checks an installed kernel's directory.
    pub(crate) fn open(directory: PathBuf) -> Result<Self, ManifestError> {
        let manifest = Manifest::read(&directory.join(FILE_NAME))?;
        let kernel = Self { directory, manifest };
        check_size(&kernel.vmlinux(), &kernel.manifest.vmlinux)?;
        for module in &kernel.manifest.modules {
            check_size(&kernel.module_path(module), &module.file)?;
        }
        Ok(kernel)
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// For example `6.1.0-49-cloud-amd64`.
    pub fn version(&self) -> &str {
        &self.manifest.version
    }

    /// The unpacked kernel.
    pub fn vmlinux(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// What it consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where a module of its manifest lies.
    pub fn module_path(&self, module: &InstalledModule) -> PathBuf {
        self.directory.join("modules").join(format!("{}.ko", module.name))
    }

    /// Whether it has a module, as a file or built in.
    ///
    /// # Errors
    /// [`ModuleMissing`].
    pub fn check_has(&self, name: &str) -> Result<(), ModuleMissing> {
        let manifest = &self.manifest;
        let has = manifest.modules.iter().any(|module| module.name == name);
        if has || manifest.builtin.iter().any(|builtin| builtin == name) {
            return Ok(());
        }
        Err(ModuleMissing { name: name.to_owned(), version: manifest.version.clone() })
    }

    /// Whether it was fetched from Debian's archive, and not installed from files. Where nothing is recorded, its version
    /// tells.
    pub fn is_fetched(&self) -> bool {
        let Manifest { origin, version, .. } = &self.manifest;
        origin.starts_with(OF_PACKAGE) || (!origin.starts_with(OF_FILES) && version.ends_with(DEBIANS))
    }

    /// Modules for guests that the install did not look for: a newer sandpen has learned to use them since.
    pub fn not_looked_for(&self) -> Vec<&'static str> {
        let looked_for = |name: &str| self.manifest.wanted.iter().any(|wanted| wanted == name);
        modules::wanted_names().filter(|name| !looked_for(name) && self.check_has(name).is_err()).collect()
    }

    /// These modules and those they depend on, in loading order. Names that are built in (or that
    /// this kernel does not have) are passed over.
    pub fn modules_for(&self, names: &[&str]) -> Vec<&InstalledModule> {
        let mut wanted: Vec<&str> = names.to_vec();
        // A module's dependencies come before it, so one pass from the end finds them all.
        for module in self.manifest.modules.iter().rev() {
            if wanted.contains(&module.name.as_str()) {
                wanted.extend(module.depends.iter().map(String::as_str));
            }
        }
        self.manifest.modules.iter().filter(|module| wanted.contains(&module.name.as_str())).collect()
    }
}

fn check_size(path: &Path, record: &FileRecord) -> Result<(), ManifestError> {
    let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
    if found == Some(record.size) {
        Ok(())
    } else {
        Err(ManifestError::Size { path: path.to_owned(), found, recorded: record.size })
    }
}
