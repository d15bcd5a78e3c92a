//! Finds the modules that a guest needs among all those of a kernel, in loading order.
//!
//! Dependencies are read from the modules themselves (`depends=` in their `.modinfo` section):
//! an unpacked package has no `modules.dep`, that file is made when the package is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _};

use crate::compression::{self, CompressionError};

/// Modules that machines themselves need: the virtio transport, ports and shared directories, networks, what disk
/// images as rootfs and writable layers need, what gives memory back, and KVM for microVMs inside of guests. The second
/// field says whether a kernel without it is of no use.
const WANTED: [(&str, bool); 12] = [
    ("virtio_mmio", true),
    ("virtio_console", true),
    ("virtiofs", true),
    ("virtio_net", false),
    ("virtio_blk", false),
    ("overlay", false),
    // What ext4's checksums are made with; later kernels have it built in under another name.
    ("crc32c_generic", false),
    ("ext4", false),
    ("erofs", false),
    ("virtio_balloon", false),
    ("kvm_amd", false),
    ("kvm_intel", false),
];

/// Modules that a workload may want, small ones: the kernel asks for them by their aliases when something needs them.
pub const ON_DEMAND: [&str; 4] = ["tun", "loop", "dummy", "veth"];

/// Those that are of use together with a network alone, or large: containers, firewalls and VPNs in a guest.
pub const ON_DEMAND_NETWORK: [&str; 29] = [
    "overlay",
    "bridge",
    "br_netfilter",
    "macvlan",
    "wireguard",
    "iptable_filter",
    "iptable_nat",
    "iptable_mangle",
    "iptable_raw",
    "ip6table_filter",
    "ip6table_nat",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_MASQUERADE",
    "xt_multiport",
    "xt_nat",
    "xt_tcpudp",
    "ipt_REJECT",
    "nf_conntrack_netlink",
    "nf_tables",
    "nft_chain_nat",
    "nft_compat",
    "nft_ct",
    "nft_masq",
    "nft_nat",
    "nft_reject_inet",
    "nf_log_syslog",
];

/// All names above, which an install looks for, each with whether a kernel without it is of no use.
fn wanted() -> impl Iterator<Item = (&'static str, bool)> {
    WANTED.into_iter().chain(ON_DEMAND.into_iter().chain(ON_DEMAND_NETWORK).map(|name| (name, false)))
}

/// The names that an install looks for.
pub(crate) fn wanted_names() -> impl Iterator<Item = &'static str> {
    wanted().map(|(name, _)| name)
}

/// Deepest directory level that is searched; a distribution's tree has 8.
const DEPTH_MAX: usize = 16;

/// Why the modules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// A file or directory cannot be read.
    #[error("cannot read {path:?}; --modules takes a kernel's directory such as /lib/modules/VERSION")]
    Read {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A module that guests need is neither a file nor built in.
    #[error("module {name} is neither in {directory:?} nor built into the kernel; give the directory of this kernel")]
    Missing {
        /// The module.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A module cannot be unpacked.
    #[error("cannot unpack module {path:?}")]
    Unpack {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: CompressionError,
    },
    /// A file with a module's name that is none.
    #[error("{path:?} is not a kernel module: {reason}")]
    NotAModule {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It belongs to another kernel.
    #[error("module {path:?} is for kernel {found}, the kernel is {kernel}; give the modules of this kernel")]
    Version {
        /// The file.
        path: PathBuf,
        /// What the module says.
        found: String,
        /// The kernel's version.
        kernel: String,
    },
    /// Modules that depend on each other in a circle.
    #[error("module {0} depends on itself")]
    Circle(String),
}

/// One module, unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name with `_`, as the kernel knows it.
    pub name: String,
    /// Modules that must be loaded before, built-in ones left out.
    pub depends: Vec<String>,
    /// By which the kernel asks for it, besides its name; `*` stands for anything.
    pub aliases: Vec<String>,
    /// The ELF file.
    pub bytes: Vec<u8>,
}

/// The modules that guests use and all that they depend on, each after what it depends on, and the names of
/// those that are built in.
///
/// # Errors
/// [`ModulesError`].
pub fn collect(directory: &Path, kernel_version: &str) -> Result<(Vec<Module>, Vec<String>), ModulesError> {
    let mut search = Search {
        directory,
        kernel_version,
        files: index(directory)?,
        builtin: builtin(directory)?,
        found: Vec::new(),
        open: BTreeSet::new(),
    };
    for (name, required) in wanted() {
        match search.add(name) {
            Err(ModulesError::Missing { name: missing, .. }) if !required => {
                tracing::info!(module = name, missing, "the kernel has no such module; guests do without");
            }
            other => other?,
        }
    }
    let builtin = wanted_names().filter(|name| search.builtin.contains(*name)).map(str::to_owned).collect();
    Ok((search.found, builtin))
}

struct Search<'a> {
    directory: &'a Path,
    kernel_version: &'a str,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    found: Vec<Module>,
    /// Modules whose dependencies are being looked at.
    open: BTreeSet<String>,
}

