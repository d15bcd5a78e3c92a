//! A guest kernel of the user's own: what of it shows without reading it, and which one it was.

use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SpecError;
use crate::sha256;

/// Largest kernel that is accepted, in bytes (1 GiB): a `vmlinux` with all its debug information has less.
pub const KERNEL_MAX_BYTES: u64 = 1 << 30;

/// SHA-256 of a kernel, unpacked; written as 64 hexadecimal digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelDigest([u8; 32]);

impl KernelDigest {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for KernelDigest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for KernelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        sha256::write(&self.0, f)
    }
}

impl fmt::Debug for KernelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KernelDigest({self})")
    }
}

impl FromStr for KernelDigest {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        sha256::read(text).map(Self).ok_or_else(|| SpecError::KernelDigest(text.to_owned()))
    }
}

impl TryFrom<String> for KernelDigest {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<KernelDigest> for String {
    fn from(digest: KernelDigest) -> Self {
        digest.to_string()
    }
}

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
    fn a_digest_is_read_as_it_is_written_and_nothing_else_is() {
        let mut bytes = [0; 32];
        (bytes[0], bytes[1], bytes[31]) = (0x0f, 0xa0, 255);
        let digest = KernelDigest::from(bytes);
        let text = digest.to_string();
        assert!(text.starts_with("0fa000") && text.ends_with("00ff") && text.len() == 64, "{text}");
        assert_eq!((text.parse(), digest.bytes()), (Ok(digest), &bytes));
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<KernelDigest>(&json).unwrap(), digest);
        for hostile in ["", "0f", &text[1..], &format!("{text}0"), &text.to_uppercase(), &text.replace("0f", "..")] {
            assert_eq!(hostile.parse::<KernelDigest>(), Err(SpecError::KernelDigest(hostile.to_owned())));
        }
        assert!(format!("{}é", &text[2..]).parse::<KernelDigest>().is_err());
    }

    #[test]
    fn a_path_is_absolute_and_holds_no_nul() {
        assert!(check(Path::new("vmlinux")).unwrap_err().to_string().contains("not absolute"));
        assert!(matches!(check(Path::new("/a\0b")), Err(SpecError::Nul { .. })));
        assert_eq!(check(Path::new("/boot/vmlinuz")), Ok(()));
    }
}
