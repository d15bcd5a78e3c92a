//! What a specification names of this host: directories, files and ports. Everything here blocks, for
//! microseconds: not for an arbiter thread.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use sandpen_types::spec::{
    CheckedSpec, HostPath, KERNEL_MAX_BYTES, PublishedPort, SandboxSpec, SpecError, Volume, VolumeSource,
};
use sandpen_types::state_dir::StateDir;

/// Looks whether the host has what a specification names.
///
/// # Errors
/// The first [`SpecError`] found.
pub fn check(spec: &CheckedSpec) -> Result<(), SpecError> {
    for path in spec.rootfs.paths() {
        check_root(path)?;
    }
    check_volumes(&spec.volumes)?;
    spec.kernel.as_deref().map_or(Ok(()), check_kernel)
}

/// Makes the directories of named volumes where they are missing.
///
/// # Errors
/// One that cannot be made.
pub fn make_named_volumes(spec: &SandboxSpec, dir: &StateDir) -> Result<(), SpecError> {
    for volume in &spec.volumes {
        let VolumeSource::Named(name) = &volume.source else { continue };
        for (path, mode) in [(dir.volumes(), 0o700), (dir.named_volume(name), 0o755)] {
            let refused = |reason: &str| SpecError::volume(name.as_str().as_bytes(), reason);
            match std::fs::DirBuilder::new().mode(mode).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // A link would lead to what is not the volume's.
                    let meta = std::fs::symlink_metadata(&path).map_err(|error| refused(&error.to_string()))?;
                    if !meta.is_dir() {
                        let what = if meta.is_symlink() { "a symbolic link" } else { "a file" };
                        let path = path.display();
                        let reason = format!("in the place of its directory {path} is {what}; move that away");
                        return Err(refused(&reason));
                    }
                }
                made => made.map_err(|error| refused(&error.to_string()))?,
            }
        }
    }
    Ok(())
}

/// The same with the real paths of everything that it names: what is found now is what every start of it takes, and
/// a link that is turned later changes nothing.
///
/// # Errors
/// What is not there, or has a path that is no text.
pub fn resolve(spec: CheckedSpec) -> Result<CheckedSpec, SpecError> {
    spec.with_paths(|path| {
        let (given, refused): (&Path, Box<dyn Fn(String) -> SpecError>) = match path {
            HostPath::Root(path) => {
                let refused = |reason| SpecError::RootfsUnusable { path: path.to_owned(), reason };
                (path, Box::new(refused))
            }
            HostPath::Volume(path) => {
                (path, Box::new(|reason| SpecError::volume(path.as_os_str().as_bytes(), &reason)))
            }
            HostPath::Kernel(path) => (path, Box::new(|reason| refused_kernel(path, reason))),
        };
        let real = given.canonicalize().map_err(|error| refused(error.to_string()))?;
        // The database, and all that shares it, take text.
        match real.to_str() {
            Some(_) => Ok(real),
            None => Err(refused(format!("its real path {} is not UTF-8", real.display()))),
        }
    })
}

fn check_root(path: &Path) -> Result<(), SpecError> {
    let unusable = |reason: &str| Err(SpecError::RootfsUnusable { path: path.to_owned(), reason: reason.to_owned() });
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => unusable("not a directory"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => unusable("no such directory"),
        Err(error) => unusable(&error.to_string()),
    }
}

/// Looks at the host: every volume of its must be a directory or a file.
fn check_volumes(volumes: &[Volume]) -> Result<(), SpecError> {
    for volume in volumes {
        let VolumeSource::Host(host) = &volume.source else { continue };
        let refused = |reason: String| Err(SpecError::volume(host.as_os_str().as_bytes(), &reason));
        match std::fs::metadata(host) {
            Ok(meta) if meta.is_dir() || meta.is_file() => {}
            Ok(_) => {
                let reason = "it is neither a directory nor a regular file; a socket or device of the host's is of no \
                              use to a guest";
                return refused(reason.into());
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return refused("there is no such directory or file; make it first".into());
            }
            Err(e) => return refused(e.to_string()),
        }
    }
    Ok(())
}

