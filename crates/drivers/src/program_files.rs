//! Which files a program beside a microVM needs, QEMU or mke2fs: itself, libraries and QEMU's data. Somebody's home is
//! never among them, nor what holds homes, wherever the program lies.
//!
//! ```text
//!   PREFIX/bin/qemu-system-x86_64   itself
//!   PREFIX/lib*                     libraries and modules      and the system's
//!   PREFIX/share/{qemu,seabios…}    firmware                   and the system's
//! ```

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

/// Where a system's libraries lie, the loader among them; `ld.so.cache` leads to no other place by default.
const LIBRARIES: [&str; 8] =
    ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", "/nix/store", "/gnu/store"];
/// Names of directories with libraries below a program's prefix.
const LIBRARY_NAMES: [&str; 4] = ["lib", "lib64", "lib32", "libx32"];
/// Directories with firmware below `PREFIX/share`, as distributions name them.
const DATA_NAMES: [&str; 7] = ["qemu", "qemu-kvm", "qemu-firmware", "seabios", "seavgabios", "sgabios", "ipxe"];
/// Beside a program that lies where it was built: its firmware.
const BUILT_NAMES: [&str; 2] = ["qemu-bundle", "pc-bios"];
/// Beside that directory: the firmware of its sources.
const SOURCES_NAME: &str = "pc-bios";
/// Programs that a script in the program's place runs, and where the program itself may be.
const PROGRAMS: [&str; 6] = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/libexec", "/usr/local/bin"];
/// Where homes are, whosever they are.
const HOMES: [&str; 2] = ["/home", "/root"];

/// What the program needs of the host's files. A path that is not there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProgramFiles {
    /// What is executed, or holds what is: the program, the loader, libraries.
    pub(super) execute: Vec<PathBuf>,
    /// What is read: firmware.
    pub(super) read: Vec<PathBuf>,
}

impl ProgramFiles {
    /// Those of the program at `path`, in the environment of this process. Blocking, for microseconds.
    pub(super) fn of(path: &Path) -> Self {
        let program = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let library_path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let known = User::from_uid(Uid::effective()).ok().flatten().map(|user| user.dir);
        let homes = std::env::var_os("HOME").map(PathBuf::from).into_iter().chain(known);
        let homes: Vec<PathBuf> = homes.flat_map(|home| [home.canonicalize().ok(), Some(home)]).flatten().collect();
        let mut files = Self::new(&program, is_script(&program), &library_path, &homes);
        // What links lead to counts.
        let allowed = |path: &PathBuf| {
            *path == program || path.canonicalize().map_or(true, |real| !is_home_or_above(&real, &homes))
        };
        files.execute.retain(allowed);
        files.read.retain(allowed);
        files
    }

    /// The same from what was looked up: the program's canonical path, whether it is a script, `LD_LIBRARY_PATH`,
    /// and homes.
    fn new(program: &Path, is_script: bool, library_path: &OsStr, homes: &[PathBuf]) -> Self {
        let mut execute = vec![program.to_owned()];
        let mut read = Vec::new();
        execute.extend(LIBRARIES.map(PathBuf::from));
        if is_script {
            execute.extend(PROGRAMS.map(PathBuf::from));
        }
        let shared = |prefix: &Path| DATA_NAMES.map(|name| prefix.join("share").join(name));
        read.extend(shared(Path::new("/usr")));
        if let Some(directory) = program.parent() {
            read.extend(BUILT_NAMES.map(|name| directory.join(name)));
            if let Some(prefix) = directory.parent() {
                execute.extend(LIBRARY_NAMES.map(|name| prefix.join(name)));
                read.extend(shared(prefix));
                read.push(prefix.join(SOURCES_NAME));
            }
        }
        execute.extend(std::env::split_paths(library_path).filter(|path| path.is_absolute()));
        // The program itself is a file.
        let (first, others) = (execute.remove(0), execute);
        let allowed = |path: &PathBuf| !is_home_or_above(path, homes);
        let execute: Vec<PathBuf> = std::iter::once(first).chain(others.into_iter().filter(allowed)).collect();
        read.retain(allowed);
        Self { execute: once_each(execute), read: once_each(read) }
    }
}

