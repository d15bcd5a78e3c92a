//! Settings of the kernel that the host was asked for.

use std::fs;
use std::io;
use std::path::Path;

/// One that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("setting {name}={value} (below /proc/sys)")]
pub struct SysctlError {
    name: String,
    value: String,
    #[source]
    source: io::Error,
}

/// Makes all of them, in their order: files below `/proc/sys` and what is written to them.
pub fn set_all(sysctls: &[(String, String)]) -> Result<(), SysctlError> {
    sysctls.iter().try_for_each(|(name, value)| {
        let failed = |source| SysctlError { name: name.clone(), value: value.clone(), source };
        // The host has checked that the name leads nowhere else; a file there is made by the kernel alone.
        let path = Path::new("/proc/sys").join(name);
        let file = fs::OpenOptions::new().write(true).open(path);
        file.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes())).map_err(failed)
    })
}
