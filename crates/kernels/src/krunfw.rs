//! libkrunfw, the library that libkrun's guest kernel is in: finding it, and installing it from the
//! PyPI package `microsandbox`, which carries one.

use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::read::elf::{Dyn as _, ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{Object as _, ObjectSymbol as _, ReadCache, elf};
use sandpen_cache::hex;
use sha2::{Digest as _, Sha256};

use crate::{KernelError, store};

/// The environment variable that names it.
pub const ENV: &str = "SANDPEN_KRUNFW";
/// What libkrun 1.x asks the dynamic loader for.
pub const SONAME: &str = "libkrunfw.so.5";
/// What every ELF file begins with.
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
/// The function that gives the kernel.
const KERNEL_SYMBOL: &[u8] = b"krunfw_get_kernel";
/// Where distributions and `make install` put it.
const SYSTEM_DIRS: [&str; 8] = [
    "/usr/local/lib64",
    "/usr/local/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib",
    "/lib64",
    "/lib",
];

/// The package, and what is taken from it; for x86-64.
const WHEEL: &str = "microsandbox==0.7.11";
const WHEEL_SHA256: &str = "65f1e4bbf8d721c9f7f557329fb6c8cf41f554c1c6942eac8b941198fa283fe0";
const MEMBER: &str = "microsandbox/_bundled/lib/libkrunfw.so.5.6.1";
const MEMBER_SHA256: &str = "3854efcd3fe625528fa00207d97586d9790db8c436bb6881a43986604336d18e";

/// What to do about a file that is of no use.
const HINT: &str =
    "run `sandpen kernel install --krunfw` and name no other, or name another one with --krunfw or SANDPEN_KRUNFW";

/// Why libkrunfw cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KrunfwError {
    /// It is nowhere.
    #[error(
        "{SONAME}, the guest kernel of libkrun, is neither in {0:?} nor in the system's library directories; run `sandpen kernel install --krunfw`, or name the file with --krunfw or in {ENV}"
    )]
    NotFound(PathBuf),
    /// It cannot be read.
    #[error("cannot read the libkrunfw {path:?}; {HINT}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It is something else.
    #[error("{path:?} is not libkrunfw: {reason}; {HINT}")]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// Why libkrunfw cannot be had from the package.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// No Python or no pip.
    #[error("python3 with pip is needed to get it; install the package python3-pip (Debian and its derivatives)")]
    NoPip,
    /// A tool could not be run.
    #[error("cannot run python3")]
    Run(#[source] std::io::Error),
    /// A tool failed.
    #[error("{step} failed: {message}")]
    Failed {
        /// What was done.
        step: &'static str,
        /// The end of what it said.
        message: String,
    },
    /// The library is not the one that was tried.
    #[error("{MEMBER} of {WHEEL} is not the file that it should be")]
    Content,
}

/// Where it is installed.
fn place(data_dir: &Path) -> PathBuf {
    data_dir.join("kernel").join(SONAME)
}

/// The installed one, if it is undamaged as far as its headers say. Blocking.
pub fn installed(data_dir: &Path) -> Option<PathBuf> {
    Some(place(data_dir)).filter(|path| check(path).is_ok())
}

/// The one that is named: `explicit`, else what [`ENV`] names; absolute and checked. Blocking.
///
/// # Errors
/// [`KrunfwError`] when that is of no use.
pub fn named(explicit: Option<&Path>) -> Result<Option<PathBuf>, KrunfwError> {
    explicit.map(Path::to_owned).or_else(named_by_environment).map(check_named).transpose()
}