/// Whether a path is a home, or a directory that has one in it.
fn is_home_or_above(path: &Path, homes: &[PathBuf]) -> bool {
    let all = HOMES.iter().map(Path::new).chain(homes.iter().map(PathBuf::as_path));
    let is_of_somebody = path.parent() == Some(Path::new(HOMES[0]));
    is_of_somebody
        || path.parent().is_none()
        || all.filter(|home| home.parent().is_some()).any(|home| home.starts_with(path))
}

fn once_each(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seen = std::collections::BTreeSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    paths
}

/// Whether another program runs the file.
fn is_script(program: &Path) -> bool {
    let mut magic = [0; 2];
    File::open(program).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"#!"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(program: &str, library_path: &str) -> ProgramFiles {
        ProgramFiles::new(Path::new(program), false, OsStr::new(library_path), &["/srv/ada".into()])
    }

    fn all(files: &ProgramFiles) -> Vec<String> {
        files.execute.iter().chain(&files.read).map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_systems_qemu_is_its_libraries_and_its_firmware() {
        let files = files("/usr/bin/qemu-system-x86_64", "");
        insta::assert_snapshot!(all(&files).join(" "), @"/usr/bin/qemu-system-x86_64 /lib /lib64 /usr/lib /usr/lib64 /usr/local/lib /usr/local/lib64 /nix/store /gnu/store /usr/lib32 /usr/libx32 /usr/share/qemu /usr/share/qemu-kvm /usr/share/qemu-firmware /usr/share/seabios /usr/share/seavgabios /usr/share/sgabios /usr/share/ipxe /usr/bin/qemu-bundle /usr/bin/pc-bios /usr/pc-bios");
    }

    #[test]
    fn of_a_prefix_only_what_is_qemus() {
        let said = all(&files("/opt/qemu/bin/qemu-system-x86_64", ""));
        let opt: Vec<_> = said.iter().filter_map(|path| path.strip_prefix("/opt/qemu/")).collect();
        assert!(opt.contains(&"bin/qemu-system-x86_64") && opt.contains(&"lib") && opt.contains(&"share/qemu"));
        assert!(!said.iter().any(|path| path == "/opt/qemu" || path == "/opt/qemu/share" || path == "/opt/qemu/bin"));
    }

    #[test]
    fn a_home_is_never_granted_nor_what_holds_one() {
        // Two above it is the home itself, or what holds the state directory.
        let programs = ["/home/eve/bin/qemu", "/srv/ada/bin/qemu", "/srv/ada/.local/bin/qemu", "/root/qemu", "/qemu"];
        let libraries = "/home/eve:/:/home:/srv/ada:/srv:/root:relative:/home/eve/.local/lib";
        for program in programs {
            let said = all(&files(program, libraries));
            for home in ["/", "/home", "/home/eve", "/srv", "/srv/ada", "/srv/ada/.local", "/root"] {
                assert!(!said.iter().any(|path| path == home), "{program} grants {home}: {said:?}");
            }
            assert!(said.contains(&program.to_owned()) && said.contains(&"/home/eve/.local/lib".to_owned()));
            assert!(!said.contains(&"relative".to_owned()));
        }
    }

    #[test]
    fn what_leads_to_a_home_is_not_granted() {
        let Some(home) = std::env::var_os("HOME").filter(|home| Path::new(home).is_dir()) else { return };
        let dir = tempfile::tempdir().unwrap();
        let prefix = dir.path().canonicalize().unwrap();
        std::fs::create_dir(prefix.join("bin")).unwrap();
        std::os::unix::fs::symlink(home, prefix.join("lib")).unwrap();
        std::fs::write(prefix.join("bin/qemu"), "").unwrap();
        let files = ProgramFiles::of(&prefix.join("bin/qemu"));
        assert!(!files.execute.contains(&prefix.join("lib")) && files.execute.contains(&prefix.join("lib64")));
    }

    #[test]
    fn a_script_may_run_programs_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("qemu");
        std::fs::write(&script, "#!/bin/sh\nexec qemu \"$@\"\n").unwrap();
        assert!(ProgramFiles::of(&script).execute.contains(&"/usr/bin".into()));
        std::fs::write(&script, "\u{7f}ELF").unwrap();
        assert!(!ProgramFiles::of(&script).execute.contains(&"/usr/bin".into()));
        std::fs::write(&script, "").unwrap();
        assert!(!ProgramFiles::of(&script).execute.contains(&"/usr/bin".into()));
    }
}
