//! A guest kernel of the user's own: what of it shows without reading it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::SpecError;

/// Largest kernel that is accepted, in bytes (1 GiB): a `vmlinux` with all its debug information has less.
pub const KERNEL_MAX_BYTES: u64 = 1 << 30;

fn refused(kernel: &Path, reason: impl Into<String>) -> SpecError {
    SpecError::Kernel { path: kernel.to_owned(), reason: reason.into() }
}

/// Checks the path without a look at the host.
pub(super) fn check(kernel: &Path) -> Result<(), SpecError> {
    if !kernel.is_absolute() {
        return Err(refused(kernel, "the path is not absolute"));
    }
    if kernel.as_os_str().as_bytes().contains(&0) {
        return Err(SpecError::Nul { what: "the path of the kernel" });
    }
    Ok(())
}

/// Looks at the host: it must be a file, of a size that a kernel can have, and readable. Nothing is opened,
/// so nothing waits.
pub(super) fn check_host(kernel: &Path) -> Result<(), SpecError> {
    let meta = std::fs::metadata(kernel).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => refused(kernel, "there is no such file"),
        _ => refused(kernel, error.to_string()),
    })?;
    if meta.is_dir() {
        return Err(refused(kernel, "it is a directory; give the file of the kernel, a bzImage or vmlinux"));
    }
    if !meta.is_file() {
        return Err(refused(kernel, "it is not a regular file; give the file of the kernel, a bzImage or vmlinux"));
    }
    match meta.len() {
        0 => return Err(refused(kernel, "it is empty")),
        1..=KERNEL_MAX_BYTES => {}
        bytes => return Err(refused(kernel, format!("it has {bytes} bytes; a kernel has at most {KERNEL_MAX_BYTES}"))),
    }
    access(kernel, AccessFlags::R_OK).map_err(|errno| refused(kernel, std::io::Error::from(errno).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let error = check_host(&path).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(path.to_str().unwrap()), "{error}");
        }
        assert_eq!(check_host(&at("file")), Ok(()));
        assert_eq!(check_host(&at("link")), Ok(()));
        assert!(check(Path::new("vmlinux")).unwrap_err().to_string().contains("not absolute"));
        assert!(matches!(check(Path::new("/a\0b")), Err(SpecError::Nul { .. })));
    }
}
