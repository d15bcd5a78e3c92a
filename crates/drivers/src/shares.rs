//! The host directories that a microVM gets, its root and its volumes: all that a driver's processes
//! need of the user's files is in this list.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat};
use sandpen_guest::protocol::{Bytes, ROOTFS_TAG, RootfsSource, Volume};
use sandpen_types::spec::{Rootfs, SandboxSpec, VolumeSource, by_depth};
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::driver::DriverError;

use super::confine::{SharedTree, descriptor_path};
use super::real_directory::{self, Identity, is_link};
use super::step::failed;
use super::{disk, image_root};

/// Why a directory cannot be shared.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShareError {
    /// No right to it, or it is gone.
    #[error("the directory {path:?} cannot be used by this user; it must be there, readable and not locked away")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Its path leads elsewhere now.
    #[error(
        "the directory {0:?} is not shared: a part of its path has become a symbolic link since the sandbox was started; if that is meant, start the sandbox again by a request (`sandpen run`)"
    )]
    Link(PathBuf),
}

impl ShareError {
    fn of(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if is_link(&source) { Self::Link(path) } else { Self::Unusable { path, source } }
    }
}

/// What may be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shareable {
    Directory,
    FileToo,
}

/// A directory that a guest gets by virtiofs, or a file in one of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    /// The device's tag.
    pub(super) tag: String,
    /// The directory, absolute.
    pub(super) directory: String,
    /// Whether it is a file, alone.
    pub(super) is_file: bool,
    /// Whether the host refuses writes.
    pub(super) read_only: bool,
    /// What was looked at.
    identity: Identity,
}

impl Share {
    /// Looks at a directory or a file, and finds that it can be shared.
    fn new(tag: String, path: &Path, text: &str, what: Shareable, read_only: bool) -> Result<Self, ShareError> {
        let looked = |path: &Path| {
            let place = real_directory::open_file_place(path)?;
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode);
            // Here with words of our own: a VMM or virtiofsd would only be found dead.
            match (kind, what) {
                (FileType::Directory, _) => accessat(&place, ".", Access::READ_OK | Access::EXEC_OK, AtFlags::empty())?,
                (FileType::RegularFile, Shareable::FileToo) => {
                    accessat(CWD, descriptor_path(place.as_raw_fd()), Access::READ_OK, AtFlags::empty())?;
                }
                _ => return Err(io::Error::from(rustix::io::Errno::NOTDIR)),
            }
            Ok((kind == FileType::RegularFile, real_directory::identity(&place)?))
        };
        let (is_file, identity) = looked(path).map_err(|source| ShareError::of(path, source))?;
        Ok(Self { tag, directory: text.to_owned(), is_file, read_only, identity })
    }

    /// For the process that serves it.
    pub(super) fn tree(&self) -> SharedTree {
        let directory = (&self.directory).into();
        SharedTree { directory, is_file: self.is_file, read_only: self.read_only, identity: Some(self.identity) }
    }
}

/// All shared directories of a microVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shares {
    /// The root directory, or its layers, topmost first; none where the layers are root disks.
    pub(super) root: Vec<Share>,
    /// The volumes, in the order in which they are mounted.
    pub(super) volumes: Vec<Share>,
    /// What the guest is told of the volumes.
    pub(super) mounts: Vec<Volume>,
    /// Tags of those volumes that are one file.
    pub(super) files: Vec<String>,
    /// Directories of the root that the guest gets as root disks, topmost first.
    pub(super) imaged: Vec<PathBuf>,
    /// Whether the root is an image, of one disk.
    pub(super) is_image: bool,
}

impl Shares {
    /// Each of them, the root first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Share> {
        self.root.iter().chain(&self.volumes)
    }

    /// What the guest is told of a root of layers; its disk is the machine's first one, where there are no
    /// others.
    pub(super) fn layered_root(&self) -> RootfsSource {
        let root_disks = self.imaged.len() + usize::from(self.is_image);
        if root_disks > 0 {
            let layers = (0..root_disks).map(disk::root_disk_serial).collect();
            return RootfsSource::Images { layers, disk: disk::SERIAL.to_owned() };
        }
        let lowers = self.root.iter().map(|layer| layer.tag.clone()).collect();
        RootfsSource::Overlay { lowers, disk: "/dev/vda".to_owned() }
    }
}