impl Search<'_> {
    fn add(&mut self, name: &str) -> Result<(), ModulesError> {
        if self.builtin.contains(name) || self.found.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let path = self
            .files
            .get(name)
            .cloned()
            .ok_or_else(|| ModulesError::Missing { name: name.to_owned(), directory: self.directory.to_owned() })?;
        if !self.open.insert(name.to_owned()) {
            return Err(ModulesError::Circle(name.to_owned()));
        }
        let bytes = read_module(&path)?;
        let info = modinfo(&bytes, &path)?;
        if info.version != self.kernel_version {
            return Err(ModulesError::Version { path, found: info.version, kernel: self.kernel_version.to_owned() });
        }
        for dependency in &info.depends {
            self.add(dependency)?;
        }
        self.open.remove(name);
        let depends = info.depends.into_iter().filter(|dependency| !self.builtin.contains(dependency)).collect();
        self.found.push(Module { name: name.to_owned(), depends, aliases: info.aliases, bytes });
        Ok(())
    }
}

/// The kernel takes `-` and `_` in a module's name for the same.
fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

/// `virtio_mmio` for `virtio_mmio.ko`, `virtio-mmio.ko.xz` and the like.
fn module_name(file_name: &str) -> Option<String> {
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|suffix| file_name.strip_suffix(suffix))?;
    Some(normalise(stem))
}

fn index(directory: &Path) -> Result<BTreeMap<String, PathBuf>, ModulesError> {
    let mut files = BTreeMap::new();
    let mut pending = vec![(directory.to_owned(), 0)];
    while let Some((path, depth)) = pending.pop() {
        let failed = |source| ModulesError::Read { path: path.clone(), source };
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Not through symlinks: `build` and `source` lead to whole source trees.
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() && depth < DEPTH_MAX {
                pending.push((entry.path(), depth + 1));
            } else if kind.is_file()
                && let Some(name) = entry.file_name().to_str().and_then(module_name)
            {
                files.insert(name, entry.path());
            }
        }
    }
    Ok(files)
}

fn builtin(directory: &Path) -> Result<BTreeSet<String>, ModulesError> {
    let path = directory.join("modules.builtin");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|line| module_name(line.rsplit('/').next()?)).collect()),
        // A kernel without any: then every module has to be a file.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(source) => Err(ModulesError::Read { path, source }),
    }
}

fn read_module(path: &Path) -> Result<Vec<u8>, ModulesError> {
    let bytes = std::fs::read(path).map_err(|source| ModulesError::Read { path: path.to_owned(), source })?;
    match compression::detect(&bytes) {
        None => Ok(bytes),
        Some(format) => compression::decompress(&bytes, format, 0)
            .map_err(|source| ModulesError::Unpack { path: path.to_owned(), source }),
    }
}

struct ModInfo {
    version: String,
    depends: Vec<String>,
    aliases: Vec<String>,
}

/// Aliases are lines of a file that guests read; longest that is kept. Linux's own have some 40 bytes.
const ALIAS_MAX: usize = 256;

pub(crate) fn is_alias(text: &str) -> bool {
    (1..=ALIAS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Reads `.modinfo`: NUL-terminated `key=value` strings (Linux `include/linux/moduleparam.h`).
fn modinfo(bytes: &[u8], path: &Path) -> Result<ModInfo, ModulesError> {
    let refused = |reason: &str| ModulesError::NotAModule { path: path.to_owned(), reason: reason.to_owned() };
    let file = object::File::parse(bytes).map_err(|e| refused(&e.to_string()))?;
    if file.architecture() != object::Architecture::X86_64 {
        return Err(refused("it is not for x86-64"));
    }
    let section = file.section_by_name(".modinfo").ok_or_else(|| refused("it has no section .modinfo"))?;
    let data = section.data().map_err(|e| refused(&e.to_string()))?;
    let text = String::from_utf8_lossy(data);
    let values = |key: &'static str| text.split('\0').filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='));
    let value = |key| values(key).next();
    let version = value("vermagic").and_then(|magic| magic.split(' ').next());
    let depends = value("depends").unwrap_or_default();
    Ok(ModInfo {
        version: version.ok_or_else(|| refused("it has no vermagic"))?.to_owned(),
        depends: depends.split(',').filter(|name| !name.is_empty()).map(normalise).collect(),
        aliases: values("alias").filter(|alias| is_alias(alias)).map(str::to_owned).collect(),
    })
}

#[cfg(test)]
#[path = "modules_tests.rs"]
mod tests;
