//! Where the directories and the kernel of a sandbox lie, and whether one sandbox's lie where another one's guest may
//! write: it could put something else in their places.
//!
//! A path alone does not tell: what is mounted (bind mounts above all) makes one directory reachable by several. So a
//! place is told by its file system and its path in that, and so are the mount points above it.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use sandpen_types::spec::{Rootfs, SandboxKey, SandboxSpec};
use sandpen_types::state_dir::StateDir;

use super::mounts::{self, Mount};

/// What a place is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Root,
    Volume,
    Kernel,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root directory",
            Self::Volume => "volume",
            Self::Kernel => "kernel",
        }
    }
}

/// A directory or file of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spot {
    device: String,
    path: PathBuf,
}

impl Spot {
    fn is_in(&self, directory: &Self) -> bool {
        self.device == directory.device && self.path.starts_with(&directory.path)
    }
}

/// A directory that is shared with a guest, or its kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    purpose: Purpose,
    /// Whether the guest may write there.
    is_writable: bool,
    /// Where it lies, and where the mount points above it lie.
    spots: Vec<Spot>,
    /// What is mounted below it, which the guest reaches as well.
    mounted_below: Vec<Spot>,
}

impl Place {
    /// Whether whoever writes to this place can put something else in the place of `inner`. Two that are the same
    /// directory cannot.
    fn holds(&self, inner: &Self) -> bool {
        let same = |spot: &Spot, reached: &Spot| spot.path == reached.path && inner.purpose != Purpose::Kernel;
        let reached = || self.spots.first().into_iter().chain(&self.mounted_below);
        let is_inside = |spot: &Spot| reached().any(|reached| spot.is_in(reached) && !same(spot, reached));
        self.is_writable && inner.spots.iter().any(is_inside)
    }
}

/// Those of one sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places(Vec<Place>);

/// One sandbox's place in another one's, or a kernel in its own sandbox's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {what} {inner:?} of sandbox {inner_of} lies below {outer:?}, which {writer} can write to; {advice}")]
pub struct Nested {
    what: &'static str,
    inner: PathBuf,
    inner_of: SandboxKey,
    outer: PathBuf,
    writer: String,
    advice: String,
}

impl Places {
    /// Those of a specification whose paths are real ones; `mounts` are those of now. What is not there is told by its
    /// path. Blocking, for microseconds.
    pub fn of(spec: &SandboxSpec, dir: &StateDir, mounts: &[Mount]) -> Self {
        let is_written = matches!(spec.rootfs, Rootfs::Native(_)) && !spec.read_only;
        let place = |path: &Path, purpose, is_writable| Place {
            path: path.to_owned(),
            purpose,
            is_writable,
            spots: spots(path, mounts),
            mounted_below: if is_writable { mounted_below(path, mounts) } else { Vec::new() },
        };
        let roots = spec.rootfs.paths().into_iter().map(|path| place(path, Purpose::Root, is_written));
        let volumes =
            spec.volumes.iter().map(|volume| place(&dir.volume(&volume.source), Purpose::Volume, !volume.read_only));
        let kernel = spec.kernel.iter().map(|path| place(path, Purpose::Kernel, false));
        Self(roots.chain(volumes).chain(kernel).collect())
    }

    /// Refuses a kernel that the guest itself can write to.
    ///
    /// # Errors
    /// [`Nested`].
    pub fn check_own(&self, key: &SandboxKey) -> Result<(), Box<Nested>> {
        let kernels = self.0.iter().filter(|place| place.purpose == Purpose::Kernel);
        let held = kernels
            .flat_map(|kernel| self.0.iter().filter(|outer| outer.holds(kernel)).map(move |outer| (kernel, outer)));
        held.take(1).try_for_each(|(kernel, outer)| {
            let advice = "put the kernel somewhere else, or do not let the sandbox write there (--disk, or :ro for a \
                          volume)";
            Err(nested(key, kernel, outer, "the sandbox itself".to_owned(), advice.to_owned()))
        })
    }

    /// Refuses two sandboxes of which one has something where the other one can write.
    ///
    /// # Errors
    /// [`Nested`].
    pub fn check_apart(&self, key: &SandboxKey, others: &Self, other: &SandboxKey) -> Result<(), Box<Nested>> {
        self.check_not_in(key, others, other, other)?;
        others.check_not_in(other, self, key, other)
    }

    /// `live`: the one of both that is there already.
    fn check_not_in(
        &self,
        key: &SandboxKey,
        outer: &Self,
        outer_of: &SandboxKey,
        live: &SandboxKey,
    ) -> Result<(), Box<Nested>> {
        for inner in &self.0 {
            if let Some(outer) = outer.0.iter().find(|outer| outer.holds(inner)) {
                let advice = format!(
                    "stop sandbox {live} first, share that directory read-only (:ro, --disk), or use one that does \
                     not lie in it"
                );
                return Err(nested(key, inner, outer, format!("sandbox {outer_of}"), advice));
            }
        }
        Ok(())
    }
}

fn nested(key: &SandboxKey, inner: &Place, outer: &Place, writer: String, advice: String) -> Box<Nested> {
    Box::new(Nested {
        what: inner.purpose.as_str(),
        inner: inner.path.clone(),
        inner_of: key.clone(),
        outer: outer.path.clone(),
        writer,
        advice,
    })
}

/// Where a path lies, and then each mount point above it.
fn spots(path: &Path, mounts: &[Mount]) -> Vec<Spot> {
    let (mut spots, mut point) = (Vec::new(), path);
    let mut on = mount_of(path, mounts);
    while let Some(mount) = on
        && let Ok(below) = point.strip_prefix(&mount.point)
        && spots.len() <= mounts.len()
    {
        // The whole mount is one file, or nothing is below its root.
        let path = if below.as_os_str().is_empty() { mount.root.clone() } else { mount.root.join(below) };
        spots.push(Spot { device: mount.device.clone(), path });
        point = &mount.point;
        on = mounts.iter().find(|above| above.id == mount.parent && above.id != mount.id);
    }
    spots
}

fn mounted_below(path: &Path, mounts: &[Mount]) -> Vec<Spot> {
    let below = mounts.iter().filter(|mount| mount.point.starts_with(path) && mount.point != path);
    below.map(|mount| Spot { device: mount.device.clone(), path: mount.root.clone() }).collect()
}

fn mount_of<'a>(path: &Path, mounts: &'a [Mount]) -> Option<&'a Mount> {
    let meta = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID).ok();
    let id = meta.filter(|meta| StatxFlags::from_bits_retain(meta.stx_mask).contains(StatxFlags::MNT_ID));
    let found = id.and_then(|meta| mounts.iter().find(|mount| mount.id == meta.stx_mnt_id));
    // One of another tree of mounts than is listed has no such point.
    found.filter(|mount| path.starts_with(&mount.point)).or_else(|| mounts::containing(mounts, path))
}

#[cfg(test)]
mod tests;
