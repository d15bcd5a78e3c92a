//! The disk and the root disks of a microVM, made where there are none, or those of an image.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sandpen_cache::CacheUser;
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::cache_uses;
use sandpen_vmm::driver::{DriverError, Launch};

use super::disk_maker::DiskMaker;
use super::image_root::{self, Lease, RootDisk};
use super::step::blocking;
use super::{disk, root_disk};

/// What a microVM's root is made of beside shared directories.
pub(super) struct Storage {
    /// Disks that are only read, topmost first.
    pub(super) root_disks: Vec<RootDisk>,
    /// Of the image, if the root is one.
    pub(super) lease: Option<Lease>,
}

/// Makes the disk, if there is to be one, and root disks of these directories, one after the other; or finds the image's.
/// `data_dir` is where those are. Ends soon after the launch is cancelled. Then the launch has said all that it uses of the
/// cache, and what earlier ones used is of no interest any more.
pub(super) async fn storage(
    launch: &Launch,
    (state_dir, data_dir): (&StateDir, &Path),
    user: &Arc<CacheUser>,
    maker: &Arc<DiskMaker>,
    disk: Option<&Path>,
    imaged: &[PathBuf],
) -> Result<Storage, DriverError> {
    let cancel = &launch.cancel;
    if let Some(disk) = disk {
        let made = disk::ensure(maker, disk, launch.spec.disk.bytes, cancel).await;
        made.map_err(|error| error.of_step("making the disk"))?;
    }
    let mut root_disks = Vec::new();
    for directory in imaged {
        let made = root_disk::ensure(user, maker, directory, cancel).await;
        root_disks.push(RootDisk::File(made.map_err(|error| error.of_step("making the root image"))?));
    }
    let mut lease = None;
    if let Some(image) = image_root::image_of(&launch.spec) {
        let (data_dir, image) = (data_dir.to_owned(), image.clone());
        let (disk, found) = blocking(move || image_root::find(&data_dir, &image)).await?;
        root_disks.push(RootDisk::Joined(disk));
        lease = Some(found);
    }
    let (state_dir, key, generation) = (state_dir.clone(), launch.spec.key.clone(), launch.generation);
    blocking(move || {
        cache_uses::forget(&state_dir, &key, ..generation);
        Ok(())
    })
    .await?;
    Ok(Storage { root_disks, lease })
}
