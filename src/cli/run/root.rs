//! What a sandbox's root is made of, and what it is written to.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use sandpen_types::spec::{Disk, DiskName, RootDevice, Rootfs};
use sandpen_types::units::ByteSize;

use crate::cli::CliError;

/// Layers, disk, and how they reach the sandbox.
#[derive(Debug, clap::Args)]
pub struct RootArgs {
    /// Directory over ROOTFS, topmost first; may be given several times. None of them is written to
    #[arg(long, value_name = "DIR")]
    overlay: Vec<OsString>,
    /// Write to a disk of at most this size instead of ROOTFS, with its unit [default with --overlay: 4G]
    #[arg(long, value_name = "SIZE")]
    disk: Option<ByteSize>,
    /// Keep that disk under a name: made where it is missing, there for the next sandbox
    #[arg(long, value_name = "DISK")]
    keep_disk: Option<DiskName>,
    /// How ROOTFS and the layers reach the sandbox: image makes a disk image of each once, and they are not
    /// written to; virtiofs shares them [default: virtiofs]
    #[arg(long, value_name = "KIND")]
    root: Option<RootDevice>,
}

impl RootArgs {
    /// The root directory, or the layers if it is not written in place.
    pub fn rootfs(&self, base: &OsString) -> Result<Rootfs, CliError> {
        let base = real_directory(base)?;
        let is_disk = self.root.is_some_and(RootDevice::is_disk);
        if self.overlay.is_empty() && self.disk.is_none() && self.keep_disk.is_none() && !is_disk {
            return Ok(Rootfs::Native(base));
        }
        let mut layers = self.overlay.iter().map(real_directory).collect::<Result<Vec<_>, _>>()?;
        layers.push(base);
        Ok(Rootfs::Overlayfs(layers))
    }

    /// What it is written to, where it is not written in place.
    pub fn disk(&self) -> Disk {
        Disk { bytes: self.disk.map(ByteSize::bytes), name: self.keep_disk.clone() }
    }

    /// How it reaches the sandbox.
    pub fn device(&self) -> RootDevice {
        self.root.unwrap_or_default()
    }
}

/// A directory by its real path, so that a link that is turned later changes nothing for a restart.
fn real_directory(given: &OsString) -> Result<PathBuf, CliError> {
    let path = PathBuf::from(given);
    if !matches!(given.as_bytes().first(), Some(b'.' | b'/')) {
        return Err(CliError::RootfsForm(path));
    }
    let real = path.canonicalize().map_err(|source| CliError::Rootfs { path, source })?;
    if real.to_str().is_none() { Err(CliError::RootfsText(real)) } else { Ok(real) }
}
