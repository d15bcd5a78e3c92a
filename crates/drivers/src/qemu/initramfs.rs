//! The initramfs that guests boot from: `/init` is our guest program, beside it the modules that
//! it loads, in the order of `/modules.list` (one absolute path a line).
//!
//! The same inputs give the same bytes, so a file is made once and named by its content.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use cpio::newc;
use sandpen_kernels::{InstalledKernel, InstalledModule};
use sha2::{Digest as _, Sha256};

/// Modules that a guest with a shared directory as root needs.
pub const MODULES: [&str; 3] = ["virtio_mmio", "virtio_console", "virtiofs"];
/// Goes into the content's name: raise it when the layout changes.
const LAYOUT: &str = "sandpen initramfs 2";
/// The end of a newc archive.
const TRAILER: &str = "TRAILER!!!";

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// A module of the installed kernel cannot be read.
    #[error("cannot read the kernel module {path:?}; run `sandpen kernel install` again")]
    Module {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A module is not the one that was installed.
    #[error("the kernel module {path:?} was changed; run `sandpen kernel install` again")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write the initramfs {path:?}; is there room, and is the directory yours?")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// An initramfs that is wanted.
#[derive(Debug, Clone)]
pub struct Initramfs {
    path: PathBuf,
    /// Its length in bytes.
    size: u64,
    modules: Vec<(InstalledModule, PathBuf)>,
}

impl Initramfs {
    /// That of a kernel, with what a guest always needs and the modules `extra`; with none for a kernel without
    /// modules. Blocking, for milliseconds.
    pub fn new(cache: &Path, guest: &[u8], kernel: Option<&InstalledKernel>, extra: &[&str]) -> Self {
        let wanted = [&MODULES, extra].concat();
        let of_kernel = |kernel: &InstalledKernel| -> Vec<_> {
            let modules = kernel.modules_for(&wanted).into_iter();
            modules.map(|module| (module.clone(), kernel.module_path(module))).collect()
        };
        let modules = kernel.map(of_kernel).unwrap_or_default();
        let key = content_key(guest, modules.iter().map(|(module, _)| module));
        let sizes: Vec<_> = modules.iter().map(|(module, _)| (module.name.as_str(), module.file.size)).collect();
        let size = archive_size(guest.len() as u64, &sizes);
        Self { path: cache.join(format!("initramfs-{key}.cpio")), size, modules }
    }

    /// Where it is, or belongs.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there. Blocking, for microseconds.
    pub fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|meta| meta.is_file() && meta.len() == self.size)
    }

    /// Makes it: whole or not at all. Blocking. `guest` is the one that it was wanted for.
    ///
    /// # Errors
    /// [`InitramfsError`].
    pub fn make(&self, guest: &[u8]) -> Result<(), InitramfsError> {
        let mut contents = Vec::new();
        for (module, path) in &self.modules {
            let bytes = fs::read(path).map_err(|source| InitramfsError::Module { path: path.clone(), source })?;
            if !module.file.is_of(&bytes) {
                return Err(InitramfsError::Changed { path: path.clone() });
            }
            contents.push((module.name.as_str(), bytes));
        }
        let written = archive(guest, &contents).and_then(|bytes| sandpen_cache::write(&self.path, 0o644, &bytes));
        written.map_err(|source| InitramfsError::Write { path: self.path.clone(), source })
    }
}

/// [`Initramfs::make`], where there is none.
///
/// # Errors
/// [`InitramfsError`].
pub fn ensure(
    cache: &Path,
    guest: &[u8],
    kernel: Option<&InstalledKernel>,
    extra: &[&str],
) -> Result<PathBuf, InitramfsError> {
    let wanted = Initramfs::new(cache, guest, kernel, extra);
    if !wanted.is_there() {
        wanted.make(guest)?;
    }
    Ok(wanted.path)
}

/// Everything that the bytes depend on, hashed.
fn content_key<'a>(guest: &[u8], modules: impl Iterator<Item = &'a InstalledModule>) -> String {
    let mut hash = Sha256::new();
    hash.update(LAYOUT);
    hash.update(Sha256::digest(guest));
    for module in modules {
        // Neither a name nor a hash holds a newline.
        hash.update(format!("\n{} {}", module.name, module.file.sha256));
    }
    sandpen_cache::hex(&hash.finalize()[..16])
}

fn module_path(name: &str) -> String {
    format!("modules/{name}.ko")
}

fn module_list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.fold(String::new(), |list, name| list + "/" + &module_path(name) + "\n")
}