/// Refuses more shared directories than a machine has devices for.
pub(super) fn check_room(spec: &SandboxSpec, driver: &str, most: usize) -> Result<(), DriverError> {
    // The disk of an image has the place of a directory.
    let root = if image_root::image_of(spec).is_some() { 1 } else { spec.rootfs.paths().len() };
    let wanted = root + spec.volumes.len();
    if wanted <= most {
        return Ok(());
    }
    let what = format!(
        "{wanted} shared directories (root directory, its layers or its image, and volumes); its machines have room for \
         {most}"
    );
    Err(DriverError::Unsupported { driver: driver.to_owned(), what })
}

/// The shared directories of `spec`, looked at. `most` is how many devices for them a machine of
/// `driver` has room for.
pub(super) fn find(spec: &SandboxSpec, dir: &StateDir, driver: &str, most: usize) -> Result<Shares, DriverError> {
    check_room(spec, driver, most)?;
    let unsupported = |what: String| DriverError::Unsupported { driver: driver.to_owned(), what };
    let share = |tag: String, path: &Path, what: Shareable, read_only: bool| {
        // Both virtiofsd and libkrun take text.
        let text = path
            .to_str()
            .ok_or_else(|| unsupported(format!("the directory {}, which is not UTF-8", path.display())))?;
        let share =
            Share::new(tag, path, text, what, read_only).map_err(|error| failed("sharing a directory", error))?;
        if !read_only {
            // The mode of a file is the guest's to change.
            warn_if_exposed(if share.is_file { path.parent().unwrap_or(path) } else { path });
        }
        Ok::<_, DriverError>(share)
    };
    let mut imaged = Vec::new();
    let root = match &spec.rootfs {
        Rootfs::Overlayfs(layers) if spec.root_device.is_disk() => {
            imaged.clone_from(layers);
            Vec::new()
        }
        Rootfs::Image(_) => Vec::new(),
        Rootfs::Native(path) => {
            vec![share(ROOTFS_TAG.to_owned(), path, Shareable::Directory, spec.read_only)?]
        }
        Rootfs::Overlayfs(layers) => {
            let layers = layers.iter().enumerate();
            layers
                .map(|(number, path)| share(format!("sandpen-layer-{number}"), path, Shareable::Directory, true))
                .collect::<Result<_, _>>()?
        }
    };
    let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
    for (number, volume) in by_depth(&spec.volumes).into_iter().enumerate() {
        let tag = format!("sandpen-volume-{number}");
        let (path, what) = match &volume.source {
            VolumeSource::Host(path) => (path.clone(), Shareable::FileToo),
            // The way to the state directory may have links, which are trusted; the volume itself is none.
            VolumeSource::Named(name) => {
                let volumes = dir.volumes().canonicalize().map_err(|error| failed("looking for the volumes", error))?;
                (volumes.join(name.as_str()), Shareable::Directory)
            }
        };
        volumes.push(share(tag.clone(), &path, what, volume.read_only)?);
        mounts.push(Volume { tag, target: Bytes::from(volume.guest.as_bytes()), read_only: volume.read_only });
    }
    let files = volumes.iter().filter(|share| share.is_file).map(|share| share.tag.clone()).collect();
    Ok(Shares { root, volumes, mounts, files, imaged, is_image: image_root::image_of(spec).is_some() })
}

/// The guest of a root's sandbox can make setuid programs, which are root's on disk: others on this host must not get
/// there.
fn warn_if_exposed(path: &Path) {
    if nix::unistd::Uid::effective().is_root() && is_exposed(path) {
        tracing::warn!(
            directory = ?path,
            "other users can reach this directory, and its guest can make setuid-root programs in it; \
             put it below a directory of root's with mode 0700 or on a file system mounted nosuid,nodev"
        );
    }
}

/// Whether anybody but root can execute what lies there. A directory of somebody else's, a home, lets at least that one
/// through.
fn is_exposed(path: &Path) -> bool {
    let lets_others_through = |directory: &Path| {
        let meta = std::fs::metadata(directory);
        meta.is_ok_and(|meta| meta.uid() != 0 || meta.permissions().mode() & 0o011 != 0)
    };
    let no_suid =
        nix::sys::statvfs::statvfs(path).is_ok_and(|fs| fs.flags().contains(nix::sys::statvfs::FsFlags::ST_NOSUID));
    path.ancestors().all(lets_others_through) && !no_suid
}

#[cfg(test)]
mod tests {
    use sandpen_types::spec::{SandboxName, Volume as SpecVolume};

