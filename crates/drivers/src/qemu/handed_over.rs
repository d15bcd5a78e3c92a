//! What QEMU gets open in the place of paths, which it does not have in its jail.
//!
//! | file | its name to QEMU |
//! | --- | --- |
//! | kernel, initramfs | `/proc/self/fd/N` |
//! | disk, root disks of one file, the files of a joined one | `/dev/fdset/N` |
//! | the descriptor of a joined one, a file in memory with the names of its files | `/dev/fdset/N` |

use std::path::{Path, PathBuf};

use sandpen_vmm::waiter::FIRST_DESCRIPTOR;

use super::args::QemuArgs;
use crate::confine::{Policy, descriptor_path};
use crate::image_root::RootDisk;

/// The same machine with files that QEMU gets open in the place of paths.
pub(super) fn handed_over(args: &QemuArgs, policy: &mut Policy) -> QemuArgs {
    let mut args = args.clone();
    // QEMU opens these once more, by the names of the descriptors,
    for file in [&mut args.kernel, &mut args.initramfs] {
        *file = descriptor_path(policy.inherit(file, false));
    }
    // and takes copies of the descriptors of these.
    let in_set = |policy: &mut Policy, descriptors: &mut Vec<i32>, file: &Path, write: bool| {
        let descriptor = policy.inherit(file, write);
        descriptors.push(descriptor);
        fdset_path(descriptor)
    };
    if let Some(disk) = &mut args.disk {
        *disk = in_set(policy, &mut args.descriptors, disk, true);
    }
    for (number, disk) in args.root_disks.iter_mut().enumerate() {
        match disk {
            RootDisk::File(file) => *file = in_set(policy, &mut args.descriptors, file, false),
            RootDisk::Joined(disk) => {
                let files = disk.extents.iter().map(|extent| &extent.path);
                let names: Vec<_> = files.map(|file| in_set(policy, &mut args.descriptors, file, false)).collect();
                let text = disk.descriptor(|number| names[number].display().to_string());
                let descriptor = policy.inherit_content(&format!("image{number}.vmdk"), text);
                args.descriptors.push(descriptor);
                args.disk_descriptors.push(fdset_path(descriptor));
            }
        }
    }
    args.share_sockets = Some(FIRST_DESCRIPTOR);
    args
}

/// The name by which QEMU opens a file that it was handed over.
fn fdset_path(descriptor: i32) -> PathBuf {
    format!("/dev/fdset/{descriptor}").into()
}

#[cfg(test)]
mod tests {
    use sandpen_images::disk::{Extent, ImageDisk};

    use super::*;
    use crate::acceleration::Accelerator;

    #[test]
    fn an_images_files_are_named_in_a_descriptor_behind_them() {
        let extent = |number: u64| Extent { path: format!("/store/{number}").into(), bytes: 4096 * number };
        // As many as there may be.
        let disk = ImageDisk { extents: (1..=130).map(extent).collect() };
        let mut args = QemuArgs::plain("x", Accelerator::Tcg, "/vmlinux", "/initramfs");
        args.disk = Some("/disk".into());
        args.root_disks = vec![RootDisk::File("/plain".into()), RootDisk::Joined(disk)];
        let mut policy = Policy::new("vmm");
        let args = handed_over(&args, &mut policy);
        let paths: Vec<_> = policy.inherited.iter().map(|file| file.path.to_str().unwrap()).collect();
        assert_eq!(paths[..5], ["/vmlinux", "/initramfs", "/disk", "/plain", "/store/1"]);
        assert_eq!((paths.len(), paths[133], paths[134]), (135, "/store/130", "image1.vmdk"));
        let written: Vec<_> = policy.inherited.iter().filter(|file| file.write).map(|file| &file.path).collect();
        assert_eq!(written, [Path::new("/disk")]);
        let text = policy.inherited[134].content.as_ref().unwrap();
        assert!(text.contains("\nRW 8 FLAT \"/dev/fdset/36\" 0\nRW 16 FLAT \"/dev/fdset/37\" 0\n"), "{text}");
        assert!(text.ends_with("\nRW 1040 FLAT \"/dev/fdset/165\" 0\n"), "{text}");
        assert_eq!(args.disk_descriptors, [Path::new("/dev/fdset/166")]);
        assert_eq!(args.descriptors, (34..=166).collect::<Vec<_>>());
        assert_eq!(args.root_disks[0], RootDisk::File("/dev/fdset/35".into()));
    }
}
