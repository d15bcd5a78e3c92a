//! What a sandbox's root is made of, and what it is written to.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use sandpen_types::default_registry::{DefaultRegistry, ImageCalled};
use sandpen_types::image::{ImageReference, ReferenceError};
use sandpen_types::spec::{ByteString, Disk, DiskName, ImageRoot, RootDevice, Rootfs};
use sandpen_types::units::ByteSize;

use crate::cli::CliError;

/// Layers, disk, and how they reach the sandbox.
#[derive(Debug, clap::Args)]
pub struct RootArgs {
    /// Directory over ROOTFS, topmost first; may be given several times. None of them is written to
    #[arg(long, value_name = "DIR")]
    overlay: Vec<OsString>,
    /// Write to a disk of at most this size instead of ROOTFS, with its unit [default with --overlay and an image: 4G]
    #[arg(long, value_name = "SIZE")]
    disk: Option<ByteSize>,
    /// Keep that disk under a name: made where it is missing, there for the next sandbox
    #[arg(long, value_name = "DISK")]
    keep_disk: Option<DiskName>,
    /// How ROOTFS and the layers reach the sandbox: image makes a disk image of each once, and they are not
    /// written to; virtiofs shares them [default: virtiofs]
    #[arg(long, value_name = "KIND")]
    root: Option<RootDevice>,
    /// Run this program in the place of the image's entrypoint, and not its arguments; '' for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<OsString>,
    /// Leave out the image's health check
    #[arg(long)]
    no_healthcheck: bool,
    /// Publish each TCP port that the image exposes on a free port of 127.0.0.1
    #[arg(short = 'P', long)]
    publish_all: bool,
}

impl RootArgs {
    /// The root directory, or the layers if it is not written in place. Of an image it was said when it `is_pulled`.
    pub fn rootfs(&self, base: &OsString, is_pulled: bool, names_of: &DefaultRegistry) -> Result<Rootfs, CliError> {
        if !is_path(base) {
            return self.image(base, names_of).map(Rootfs::Image);
        }
        self.check_path(is_pulled)?;
        let base = real_directory(base)?;
        let is_disk = self.root.is_some_and(RootDevice::is_disk);
        if self.overlay.is_empty() && self.disk.is_none() && self.keep_disk.is_none() && !is_disk {
            return Ok(Rootfs::Native(base));
        }
        let mut layers = self.overlay.iter().map(real_directory).collect::<Result<Vec<_>, _>>()?;
        layers.push(base);
        Ok(Rootfs::Overlayfs(layers))
    }

    /// The image of this name.
    fn image(&self, given: &OsString, names_of: &DefaultRegistry) -> Result<ImageRoot, CliError> {
        let refused = |source| CliError::RootfsForm { text: given.into(), source };
        let name = given.to_str().ok_or_else(|| refused(None))?;
        let reference = match names_of.called(name).map_err(|error| refused(Some(error)))? {
            ImageCalled::Name(name) => name,
            ImageCalled::Id(id) => name_of_id(&id).map_err(|error| refused(Some(error)))?,
        };
        if std::path::Path::new(name).is_dir() {
            return Err(CliError::RootfsOrImage { name: name.to_owned(), image: reference.to_string() });
        }
        let refused = |flag, reason| Err(CliError::RootFlag { flag, reason });
        if !self.overlay.is_empty() {
            let reason = "does not go with an image, whose layers are its own; make an image with them, or give a root \
                          directory";
            return refused("--overlay", reason);
        }
        if self.root.is_some() {
            return refused("--root", "does not go with an image, which is a disk of its own kind; leave it out");
        }
        Ok(ImageRoot {
            entrypoint: self.entrypoint.as_ref().map(|program| vec![ByteString::from(program)]),
            no_healthcheck: self.no_healthcheck,
            publish_all: self.publish_all,
            ..ImageRoot::new(reference)
        })
    }

    /// A directory has nothing of what an image says.
    fn check_path(&self, is_pulled: bool) -> Result<(), CliError> {
        let given = [
            ("--entrypoint", self.entrypoint.is_some()),
            ("--no-healthcheck", self.no_healthcheck),
            ("--publish-all", self.publish_all),
            ("--pull", is_pulled),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => {
                Err(CliError::RootFlag { flag, reason: "is for an image; a root directory says nothing of it" })
            }
            None => Ok(()),
        }
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

/// So many digits of an image's id stand for it: all of them would be no name.
const ID_LEN: usize = 40;

/// A name that is understood as an id.
pub fn name_of_id(id: &str) -> Result<ImageReference, ReferenceError> {
    id.get(..ID_LEN).unwrap_or(id).parse()
}

/// Whether it is a directory's path rather than an image's name.
pub fn is_path(given: &OsString) -> bool {
    matches!(given.as_bytes().first(), Some(b'.' | b'/'))
}

/// A directory by its real path, so that a link that is turned later changes nothing for a restart.
fn real_directory(given: &OsString) -> Result<PathBuf, CliError> {
    let path = PathBuf::from(given);
    if !is_path(given) {
        return Err(CliError::RootfsForm { text: path, source: None });
    }
    let real = path.canonicalize().map_err(|source| CliError::Rootfs { path, source })?;
    if real.to_str().is_none() { Err(CliError::RootfsText(real)) } else { Ok(real) }
}
