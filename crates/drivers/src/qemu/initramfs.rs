//! The initramfs that guests boot from: `/init` is our guest program, beside it the modules that
//! it loads, in the order of `/modules.list` (one absolute path a line).
//!
//! ```text
//!   /modules/NAME.ko      loaded at boot
//!   /on-demand/NAME.ko    stay in the guest's memory until something there needs one; with lists of them in the
//!   /on-demand/modules.*  text of depmod(8), since the workload sees this directory as /lib/modules/VERSION
//! ```
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
/// Gives memory back; guests of kernels without it do without.
pub const BALLOON: &str = "virtio_balloon";
/// Goes into the content's name: raise it when the layout changes.
const LAYOUT: &str = "sandpen initramfs 3";
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
    /// In loading order.
    modules: Vec<Chosen>,
}

/// Modules beside those that every guest needs.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// Loaded at boot.
    pub at_boot: Vec<&'static str>,
    /// Loaded when something in the guest needs them.
    pub on_demand: Vec<&'static str>,
}

impl Initramfs {
    /// That of a kernel, with what a guest always needs and the modules `extra`, as far as the kernel has them; with
    /// none for a kernel without modules. Blocking, for milliseconds.
    pub fn new(cache: &Path, guest: &[u8], kernel: Option<&InstalledKernel>, extra: &Extra) -> Self {
        let at_boot = [&MODULES[..], &[BALLOON], &extra.at_boot].concat();
        let of_kernel = |kernel: &InstalledKernel| -> Vec<_> {
            let at_boot = kernel.modules_for(&at_boot);
            let all = at_boot.iter().map(|module| module.name.as_str()).chain(extra.on_demand.iter().copied());
            let all = kernel.modules_for(&all.collect::<Vec<_>>()).into_iter();
            all.map(|module| (module.clone(), kernel.module_path(module), !at_boot.contains(&module))).collect()
        };
        let modules = kernel.map(of_kernel).unwrap_or_default();
        let key = content_key(guest, &modules);
        let size = archive_size(guest.len() as u64, &entries(&modules));
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
        for (module, path, _) in &self.modules {
            let bytes = fs::read(path).map_err(|source| InitramfsError::Module { path: path.clone(), source })?;
            if !module.file.is_of(&bytes) {
                return Err(InitramfsError::Changed { path: path.clone() });
            }
            contents.push(bytes);
        }
        let written = archive(guest, &entries(&self.modules), &contents)
            .and_then(|bytes| sandpen_cache::write(&self.path, 0o644, &bytes));
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
    extra: &Extra,
) -> Result<PathBuf, InitramfsError> {
    let wanted = Initramfs::new(cache, guest, kernel, extra);
    if !wanted.is_there() {
        wanted.make(guest)?;
    }
    Ok(wanted.path)
}

/// A module, where it lies, and whether it waits until it is asked for.
type Chosen = (InstalledModule, PathBuf, bool);

/// Everything that the bytes depend on, hashed.
fn content_key(guest: &[u8], modules: &[Chosen]) -> String {
    let mut hash = Sha256::new();
    hash.update(LAYOUT);
    hash.update(Sha256::digest(guest));
    for (module, _, waits) in modules {
        // Neither a name nor an alias nor a hash holds a newline.
        hash.update(format!("\n{} {} {waits} {:?}", module.name, module.file.sha256, module.aliases));
    }
    sandpen_cache::hex(&hash.finalize()[..16])
}

/// What lies at a path of the archive.
enum Entry {
    Directory,
    Text(String),
    /// The module of this number, with its size.
    Module(usize, u64),
}

/// All waiting modules that a module depends on; in the order of depmod(8), which is loaded from the end.
fn dependencies<'a>(of: &'a InstalledModule, modules: &'a [Chosen]) -> Vec<&'a str> {
    let mut wanted = vec![&of.depends];
    let mut found = Vec::new();
    // What a module depends on comes before it.
    for (module, ..) in modules.iter().rev().filter(|(.., waits)| *waits) {
        if wanted.iter().any(|depends| depends.contains(&module.name)) {
            wanted.push(&module.depends);
            found.push(module.name.as_str());
        }
    }
    found
}

/// What is in the archive behind the guest program.
fn entries(modules: &[Chosen]) -> Vec<(String, Entry)> {
    let path = |module: &InstalledModule, waits: bool| {
        format!("{}/{}.ko", if waits { "on-demand" } else { "modules" }, module.name)
    };
    let lines = |waits: bool, line: &dyn Fn(&InstalledModule) -> String| -> String {
        modules.iter().filter(|(.., of)| *of == waits).map(|(module, ..)| line(module)).collect()
    };
    let list = lines(false, &|module| format!("/{}\n", path(module, false)));
    let mut entries = vec![("modules.list".to_owned(), Entry::Text(list)), ("modules".to_owned(), Entry::Directory)];
    if modules.iter().any(|(.., waits)| *waits) {
        // What is loaded at boot needs no file, and is there as if it were built in.
        let dependencies = lines(true, &|module| {
            let depends = dependencies(module, modules).into_iter();
            depends.fold(format!("{}.ko:", module.name), |line, name| line + " " + name + ".ko") + "\n"
        });
        let aliases = lines(true, &|module| {
            module.aliases.iter().map(|alias| format!("alias {alias} {}\n", module.name)).collect()
        });
        let builtin = lines(false, &|module| format!("{}.ko\n", module.name));
        entries.push(("on-demand".to_owned(), Entry::Directory));
        for (name, text) in [("dep", dependencies), ("alias", aliases), ("builtin", builtin)] {
            entries.push((format!("on-demand/modules.{name}"), Entry::Text(text)));
        }
    }
    let files = modules.iter().enumerate();
    entries.extend(
        files.map(|(number, (module, _, waits))| (path(module, *waits), Entry::Module(number, module.file.size))),
    );
    entries
}

fn archive(guest: &[u8], entries: &[(String, Entry)], modules: &[Vec<u8>]) -> std::io::Result<Vec<u8>> {
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
    for (name, entry) in entries {
        let (mode, data): (_, &[u8]) = match entry {
            Entry::Directory => (0o040_755, &[]),
            Entry::Text(text) => (0o100_644, text.as_bytes()),
            Entry::Module(number, _) => (0o100_644, modules.get(*number).map_or(&[], Vec::as_slice)),
        };
        add(&mut output, name, mode, none, data)?;
    }
    newc::trailer(output)
}

/// How long [`archive`]'s result is: a header of 110 bytes and the name with its NUL, then the
/// data, each filled up to 4 bytes.
fn archive_size(guest: u64, entries: &[(String, Entry)]) -> u64 {
    let long = |name: &str, size: u64| (110 + name.len() as u64 + 1).next_multiple_of(4) + size.next_multiple_of(4);
    let fixed = long("init", guest) + long("dev", 0) + long("dev/null", 0) + long(TRAILER, 0);
    let sizes = entries.iter().map(|(name, entry)| {
        let size = match entry {
            Entry::Directory => 0,
            Entry::Text(text) => text.len() as u64,
            Entry::Module(_, size) => *size,
        };
        long(name, size)
    });
    fixed + sizes.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use sandpen_kernels::testing::Fixture;

    #[test]
    fn the_size_is_known_beforehand_and_the_bytes_are_the_same_each_time() {
        for guest in [&b""[..], b"x", b"guest program", &[7; 1025]] {
            let modules = [vec![1, 2, 3], vec![9; 4096]];
            let entries = [
                ("modules.list".to_owned(), Entry::Text("/modules/virtio.ko\n".to_owned())),
                ("modules/virtio.ko".to_owned(), Entry::Module(0, 3)),
                ("on-demand".to_owned(), Entry::Directory),
                ("on-demand/tun.ko".to_owned(), Entry::Module(1, 4096)),
            ];
            let bytes = archive(guest, &entries, &modules).unwrap();
            assert!(bytes == archive(guest, &entries, &modules).unwrap());
            assert_eq!(bytes.len() as u64, archive_size(guest.len() as u64, &entries));
        }
    }

    #[test]
    fn it_holds_the_guest_and_its_modules_in_order() {
        let fixture = Fixture::new();
        let kernel = fixture.install().unwrap();
        let cache = fixture.path().join("cache");
        let entries = contents(&ensure(&cache, b"the guest", Some(&kernel), &Extra::default()).unwrap());
        assert_eq!(entries[0], ("init".to_owned(), 0o100_755, b"the guest".to_vec()));
        let list = String::from_utf8(entries[3].2.clone()).unwrap();
        let names = ["virtio_ring", "virtio", "virtio_mmio", "virtio_console", "fuse", "virtiofs"];
        assert_eq!(list.lines().collect::<Vec<_>>(), names.map(|name| format!("/modules/{name}.ko")));
        let files: Vec<_> = entries[5..].iter().map(|(name, ..)| format!("/{name}")).collect();
        assert_eq!(files, list.lines().collect::<Vec<_>>());
    }

    #[test]
    fn what_waits_lies_apart_with_lists_of_it() {
        let fixture = Fixture::new();
        let kernel = fixture.install().unwrap();
        let extra = Extra { on_demand: vec!["virtiofs", "loop", "tun", "erofs"], ..Extra::default() };
        let entries = contents(&ensure(&fixture.path().join("cache"), b"x", Some(&kernel), &extra).unwrap());
        let text = |path: &str| {
            let found = entries.iter().find(|(name, ..)| name == path);
            String::from_utf8(found.unwrap_or_else(|| panic!("{path}")).2.clone()).unwrap()
        };
        assert!(!text("modules.list").contains("tun") && text("modules.list").contains("virtiofs"));
        assert_eq!(text("on-demand/modules.dep"), "libcrc32c.ko:\nerofs.ko: libcrc32c.ko\ntun.ko:\n");
        assert_eq!(text("on-demand/modules.alias"), "alias devname:net/tun tun\nalias char-major-10-200 tun\n");
        assert!(text("on-demand/modules.builtin").contains("virtiofs.ko\n"));
        let waiting = entries.iter().filter_map(|(name, ..)| name.strip_prefix("on-demand/")?.strip_suffix(".ko"));
        assert_eq!(waiting.collect::<Vec<_>>(), ["libcrc32c", "erofs", "tun"]);
    }

    /// Names, modes and data of an archive.
    fn contents(path: &Path) -> Vec<(String, u32, Vec<u8>)> {
        let file = fs::File::open(path).unwrap();
        let mut reader = newc::Reader::new(file).unwrap();
        let mut entries = Vec::new();
        while !reader.entry().is_trailer() {
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut data = Vec::new();
            reader.read_to_end(&mut data).unwrap();
            entries.push((name, mode, data));
            reader = newc::Reader::new(reader.finish().unwrap()).unwrap();
        }
        entries
    }

    #[test]
    fn a_cut_off_file_is_made_again_and_other_inputs_make_another_one() {
        let fixture = Fixture::new();
        let kernel = fixture.install().unwrap();
        let cache = fixture.path().join("cache");
        let first = ensure(&cache, b"one", Some(&kernel), &Extra::default()).unwrap();
        let whole = fs::read(&first).unwrap();
        fs::write(&first, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(ensure(&cache, b"one", Some(&kernel), &Extra::default()).unwrap(), first);
        assert!(fs::read(&first).unwrap() == whole);
        assert_ne!(ensure(&cache, b"two", Some(&kernel), &Extra::default()).unwrap(), first);
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 2);
    }

    #[test]
    fn a_kernel_without_modules_gets_the_guest_alone() {
        let cache = tempfile::tempdir().unwrap();
        let path = ensure(cache.path(), b"one", None, &Extra { at_boot: vec!["virtio_net"], on_demand: vec!["tun"] });
        assert!(fs::read(path.unwrap()).unwrap() == archive(b"one", &entries(&[]), &[]).unwrap());
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
        let failed = ensure(&fixture.path().join("cache"), b"one", Some(&kernel), &Extra::default());
        assert!(matches!(failed, Err(InitramfsError::Changed { .. })));
    }
}
