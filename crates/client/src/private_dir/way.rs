//! The way to a state directory: who owns a directory above it can put another one in its place, at any time.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Mode bits: everybody may make and rename entries; but only their owners those that are theirs.
const WORLD_WRITABLE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// A directory or link above that somebody else may change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub(super) path: PathBuf,
    /// Its owner; `None` where everybody may change it.
    pub(super) owner: Option<u32>,
}

/// Looks at everything above the path, as it is written and as it really is, as far as it is there.
pub(super) fn check(path: &Path, user: u32) -> io::Result<Option<Foreign>> {
    let nobody = unmapped_user();
    let is_trusted = |owner: u32| owner == 0 || owner == user || Some(owner) == nobody;
    let mut real = None;
    for above in path.ancestors().skip(1) {
        // As it is written: a link is its owner's to change.
        match fs::symlink_metadata(above) {
            Ok(meta) => {
                if let Some(foreign) = foreign(above, &meta, is_trusted) {
                    return Ok(Some(foreign));
                }
                if real.is_none() {
                    real = Some(fs::canonicalize(above)?);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // The directory itself may be a link as well.
    let real = fs::canonicalize(path).ok().and_then(|real| real.parent().map(Path::to_owned)).or(real);
    for above in real.iter().flat_map(|real| real.ancestors()) {
        if let Some(foreign) = foreign(above, &fs::symlink_metadata(above)?, is_trusted) {
            return Ok(Some(foreign));
        }
    }
    Ok(None)
}

fn foreign(path: &Path, meta: &Metadata, is_trusted: impl Fn(u32) -> bool) -> Option<Foreign> {
    let found = |owner| Some(Foreign { path: path.to_owned(), owner });
    if !is_trusted(meta.uid()) {
        return found(Some(meta.uid()));
    }
    let for_all = meta.is_dir() && meta.mode() & WORLD_WRITABLE != 0 && meta.mode() & STICKY == 0;
    if for_all { found(None) } else { None }
}

/// In a user namespace, the user that all those of outside look like, the host's root among them.
fn unmapped_user() -> Option<u32> {
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    if map.split_ascii_whitespace().eq(["0", "0", "4294967295"]) {
        return None;
    }
    fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};

    use super::*;

    fn us() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[test]
    fn what_everybody_may_change_is_told_unless_it_keeps_owners_apart() {
        let temp = tempfile::tempdir().unwrap();
        let (open, state) = (temp.path().join("open"), temp.path().join("open/a/state"));
        fs::create_dir(&open).unwrap();
        assert_eq!(check(&state, us()).unwrap(), None);
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let foreign = || Some(Foreign { path: open.clone(), owner: None });
        assert_eq!(check(&state, us()).unwrap(), foreign());
        fs::create_dir_all(&state).unwrap();
        assert_eq!(check(&state, us()).unwrap(), foreign());
        let link = temp.path().join("link");
        symlink(&state, &link).unwrap();
        assert_eq!(check(&link, us()).unwrap(), foreign());
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(check(&state, us()).unwrap(), None);
        assert_eq!(check(&link, us()).unwrap(), None);
    }

    #[test]
    fn what_belongs_to_somebody_else_is_told() {
        if us() != 0 {
            return sandpen_skip::skip(sandpen_skip::Reason::NotRoot, "only root can give files away");
        }
        let temp = tempfile::tempdir().unwrap();
        let theirs = temp.path().join("home");
        fs::create_dir_all(theirs.join("state")).unwrap();
        lchown(&theirs, Some(61_617), None).unwrap();
        let foreign = Some(Foreign { path: theirs.clone(), owner: Some(61_617) });
        assert_eq!(check(&theirs.join("state"), 0).unwrap(), foreign);
        assert_eq!(check(&theirs.join("not/there/yet"), 0).unwrap(), foreign);
        assert_eq!(check(&theirs.join("state"), 61_617).unwrap(), None, "root may change everything anyway");
        // A link of theirs on the way to a directory of ours.
        let (ours, link) = (temp.path().join("ours"), temp.path().join("link"));
        fs::create_dir_all(ours.join("state")).unwrap();
        symlink(&ours, &link).unwrap();
        assert_eq!(check(&link.join("state"), 0).unwrap(), None);
        lchown(&link, Some(61_617), None).unwrap();
        let foreign = Some(Foreign { path: link.clone(), owner: Some(61_617) });
        assert_eq!(check(&link.join("state"), 0).unwrap(), foreign);
    }
}