fn refused_kernel(kernel: &Path, reason: impl Into<String>) -> SpecError {
    SpecError::Kernel { path: kernel.to_owned(), reason: reason.into() }
}

/// Looks at the host: it must be a file, of a size that a kernel can have, and readable. Nothing is opened,
/// so nothing waits.
fn check_kernel(kernel: &Path) -> Result<(), SpecError> {
    let meta = std::fs::metadata(kernel).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refused_kernel(kernel, "there is no such file"),
        _ => refused_kernel(kernel, error.to_string()),
    })?;
    if meta.is_dir() {
        return Err(refused_kernel(kernel, "it is a directory; give the file of the kernel, a bzImage or vmlinux"));
    }
    if !meta.is_file() {
        return Err(refused_kernel(
            kernel,
            "it is not a regular file; give the file of the kernel, a bzImage or vmlinux",
        ));
    }
    match meta.len() {
        0 => return Err(refused_kernel(kernel, "it is empty")),
        1..=KERNEL_MAX_BYTES => {}
        bytes => {
            return Err(refused_kernel(
                kernel,
                format!("it has {bytes} bytes; a kernel has at most {KERNEL_MAX_BYTES}"),
            ));
        }
    }
    access(kernel, AccessFlags::R_OK).map_err(|errno| refused_kernel(kernel, io::Error::from(errno).to_string()))
}

