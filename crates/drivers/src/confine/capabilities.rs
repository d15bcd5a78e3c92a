//! Root's capabilities, of which a VMM needs none or few.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use capng::{Action, Set, Type};
use nix::unistd::Uid;

use super::Policy;

/// What the process keeps: nothing as an ordinary user. As root what the policy says, and, outside of a jail, what
/// reading (or changing) the policy's files takes where they belong to somebody else.
pub(super) fn kept(policy: &Policy) -> Vec<String> {
    if !Uid::effective().is_root() {
        return Vec::new();
    }
    let mut kept = policy.capabilities.clone();
    if policy.jail.is_ok() {
        // What it has not open it opens as the owner, or with one of these.
        return kept;
    }
    let mut add = |name: &str| {
        if !kept.iter().any(|kept| kept == name) {
            kept.push(name.to_owned());
        }
    };
    let changed = || policy.modify.iter().chain(&policy.devices);
    if changed().any(|path| !may(path, 0o6)) {
        add("DAC_OVERRIDE");
    } else if policy.read.iter().chain(&policy.execute).any(|path| !may(path, 0o4)) {
        add("DAC_READ_SEARCH");
    }
    kept
}

/// Drops all others. The bounding set, which takes a capability to change, may stay: with
/// no_new_privs no program that is executed has more than this.
pub(super) fn keep(kept: &[String]) -> Result<(), capng::Error> {
    capng::clear(Set::CAPS);
    if !kept.is_empty() {
        let names = kept.iter().map(String::as_str).collect();
        capng::updatev(Action::ADD, Type::PERMITTED | Type::EFFECTIVE, names)?;
    }
    capng::apply(Set::CAPS)
}

/// Whether a root without capabilities gets at a file with these rights (of `rwx`). Groups and access
/// control lists are left out: at worst a capability is kept.
fn may(path: &Path, wanted: u32) -> bool {
    // Relative ones are below the runtime directory, which is ours.
    let Ok(meta) = std::fs::metadata(path) else { return true };
    let allows = |owner: u32, mode: u32, wanted: u32| {
        let bits = if owner == 0 { mode >> 6 } else { mode };
        bits & wanted == wanted
    };
    let Ok(real) = path.canonicalize() else { return true };
    let way = real.ancestors().skip(1);
    let searchable = |dir: &Path| std::fs::metadata(dir).is_ok_and(|meta| allows(meta.uid(), meta.mode(), 0o1));
    allows(meta.uid(), meta.mode(), wanted) && way.into_iter().all(searchable)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use sandpen_skip::{Reason, skip};

    use super::*;

    #[test]
    fn files_of_others_take_a_capability() {
        if !Uid::effective().is_root() {
            return skip(Reason::NotRoot, "only root can give files away");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut reads = Policy::new("vmm");
        reads.read.push(file.clone());
        let mut writes = Policy::new("vmm");
        writes.modify.push(file.clone());
        assert_eq!((kept(&reads).len(), kept(&writes).len()), (0, 0));
        chown(&file, Some(61_617), None).unwrap();
        assert_eq!((kept(&reads), kept(&writes)), (vec!["DAC_READ_SEARCH".into()], vec!["DAC_OVERRIDE".into()]));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!((kept(&reads).len(), kept(&writes).len()), (0, 1));
        chown(dir.path(), Some(61_617), None).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(kept(&reads), ["DAC_READ_SEARCH"]);
    }
}