    use super::*;
    use crate::confine::SharedTreeError;

    fn state() -> StateDir {
        StateDir::new("/nowhere".into())
    }

    #[test]
    fn what_is_opened_is_what_was_looked_at_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (root, data) = (base.join("root"), base.join("outer/data"));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::create_dir(&root).unwrap();
        let name = SandboxName::new("box").unwrap();
        let mut spec = SandboxSpec::new(name, Rootfs::Native(root.clone()), vec!["x".into()]);
        spec.volumes = vec![SpecVolume::of_host(data.clone(), "/a", false)];
        let shares = find(&spec, &state(), "x", 2).unwrap();
        let volume = shares.volumes[0].tree();
        let opened = volume.open().unwrap();
        assert_eq!(std::fs::metadata(&data).unwrap().ino(), rustix::fs::fstat(&opened).unwrap().st_ino);
        // Another directory in its place.
        std::fs::rename(&data, base.join("outer/away")).unwrap();
        std::fs::create_dir(&data).unwrap();
        assert!(matches!(volume.open(), Err(SharedTreeError::Replaced)));
        // A link in the place of a directory above it, to one that has such a directory too.
        std::fs::rename(base.join("outer"), base.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", base.join("outer")).unwrap();
        assert!(matches!(volume.open(), Err(SharedTreeError::Open(error)) if is_link(&error)));
        let refused = find(&spec, &state(), "x", 2).unwrap_err().chain();
        assert!(refused.contains("symbolic link") && refused.contains(data.to_str().unwrap()), "{refused}");
        std::os::unix::fs::symlink(&root, base.join("link")).unwrap();
        spec.volumes.clear();
        spec.rootfs = Rootfs::Native(base.join("link"));
        assert!(find(&spec, &state(), "x", 2).unwrap_err().chain().contains("symbolic link"));
    }

    #[test]
    fn volumes_have_tags_in_mounting_order_and_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let name = SandboxName::new("box").unwrap();
        let mut spec = SandboxSpec::new(name, Rootfs::Native(dir.path().to_owned()), vec!["x".into()]);
        let volume = |guest: &str, read_only| SpecVolume::of_host(dir.path(), guest, read_only);
        spec.volumes = vec![volume("/a/b", false), volume("/a", true)];
        let shares = find(&spec, &state(), "x", 3).unwrap();
        let tags: Vec<_> = shares.all().map(|share| (share.tag.as_str(), share.read_only)).collect();
        assert_eq!(tags, [("sandpen-root", false), ("sandpen-volume-0", true), ("sandpen-volume-1", false)]);
        assert_eq!(shares.mounts[0].target.as_slice(), b"/a");
        let error = find(&spec, &state(), "x", 2).unwrap_err().to_string();
        assert!(error.contains('3') && error.contains("room for 2"), "{error}");
        spec.rootfs = Rootfs::Overlayfs(vec![dir.path().into(), "/".into()]);
        let shares = find(&spec, &state(), "x", 4).unwrap();
        assert!(shares.root.iter().all(|layer| layer.read_only));
        assert_eq!(shares.root[1].tag, "sandpen-layer-1");
        spec.rootfs = Rootfs::Image(sandpen_types::spec::ImageRoot::new("debian".parse().unwrap()));
        let shares = find(&spec, &state(), "x", 3).unwrap();
        let image = RootfsSource::Images { layers: vec!["sandpen-image-0".into()], disk: "sandpen-disk".into() };
        assert_eq!((shares.all().count(), shares.layered_root()), (2, image));
        assert!(find(&spec, &state(), "x", 2).unwrap_err().to_string().contains("its image"));
        spec.volumes[0] = SpecVolume::of_host(dir.path().join("gone"), "/a", false);
        assert!(find(&spec, &state(), "x", 4).unwrap_err().chain().contains("gone"));
    }

    #[test]
    fn a_home_is_as_exposed_as_what_all_can_reach() {
        if !nix::unistd::Uid::effective().is_root() {
            return sandpen_skip::skip(sandpen_skip::Reason::NotRoot, "only root can give directories away");
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        std::fs::create_dir(&root).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!is_exposed(&root), "below a directory of root's alone");
        std::os::unix::fs::chown(dir.path(), Some(61_617), None).unwrap();
        assert!(is_exposed(&root), "its owner gets there, whatever its mode is");
        std::os::unix::fs::chown(dir.path(), Some(0), None).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(is_exposed(&root));
    }
}