fn archive(guest: &[u8], modules: &[(&str, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    let mut output = Vec::new();
    let mut inode = 0;
    let mut add = |output: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), data: &[u8]| {
        inode += 1;
        let size = u32::try_from(data.len()).map_err(|_| std::io::Error::from(std::io::ErrorKind::FileTooLarge))?;
        let mut writer = newc::Builder::new(name)
            .ino(inode)
            .nlink(1)
            .mode(mode)
            .rdev_major(device.0)
            .rdev_minor(device.1)
            .write(output, size);
        writer.write_all(data)?;
        writer.finish().map(drop)
    };
    let none = (0, 0);
    add(&mut output, "init", 0o100_755, none, guest)?;
    add(&mut output, "dev", 0o040_755, none, &[])?;
    // A program that a kernel without a console starts has no streams, and opens this one for them.
    add(&mut output, "dev/null", 0o020_666, (1, 3), &[])?;
    add(&mut output, "modules.list", 0o100_644, none, module_list(modules.iter().map(|(name, _)| *name)).as_bytes())?;
    add(&mut output, "modules", 0o040_755, none, &[])?;
    for (name, bytes) in modules {
        add(&mut output, &module_path(name), 0o100_644, none, bytes)?;
    }
    newc::trailer(output)
}

/// How long [`archive`]'s result is: a header of 110 bytes and the name with its NUL, then the
/// data, each filled up to 4 bytes.
fn archive_size(guest: u64, modules: &[(&str, u64)]) -> u64 {
    let entry = |name: &str, size: u64| (110 + name.len() as u64 + 1).next_multiple_of(4) + size.next_multiple_of(4);
    let list = module_list(modules.iter().map(|(name, _)| *name)).len() as u64;
    let fixed = entry("init", guest)
        + entry("dev", 0)
        + entry("dev/null", 0)
        + entry("modules.list", list)
        + entry("modules", 0)
        + entry(TRAILER, 0);
    fixed + modules.iter().map(|(name, size)| entry(&module_path(name), *size)).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use sandpen_kernels::testing::Fixture;

    #[test]
    fn the_size_is_known_beforehand_and_the_bytes_are_the_same_each_time() {
        for guest in [&b""[..], b"x", b"guest program", &[7; 1025]] {
            let modules = [("virtio", vec![1, 2, 3]), ("virtio_ring", vec![9; 4096])];
            let bytes = archive(guest, &modules).unwrap();
            assert!(bytes == archive(guest, &modules).unwrap());
            assert_eq!(bytes.len() as u64, archive_size(guest.len() as u64, &[("virtio", 3), ("virtio_ring", 4096)]));
        }
    }

    #[test]
    fn it_holds_the_guest_and_its_modules_in_order() {
        let fixture = Fixture::new();
        let kernel = fixture.install().unwrap();
        let cache = fixture.path().join("cache");
        let path = ensure(&cache, b"the guest", Some(&kernel), &[]).unwrap();
        let file = fs::File::open(&path).unwrap();
        let mut reader = newc::Reader::new(file).unwrap();
        let mut entries = Vec::new();
        while !reader.entry().is_trailer() {
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut data = Vec::new();
            reader.read_to_end(&mut data).unwrap();
            entries.push((name, mode, data));
            reader = newc::Reader::new(reader.finish().unwrap()).unwrap();
        }
        assert_eq!(entries[0], ("init".to_owned(), 0o100_755, b"the guest".to_vec()));
        let list = String::from_utf8(entries[3].2.clone()).unwrap();
        let names = ["virtio_ring", "virtio", "virtio_mmio", "virtio_console", "fuse", "virtiofs"];
        assert_eq!(list.lines().collect::<Vec<_>>(), names.map(|name| format!("/modules/{name}.ko")));
        let files: Vec<_> = entries[5..].iter().map(|(name, ..)| format!("/{name}")).collect();
        assert_eq!(files, list.lines().collect::<Vec<_>>());
    }

    #[test]
    fn a_cut_off_file_is_made_again_and_other_inputs_make_another_one() {
        let fixture = Fixture::new();
        let kernel = fixture.install().unwrap();
        let cache = fixture.path().join("cache");
        let first = ensure(&cache, b"one", Some(&kernel), &[]).unwrap();
        let whole = fs::read(&first).unwrap();
        fs::write(&first, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(ensure(&cache, b"one", Some(&kernel), &[]).unwrap(), first);
        assert!(fs::read(&first).unwrap() == whole);
        assert_ne!(ensure(&cache, b"two", Some(&kernel), &[]).unwrap(), first);
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 2);
    }

    #[test]
    fn a_kernel_without_modules_gets_the_guest_alone() {
        let cache = tempfile::tempdir().unwrap();
        let path = ensure(cache.path(), b"one", None, &["virtio_net"]).unwrap();
        assert!(fs::read(path).unwrap() == archive(b"one", &[]).unwrap());
    }

    #[test]
    fn a_changed_module_is_noticed() {
        let fixture = Fixture::new();
        let kernel = fixture.install().unwrap();
        let module = &kernel.modules_for(&["fuse"])[0];
        let path = kernel.module_path(module);
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        fs::write(&path, bytes).unwrap();
        let failed = ensure(&fixture.path().join("cache"), b"one", Some(&kernel), &[]);
        assert!(matches!(failed, Err(InitramfsError::Changed { .. })));
    }
}
