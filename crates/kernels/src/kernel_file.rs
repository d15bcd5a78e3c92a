//! Turns a kernel's file into the uncompressed `vmlinux` that QEMU boots through its PVH entry.
//!
//! A bzImage is a real-mode header with a compressed ELF file behind it; where it lies is in the
//! header (<https://docs.kernel.org/arch/x86/boot.html>, fields `payload_offset` and
//! `payload_length`, protocol 2.08 and later). Booting the ELF file saves the guest the unpacking,
//! which under emulation is a second.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use object::elf::{EM_X86_64, FileHeader64, NoteType, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, FileKind};

use crate::compression::{self, Compression, CompressionError};

/// ELF note of the 32-bit entry point (`XEN_ELFNOTE_PHYS32_ENTRY`, Linux `include/xen/interface/elfnote.h`).
const PVH_NOTE_NAME: &[u8] = b"Xen";
const PVH_NOTE_TYPE: NoteType = NoteType(18);

/// Largest file that is read: a `vmlinux` with all its debug information has less than 1 GiB.
const FILE_MAX_BYTES: u64 = 2 << 30;

/// Bytes that tell what a file is.
const HEADER_BYTES: u64 = 4096;

const HINT: &str = "give the bzImage or vmlinux of an x86-64 Linux kernel, for example /boot/vmlinuz-VERSION";

/// Why a file cannot be used as a kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelFileError {
    /// It cannot be read.
    #[error("cannot read the kernel {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It is something else.
    #[error("{path:?} is not a Linux kernel; {HINT}")]
    NotAKernel {
        /// The file.
        path: PathBuf,
    },
    /// It is a kernel of another architecture.
    #[error("{path:?} is a kernel for {found}, this host is x86-64; {HINT}")]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What it is for.
        found: String,
    },
    /// It ends before its header says.
    #[error("{path:?} is cut off: {have} bytes of {needed}; copy or download it again")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that its header speaks of.
        needed: u64,
        /// Bytes there are.
        have: u64,
    },
    /// A bzImage older than Linux 2.6.26.
    #[error("{path:?} speaks boot protocol {}.{:02}, 2.08 is the least; {HINT}", version >> 8, version & 0xff)]
    BootProtocol {
        /// The file.
        path: PathBuf,
        /// Protocol version, major in the upper byte.
        version: u16,
    },
    /// The payload's compression is not one that can be undone here.
    #[error(
        "the payload of {path:?} is packed in a way that is not supported; unpack it with the kernel's \
         scripts/extract-vmlinux and give that file"
    )]
    Compression {
        /// The file.
        path: PathBuf,
    },
    /// The payload cannot be unpacked.
    #[error("cannot unpack the kernel {path:?}; if it is whole, unpack it with the kernel's scripts/extract-vmlinux")]
    Unpack {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: CompressionError,
    },
    /// There is no PVH entry point.
    #[error("{path:?} was built without CONFIG_PVH, which QEMU needs to boot it; use a distribution's cloud kernel")]
    NoPvhNote {
        /// The file.
        path: PathBuf,
    },
    /// It does not say which version it is.
    #[error("{path:?} does not say which Linux version it is; {HINT}")]
    NoVersion {
        /// The file.
        path: PathBuf,
    },
}

/// An unpacked kernel.
#[derive(Debug)]
pub struct UnpackedKernel {
    /// The ELF file.
    pub vmlinux: Vec<u8>,
    /// For example `6.1.0-49-cloud-amd64`.
    pub version: String,
    /// Whether it has a PVH entry point, through which QEMU boots it.
    pub pvh: bool,
}

/// What a file begins as.
enum Kind {
    Elf,
    BzImage,
    Arm64Image,
}

/// By the magic numbers, all within the first [`HEADER_BYTES`].
fn kind(start: &[u8]) -> Option<Kind> {
    if start.starts_with(b"\x7fELF") {
        Some(Kind::Elf)
    } else if start.get(0x38..0x3c) == Some(b"ARM\x64") {
        Some(Kind::Arm64Image)
    } else if start.get(0x202..0x206) == Some(b"HdrS") {
        Some(Kind::BzImage)
    } else {
        None
    }
}

