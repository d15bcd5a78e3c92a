//! A guest kernel of the user's own: what of it shows without reading it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::SpecError;

/// Largest kernel that is accepted, in bytes (1 GiB): a `vmlinux` with all its debug information has less.
pub const KERNEL_MAX_BYTES: u64 = 1 << 30;

/// Checks the path without a look at the host.
pub(super) fn check(kernel: &Path) -> Result<(), SpecError> {
    if !kernel.is_absolute() {
        let reason = "the path is not absolute".to_owned();
        return Err(SpecError::Kernel { path: kernel.to_owned(), reason });
    }
    if kernel.as_os_str().as_bytes().contains(&0) {
        return Err(SpecError::Nul { what: "the path of the kernel" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_absolute_and_holds_no_nul() {
        assert!(check(Path::new("vmlinux")).unwrap_err().to_string().contains("not absolute"));
        assert!(matches!(check(Path::new("/a\0b")), Err(SpecError::Nul { .. })));
        assert_eq!(check(Path::new("/boot/vmlinuz")), Ok(()));
    }
}