/// Chooses a free port of the host for every published port that names none (0). Somebody else may
/// take it before the sandbox listens there, which then is refused as any other. Blocking, for
/// microseconds.
pub fn choose_free_ports(ports: &mut [PublishedPort]) -> Result<(), SpecError> {
    let failed = |error: io::Error| SpecError::NoFreePort(error.to_string());
    let given: Vec<u16> = ports.iter().map(|port| port.host).filter(|host| *host != 0).collect();
    // All held until the last is chosen, so that none is chosen twice.
    let mut held = Vec::new();
    for port in ports.iter_mut().filter(|port| port.host == 0) {
        while port.host == 0 {
            let address = port.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let listener = TcpListener::bind((address, 0)).map_err(failed)?;
            let free = listener.local_addr().map_err(failed)?.port();
            if !given.contains(&free) {
                port.host = free;
            }
            held.push(listener);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandpen_types::spec::{Network, Rootfs, SandboxName, SandboxSpec};

    fn spec_in(dir: &Path) -> CheckedSpec {
        let rootfs = Rootfs::Native(dir.to_owned());
        SandboxSpec::new(SandboxName::new("a").unwrap(), rootfs, vec!["/bin/true".into()]).try_into().unwrap()
    }

    #[test]
    fn the_root_has_to_be_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(check(&spec_in(dir.path())), Ok(()));
        for name in ["missing", "file"] {
            let refused = check(&spec_in(&dir.path().join(name)));
            assert!(matches!(refused, Err(SpecError::RootfsUnusable { .. })), "{name}: {refused:?}");
        }
    }

    #[test]
    fn paths_become_real_ones_once() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        for name in ["root", "data"] {
            std::fs::create_dir(base.join(name)).unwrap();
            std::os::unix::fs::symlink(name, base.join(format!("to-{name}"))).unwrap();
        }
        std::fs::write(base.join("vmlinux"), "x").unwrap();
        std::os::unix::fs::symlink("vmlinux", base.join("to-kernel")).unwrap();
        let spec = SandboxSpec {
            volumes: vec![Volume::of_host(base.join("root/../to-data"), "/a", true)],
            kernel: Some(base.join("to-kernel")),
            ..(*spec_in(&base.join("to-root"))).clone()
        };
        let resolved = resolve(spec.clone().try_into().unwrap()).unwrap();
        assert_eq!(resolved.rootfs, Rootfs::Native(base.join("root")));
        assert_eq!(resolved.volumes[0].source, VolumeSource::Host(base.join("data")));
        assert_eq!(resolved.kernel, Some(base.join("vmlinux")));
        // Layers that are one directory in the end.
        let layers = Rootfs::Overlayfs(vec![base.join("root"), base.join("to-root")]);
        let twice = SandboxSpec { rootfs: layers, ..spec.clone() };
        assert_eq!(resolve(twice.try_into().unwrap()), Err(SpecError::LayerTwice(base.join("root"))));
        std::fs::remove_file(base.join("vmlinux")).unwrap();
        assert!(matches!(resolve(spec.try_into().unwrap()), Err(SpecError::Kernel { .. })));
        let odd = base.join(std::ffi::OsStr::from_bytes(b"\xff"));
        std::fs::create_dir(&odd).unwrap();
        std::os::unix::fs::symlink(&odd, base.join("to-odd")).unwrap();
        let error = resolve(spec_in(&base.join("to-odd"))).unwrap_err().to_string();
        assert!(error.contains("not UTF-8"), "{error}");
    }

    #[test]
    fn a_volume_has_to_be_a_directory_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let at = |name: &str| Volume::of_host(dir.path().join(name), "/a", false);
        assert_eq!(check_volumes(&[at(".")]), Ok(()));
        assert_eq!(check_volumes(&[at("file")]), Ok(()));
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(check_volumes(&[at("fifo")]).unwrap_err().to_string().contains("neither a directory nor"));
        assert!(check_volumes(&[at("missing")]).unwrap_err().to_string().contains("make it first"));
    }

    #[test]
    fn a_named_volume_is_a_directory_of_its_own_or_none() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::new(temp.path().to_owned());
        let make = |name: &str| {
            let volume = format!("{name}:/data").parse().unwrap();
            let spec = SandboxSpec { volumes: vec![volume], ..(*spec_in(temp.path())).clone() };
            make_named_volumes(&spec, &dir)
        };
        // Once made, and found the next time.
        assert_eq!((make("fine"), make("fine")), (Ok(()), Ok(())));
        std::fs::write(dir.volumes().join("file"), "x").unwrap();
        std::os::unix::fs::symlink(temp.path(), dir.volumes().join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.volumes().join("dangling")).unwrap();
        for (name, what) in [("file", "a file"), ("link", "a symbolic link"), ("dangling", "a symbolic link")] {
            let refused = make(name).unwrap_err().to_string();
            assert!(refused.contains(what) && refused.contains(&format!("volumes/{name}")), "{refused}");
        }
        // The directory of all of them is one as well.
        let elsewhere = temp.path().join("elsewhere");
        std::fs::rename(dir.volumes(), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.volumes()).unwrap();
        assert!(make("fine").unwrap_err().to_string().contains("a symbolic link"));
    }

    #[test]
    fn what_can_be_no_kernel_is_refused_with_the_reason_and_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("empty"), "").unwrap();
        std::fs::write(at("file"), "x").unwrap();
        std::fs::File::create(at("huge")).unwrap().set_len(KERNEL_MAX_BYTES + 1).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("missing", at("dangling")).unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        for (path, reason) in [
            (at("missing"), "no such file"),
            (at("dangling"), "no such file"),
            (at("file/below"), "Not a directory"),
            (at(""), "it is a directory"),
            (at("fifo"), "not a regular file"),
            ("/dev/zero".into(), "not a regular file"),
            (at("empty"), "it is empty"),
            (at("huge"), "1073741825 bytes"),
        ] {
            let error = check_kernel(&path).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(path.to_str().unwrap()), "{error}");
        }
        assert_eq!(check_kernel(&at("file")), Ok(()));
        assert_eq!(check_kernel(&at("link")), Ok(()));
    }

    #[test]
    fn free_ports_are_chosen_and_given_ones_stay() {
        let mut ports: Vec<PublishedPort> = ["0:80", "7:7", "127.0.0.1:0:81"].map(|text| text.parse().unwrap()).into();
        choose_free_ports(&mut ports).unwrap();
        assert!(ports[0].host != 0 && ports[2].host != 0 && ports[0].host != ports[2].host, "{ports:?}");
        assert_eq!((ports[1].host, ports[2].guest), (7, 81));
        let spec = SandboxSpec { network: Network::On, ports, ..(*spec_in(Path::new("/"))).clone() };
        assert_eq!(spec.check_values(), Ok(()));
        let mut nowhere = ["192.0.2.1:0:1".parse().unwrap()];
        assert!(matches!(choose_free_ports(&mut nowhere), Err(SpecError::NoFreePort(_))));
    }
}