/// What [`ENV`] names, as it is.
pub fn named_by_environment() -> Option<PathBuf> {
    std::env::var_os(ENV).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn check_named(path: PathBuf) -> Result<PathBuf, KrunfwError> {
    let path = std::path::absolute(&path).map_err(|source| KrunfwError::Read { path, source })?;
    check(&path)?;
    Ok(path)
}

/// Finds libkrunfw: the [`named`] one, else the installed one, else the system's. One that is named or
/// installed, but of no use, is an error. Loads nothing. Blocking.
///
/// # Errors
/// [`KrunfwError`].
pub fn find(explicit: Option<&Path>, data_dir: &Path) -> Result<PathBuf, KrunfwError> {
    match named(explicit)? {
        Some(path) => Ok(path),
        None => search(data_dir, &SYSTEM_DIRS.map(Path::new)),
    }
}

fn search(data_dir: &Path, system: &[&Path]) -> Result<PathBuf, KrunfwError> {
    let own = place(data_dir);
    if own.symlink_metadata().is_ok() {
        check(&own)?;
        return Ok(own);
    }
    let system = system.iter().map(|dir| dir.join(SONAME)).find(|path| check(path).is_ok());
    system.ok_or_else(|| KrunfwError::NotFound(data_dir.to_owned()))
}

/// Whether this is libkrunfw, by its ELF headers.
fn check(path: &Path) -> Result<(), KrunfwError> {
    let read = |source| KrunfwError::Read { path: path.to_owned(), source };
    let wrong = |reason: &str| KrunfwError::Wrong { path: path.to_owned(), reason: reason.to_owned() };
    // Never waits, as a FIFO would.
    let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(read)?;
    let meta = file.metadata().map_err(read)?;
    if !meta.is_file() {
        return Err(wrong("it is no regular file"));
    }
    let mut start = Vec::new();
    (&file).take(ELF_MAGIC.len() as u64).read_to_end(&mut start).map_err(read)?;
    if start != ELF_MAGIC {
        return Err(wrong("it is no ELF file"));
    }
    let cache = ReadCache::new(file);
    let file = ElfFile64::<object::Endianness, _>::parse(&cache)
        .map_err(|_| wrong("it is no ELF file of 64 bits, or it is cut off or damaged"))?;
    let machine = if cfg!(target_arch = "aarch64") { elf::EM_AARCH64 } else { elf::EM_X86_64 };
    let endian = file.endian();
    if file.elf_header().e_machine(endian) != machine {
        return Err(wrong("it is for another kind of processor"));
    }
    let segments = file.elf_program_headers().iter();
    if segments
        .map(|segment| segment.p_offset(endian).saturating_add(segment.p_filesz(endian)))
        .any(|end| end > meta.len())
    {
        return Err(wrong("it is cut off"));
    }
    let soname = || -> Option<Vec<u8>> {
        let (entries, strings) = file.elf_section_table().dynamic(endian, &cache).ok()??;
        let strings = file.elf_section_table().strings(endian, &cache, strings).ok()?;
        let entry = entries.iter().find(|entry| entry.tag(endian) == elf::DT_SONAME)?;
        entry.string(endian, strings).ok().map(<[u8]>::to_vec)
    };
    if soname().as_deref() != Some(SONAME.as_bytes()) {
        return Err(wrong(&format!("its name (DT_SONAME) is not {SONAME}")));
    }
    let has_kernel = file
        .dynamic_symbols()
        .any(|symbol| symbol.is_definition() && symbol.name_bytes().is_ok_and(|name| name == KERNEL_SYMBOL));
    if has_kernel { Ok(()) } else { Err(wrong("it holds no kernel")) }
}

/// Installs libkrunfw below the data directory: `file`, or the one of the PyPI package when `None`.
/// Takes seconds: not for an arbiter thread.
///
/// # Errors
/// [`KernelError`]; what was installed before is unchanged then.
pub fn install(data_dir: &Path, file: Option<&Path>) -> Result<PathBuf, KernelError> {
    let store = store::Store::lock(data_dir)?;
    let work = store.temporary()?;
    let source = match file {
        Some(file) => file.to_owned(),
        None if std::env::consts::ARCH != "x86_64" => {
            return Err(KernelError::Architecture(std::env::consts::ARCH));
        }
        None => fetch(work.path())?,
    };
    check(&source)?;
    let bytes = fs::read(&source).map_err(|error| KrunfwError::Read { path: source, source: error })?;
    let target = place(data_dir);
    store::write_whole(&target, &bytes)?;
    check(&target)?;
    tracing::info!(path = ?target, "libkrunfw installed");
    Ok(target)
}

/// Downloads and unpacks the package below `work`; the library's path.
fn fetch(work: &Path) -> Result<PathBuf, WheelError> {
    let requirements = work.join("requirements.txt");
    fs::write(&requirements, format!("{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")).map_err(WheelError::Run)?;
    tracing::info!(package = WHEEL, "downloading");
    // The wheel's tags, so that any version of Python on any distribution gets it.
    let tags = ["--platform=manylinux_2_28_x86_64", "--python-version=3.10", "--implementation=cp", "--abi=abi3"];
    let mut download = Command::new("python3");
    download.args(["-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet", "--no-deps"]);
    download.args(["--only-binary=:all:", "--require-hashes"]).args(tags).arg("-d").arg(work);
    python("downloading the PyPI package microsandbox", download.arg("-r").arg(&requirements))?;
    let wheel = fs::read_dir(work)
        .map_err(WheelError::Run)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or(WheelError::Content)?;
    let root = work.join("root");
    let mut unpack = Command::new("python3");
    python("unpacking the PyPI package microsandbox", unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&root))?;
    let library = root.join(MEMBER);
    let bytes = fs::read(&library).map_err(|_| WheelError::Content)?;
    if hex(&Sha256::digest(bytes)) == MEMBER_SHA256 { Ok(library) } else { Err(WheelError::Content) }
}

fn python(step: &'static str, command: &mut Command) -> Result<(), WheelError> {
    let output = command.stdin(Stdio::null()).env("LC_ALL", "C").output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => WheelError::NoPip,
        _ => WheelError::Run(error),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("No module named pip") {
        return Err(WheelError::NoPip);
    }
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(WheelError::Failed { step, message: last.trim().to_owned() })
}

#[cfg(test)]
#[path = "krunfw_tests.rs"]
mod tests;
