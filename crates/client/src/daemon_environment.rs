//! Which variables a daemon gets of whoever starts it: those that it has a use for. The others may be secrets of a shell or
//! a CI job, and the daemon lives for everybody.

use std::ffi::{OsStr, OsString};

/// Where programs and files are, in which words, and by which way out.
const NAMES: [&str; 22] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "TZ",
    "LANG",
    "LANGUAGE",
    "NO_COLOR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
];
/// What names of others begin with.
const PREFIXES: [&str; 3] = ["SANDPEN_", "XDG_", "LC_"];

/// Those of this process.
pub fn kept() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| is_kept(name))
}

fn is_kept(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    NAMES.iter().any(|kept| kept.as_bytes() == name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_shell_are_not_passed_on() {
        for kept in ["PATH", "HOME", "SANDPEN_STATE_DIR", "XDG_RUNTIME_DIR", "LC_ALL", "https_proxy"] {
            assert!(is_kept(OsStr::new(kept)), "{kept}");
        }
        for other in ["AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PATHS", "path", "", "LD_PRELOAD", "NOTIFY_SOCKET"] {
            assert!(!is_kept(OsStr::new(other)), "{other}");
        }
    }
}
