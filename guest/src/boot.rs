//! The first steps: kernel file systems and kernel modules.
//!
//! The initramfs holds this program as `/init`, and, where the kernel needs modules, a list
//! [`MODULE_LIST`]: one absolute path of an uncompressed module a line, in order of loading,
//! parameters after a space; empty lines and lines that begin with `#` do not count.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;

use crate::log::log;
use crate::modules;

/// The list of modules in the initramfs.
pub const MODULE_LIST: &str = "/modules.list";

/// `RAMFS_MAGIC` and `TMPFS_MAGIC` of linux/magic.h: what an initramfs can be.
const INITRAMFS_MAGIC: [i64; 2] = [0x8584_58f6, 0x0102_1994];

/// Mounts /dev, /proc and /sys. Failures are told on the console: what depends on them fails with a
/// better message.
pub fn mount_kernel_filesystems() {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        let _ = fs::create_dir(target);
        match mount(Some(kind), target, Some(kind), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, None::<&str>) {
            // Busy: the kernel has mounted devtmpfs already (CONFIG_DEVTMPFS_MOUNT).
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => log!("mounting {kind} on {target}: {error}"),
        }
    }
}

/// Loads the modules of [`MODULE_LIST`] and frees their files' memory; others wait until they are needed.
pub fn load_modules() {
    // With a user's directory as `/` a file of that name is none of ours.
    let is_initramfs = statfs("/").is_ok_and(|fs| INITRAMFS_MAGIC.contains(&fs.filesystem_type().0));
    let list = match fs::read_to_string(MODULE_LIST) {
        Ok(list) if is_initramfs => list,
        _ => return,
    };
    for (path, parameters) in module_lines(&list) {
        if let Err(error) = load_module(path, parameters) {
            log!("loading module {}: {error}", path.display());
        }
        // The initramfs lives in memory: the files are of no more use.
        let _ = fs::remove_file(path);
    }
    modules::offer();
}

fn module_lines(list: &str) -> impl Iterator<Item = (&Path, &str)> {
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let (path, parameters) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        (Path::new(path), parameters.trim())
    })
}

/// Loads the module of a file; one that is loaded stays.
pub fn load_module(path: &Path, parameters: &str) -> std::io::Result<()> {
    let file = File::open(path)?;
    let parameters = CString::new(parameters)?;
    match finit_module(&file, &parameters, ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_list_is_read_in_order() {
        let list = "# needed\n/modules/virtio.ko\n\n  /modules/kvm.ko   ignore_msrs=1 halt=2 \n";
        let lines: Vec<_> = module_lines(list).collect();
        assert_eq!(
            lines,
            [(Path::new("/modules/virtio.ko"), ""), (Path::new("/modules/kvm.ko"), "ignore_msrs=1 halt=2")]
        );
    }
}