/// Reads and unpacks a bzImage or an ELF `vmlinux`.
///
/// # Errors
/// [`KernelFileError`]: every way in which the file is not a kernel that boots here.
pub fn read(path: &Path) -> Result<UnpackedKernel, KernelFileError> {
    let failed = |source| KernelFileError::Read { path: path.to_owned(), source };
    // Never waits, as a FIFO would.
    let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    // A device has no end, and reading a directory says better itself what is wrong.
    if (!meta.is_file() && !meta.is_dir()) || meta.len() > FILE_MAX_BYTES {
        return Err(KernelFileError::NotAKernel { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    let mut start = (&file).take(HEADER_BYTES);
    start.read_to_end(&mut bytes).map_err(failed)?;
    if kind(&bytes).is_none() {
        // Without a look at the rest, which may be much.
        return Err(KernelFileError::NotAKernel { path: path.to_owned() });
    }
    file.take(FILE_MAX_BYTES - HEADER_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    unpack(bytes, path)
}

/// [`read`] for bytes; `path` is for messages.
///
/// # Errors
/// As [`read`].
pub fn unpack(bytes: Vec<u8>, path: &Path) -> Result<UnpackedKernel, KernelFileError> {
    let not_a_kernel = || KernelFileError::NotAKernel { path: path.to_owned() };
    let vmlinux = match kind(&bytes).ok_or_else(not_a_kernel)? {
        Kind::Elf => bytes,
        Kind::Arm64Image => {
            return Err(KernelFileError::Architecture { path: path.to_owned(), found: "aarch64".to_owned() });
        }
        Kind::BzImage => unpack_payload(&bytes, path)?,
    };
    let pvh = check_elf(&vmlinux, path)?;
    match (version_of(&vmlinux), pvh) {
        (Some(version), pvh) => Ok(UnpackedKernel { vmlinux, version, pvh }),
        (None, true) => Err(KernelFileError::NoVersion { path: path.to_owned() }),
        // Any program is an ELF file for this machine.
        (None, false) => Err(not_a_kernel()),
    }
}

fn unpack_payload(bytes: &[u8], path: &Path) -> Result<Vec<u8>, KernelFileError> {
    let truncated =
        |needed: u64| KernelFileError::Truncated { path: path.to_owned(), needed, have: bytes.len() as u64 };
    let u16_at = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let u32_at = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let header = (bytes.get(0x1f1), u16_at(0x206), u32_at(0x248), u32_at(0x24c));
    let (Some(&setup_sectors), Some(version), Some(offset), Some(length)) = header else {
        return Err(truncated(0x250));
    };
    if version < 0x0208 {
        return Err(KernelFileError::BootProtocol { path: path.to_owned(), version });
    }
    // 0 means 4, for compatibility with the oldest loaders.
    let setup = (if setup_sectors == 0 { 4 } else { u64::from(setup_sectors) } + 1) * 512;
    let start = setup + u64::from(offset);
    let end = start + u64::from(length);
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    let payload = range.and_then(|(start, end)| bytes.get(start..end)).ok_or_else(|| truncated(end))?;
    let format = compression::detect(payload).ok_or_else(|| KernelFileError::Compression { path: path.to_owned() })?;
    let trailer = if format == Compression::Gzip { 0 } else { 4 };
    compression::decompress(payload, format, trailer)
        .map_err(|source| KernelFileError::Unpack { path: path.to_owned(), source })
}

/// Whether it has a PVH entry point, if it can be a kernel at all.
fn check_elf(vmlinux: &[u8], path: &Path) -> Result<bool, KernelFileError> {
    let not_a_kernel = || KernelFileError::NotAKernel { path: path.to_owned() };
    let architecture = |found: String| KernelFileError::Architecture { path: path.to_owned(), found };
    match FileKind::parse(vmlinux) {
        Ok(FileKind::Elf64) => {}
        Ok(FileKind::Elf32) => return Err(architecture("a 32-bit machine".to_owned())),
        _ => return Err(not_a_kernel()),
    }
    let header = FileHeader64::<Endianness>::parse(vmlinux).map_err(|_| not_a_kernel())?;
    let endian = header.endian().map_err(|_| not_a_kernel())?;
    match header.e_machine(endian) {
        EM_X86_64 => {}
        object::elf::EM_AARCH64 => return Err(architecture("aarch64".to_owned())),
        other => return Err(architecture(format!("ELF machine {}", other.0))),
    }
    let segments = header.program_headers(endian, vmlinux).map_err(|_| not_a_kernel())?;
    let have = vmlinux.len() as u64;
    let mut pvh = false;
    for segment in segments {
        let needed = segment.p_offset(endian).saturating_add(segment.p_filesz(endian));
        if needed > have {
            return Err(KernelFileError::Truncated { path: path.to_owned(), needed, have });
        }
        if segment.p_type(endian) == PT_NOTE
            && let Ok(Some(mut notes)) = segment.notes(endian, vmlinux)
        {
            while let Ok(Some(note)) = notes.next() {
                pvh |= note.name() == PVH_NOTE_NAME && note.n_type(endian) == PVH_NOTE_TYPE;
            }
        }
    }
    if !segments.iter().any(|segment| segment.p_type(endian) == PT_LOAD) {
        return Err(not_a_kernel());
    }
    Ok(pvh)
}

/// The version in the kernel's banner, `Linux version VERSION (builder) …`.
fn version_of(vmlinux: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    memchr::memmem::find_iter(vmlinux, BANNER).find_map(|at| {
        let rest = &vmlinux[at + BANNER.len()..];
        let version: Vec<u8> = rest.iter().copied().take(65).take_while(|b| *b != b' ').collect();
        String::from_utf8(version).ok().filter(|version| is_version(version))
    })
}

/// Whether `version` looks like a kernel version and is safe as a directory's name.
pub fn is_version(version: &str) -> bool {
    version.len() <= 64
        && version.starts_with(|c: char| c.is_ascii_digit())
        && version.contains('.')
        && !version.contains("..")
        && version.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+' | b'_' | b'~'))
}

#[cfg(test)]
#[path = "kernel_file_tests.rs"]
mod tests;
