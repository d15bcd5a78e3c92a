//! Directories that are empty at each start of a machine, as programs expect: what a service left there (its process id, a
//! lock, a socket) would be taken for another one's that runs.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::log::log;

/// Those; the second and third are mostly links into the first (hier(7), file-hierarchy(7)).
const FRESH: [&str; 3] = ["/run", "/var/run", "/var/lock"];
/// A tmpfs's share of the memory, as systemd has it for `/run`.
const SIZE: &str = "size=20%";
/// Directories below one that are made again; more are nobody's that a service needs.
const DIRECTORIES_MAX: usize = 1024;

/// Covers each that the root directory has with a file system in memory, in which are the directories that the root has
/// there, with their owners and modes, and no files. Call it inside of the new root, before volumes are mounted.
pub fn make() {
    for path in FRESH.map(Path::new) {
        if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
            && let Err(error) = cover(path)
        {
            log!("{} keeps what an earlier machine left in it: {error}", path.display());
        }
    }
}

/// A directory as it was, by its path below another one.
struct Directory {
    path: PathBuf,
    mode: u32,
    owner: (u32, u32),
}

fn cover(path: &Path) -> io::Result<()> {
    let own = fs::symlink_metadata(path)?;
    let directories = directories_in(path);
    let options = format!("{SIZE},mode={:o},uid={},gid={}", own.mode() & 0o7777, own.uid(), own.gid());
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()))?;
    for Directory { path: below, mode, owner } in directories {
        let made = path.join(below);
        fs::DirBuilder::new().mode(0o700).create(&made)?;
        chown(&made, Some(owner.0), Some(owner.1))?;
        fs::set_permissions(&made, Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// All directories below `path`, outer ones first; links are none.
fn directories_in(path: &Path) -> Vec<Directory> {
    let mut found: Vec<Directory> = Vec::new();
    let mut next = 0;
    let mut outer = PathBuf::new();
    loop {
        let entries = fs::read_dir(path.join(&outer)).into_iter().flatten().flatten();
        for entry in entries {
            let Some(meta) = entry.metadata().ok().filter(fs::Metadata::is_dir) else { continue };
            if found.len() == DIRECTORIES_MAX {
                return found;
            }
            let (mode, owner) = (meta.mode() & 0o7777, (meta.uid(), meta.gid()));
            found.push(Directory { path: outer.join(entry.file_name()), mode, owner });
        }
        let Some(directory) = found.get(next) else { return found };
        outer.clone_from(&directory.path);
        next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_found_with_their_modes_and_nothing_else() {
        let base = std::env::temp_dir().join(format!("sandpen-guest-fresh-{}", std::process::id()));
        for path in ["lock/subsys", "user"] {
            fs::create_dir_all(base.join(path)).unwrap();
        }
        fs::write(base.join("lock/httpd.pid"), "80").unwrap();
        std::os::unix::fs::symlink("/", base.join("root")).unwrap();
        fs::set_permissions(base.join("user"), Permissions::from_mode(0o1777)).unwrap();
        let mut found: Vec<_> =
            directories_in(&base).into_iter().map(|found| (found.path.display().to_string(), found.mode)).collect();
        fs::remove_dir_all(&base).unwrap();
        assert!(directories_in(&base).is_empty(), "it is gone");
        found.sort();
        let names: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(names, ["lock", "lock/subsys", "user"]);
        assert_eq!(found[2].1, 0o1777);
    }
}
