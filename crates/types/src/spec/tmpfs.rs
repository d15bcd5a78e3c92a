//! File systems in the guest's memory, and how they are written in one line.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::volume::check_guest_path;
use super::{ByteString, SpecError};
use crate::units::ByteSize;

/// Most of them in one sandbox.
pub const TMPFS_MAX: usize = 64;

/// A file system in memory, empty at each start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Where the guest sees it: a path as a volume's.
    pub guest: ByteString,
    /// Most bytes in it; `None` for half of the memory, the kernel's own limit.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Mode of its directory, at most 0o7777; `None` for 0o1777.
    #[serde(default)]
    pub mode: Option<u16>,
    /// Owner of its directory.
    #[serde(default)]
    pub uid: u32,
    /// Group of its directory.
    #[serde(default)]
    pub gid: u32,
    /// Whether programs in it can be executed.
    #[serde(default = "yes")]
    pub exec: bool,
}

fn yes() -> bool {
    true
}

impl Tmpfs {
    /// Reads `PATH` or `PATH:OPTION,OPTION…` with `size=SIZE`, `mode=OCTAL`, `uid=N`, `gid=N`, `exec` and `noexec`; `rw`,
    /// `nosuid` and `nodev`, which hold in any case, may be there.
    ///
    /// # Errors
    /// [`SpecError::Tmpfs`].
    pub fn parse(text: &OsStr) -> Result<Self, SpecError> {
        let whole = text.as_bytes();
        let refused = |reason: &str| SpecError::tmpfs(whole, reason);
        let colon = whole.iter().rposition(|byte| *byte == b':');
        let (guest, options) = colon.map_or((whole, &b""[..]), |at| (&whole[..at], &whole[at + 1..]));
        let guest = ByteString::from(OsStr::from_bytes(guest).to_owned());
        let mut tmpfs = Self { guest, bytes: None, mode: None, uid: 0, gid: 0, exec: true };
        let options = std::str::from_utf8(options).map_err(|_| refused("its options are no text"))?;
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            match (name, value) {
                ("size", Some(size)) => {
                    let size = size.parse::<ByteSize>();
                    tmpfs.bytes = Some(size.map_err(|error| refused(&error.to_string()))?.bytes());
                }
                ("mode", Some(mode)) => {
                    let octal = mode.bytes().all(|byte| byte.is_ascii_digit());
                    let mode = u16::from_str_radix(mode, 8).ok().filter(|_| octal);
                    tmpfs.mode = Some(mode.ok_or_else(|| refused("its mode is no octal number, for example 0755"))?);
                }
                ("uid" | "gid", Some(id)) => {
                    let id = id.parse().map_err(|_| refused("its uid or gid is no number"))?;
                    *(if name == "uid" { &mut tmpfs.uid } else { &mut tmpfs.gid }) = id;
                }
                ("exec", None) => tmpfs.exec = true,
                ("noexec", None) => tmpfs.exec = false,
                ("rw" | "nosuid" | "nodev", None) => {}
                _ => {
                    let known = "size=, mode=, uid=, gid=, exec and noexec";
                    return Err(refused(&format!("there is no option {option:?}; there are {known}")));
                }
            }
        }
        check(std::slice::from_ref(&tmpfs))?;
        Ok(tmpfs)
    }
}

impl FromStr for Tmpfs {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        Self::parse(OsStr::new(text))
    }
}

impl fmt::Display for Tmpfs {
    /// Its path and what differs from the defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.guest.as_os_str().display())?;
        if let Some(bytes) = self.bytes {
            write!(f, "size={}K,", bytes >> 10)?;
        }
        if let Some(mode) = self.mode {
            write!(f, "mode={mode:o},")?;
        }
        write!(f, "uid={},gid={},{}", self.uid, self.gid, if self.exec { "exec" } else { "noexec" })
    }
}

/// Checks a sandbox's.
pub(super) fn check(all: &[Tmpfs]) -> Result<(), SpecError> {
    let refused = |tmpfs: &Tmpfs, reason: &str| Err(SpecError::tmpfs(tmpfs.guest.as_bytes(), reason));
    if let Some(one_more) = all.get(TMPFS_MAX) {
        return refused(one_more, &format!("a sandbox has at most {TMPFS_MAX} of them"));
    }
    for (at, tmpfs) in all.iter().enumerate() {
        if let Err(reason) = check_guest_path(&tmpfs.guest) {
            return refused(tmpfs, reason);
        }
        if tmpfs.bytes.is_some_and(|bytes| bytes < 4096) {
            return refused(tmpfs, "its size is less than 4K");
        }
        if tmpfs.mode.is_some_and(|mode| mode > 0o7777) {
            return refused(tmpfs, "its mode is more than 7777");
        }
        if tmpfs.uid == u32::MAX || tmpfs.gid == u32::MAX {
            return refused(tmpfs, "its uid or gid is nobody's");
        }
        if all[..at].iter().any(|other| other.guest == tmpfs.guest) {
            return refused(tmpfs, "two have this path");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_line_says_where_and_how() {
        let plain: Tmpfs = "/tmp".parse().unwrap();
        let expected = Tmpfs { guest: "/tmp".into(), bytes: None, mode: None, uid: 0, gid: 0, exec: true };
        assert_eq!(plain, expected);
        let full: Tmpfs = "/a:b:rw,size=64M,mode=0750,uid=7,gid=8,nosuid,nodev,noexec".parse().unwrap();
        let expected =
            Tmpfs { guest: "/a:b".into(), bytes: Some(64 << 20), mode: Some(0o750), uid: 7, gid: 8, exec: false };
        assert_eq!(full, expected);
        let least: Tmpfs = serde_json::from_str(r#"{"guest":"/tmp"}"#).unwrap();
        assert_eq!(least, plain);
    }

    #[test]
    fn hostile_and_half_lines_are_refused() {
        for text in [
            "",
            "/",
            "tmp",
            "/dev/x",
            "/proc",
            "/a/../b",
            "/a:size=0K",
            "/a:size=1",
            "/a:size=-1M",
            "/a:mode=8",
            "/a:mode=17777",
            "/a:mode=+7",
            "/a:mode=",
            "/a:uid=x",
            "/a:gid=4294967295",
            "/a:ro",
            "/a:size",
            "/a:mpol=bind",
            "/a:exec=1",
        ] {
            let refused = text.parse::<Tmpfs>().unwrap_err().to_string();
            assert!(refused.starts_with("tmpfs "), "{text:?}: {refused}");
        }
        let twice = vec!["/a".parse::<Tmpfs>().unwrap(), "/a:size=1M".parse().unwrap()];
        assert!(check(&twice).unwrap_err().to_string().contains("two have this path"));
        let many: Vec<Tmpfs> = (0..=TMPFS_MAX).map(|n| format!("/{n}").parse().unwrap()).collect();
        assert!(check(&many).unwrap_err().to_string().contains("at most 64"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            name in "[a-z:,=]{1,8}", pages in proptest::option::of(1..1_000_000_u64), mode in proptest::option::of(0..0o10000_u16),
            uid in 0..u32::MAX, gid in 0..u32::MAX, exec: bool,
        ) {
            prop_assume!(!["dev", "proc", "sys"].contains(&name.as_str()));
            let tmpfs =
                Tmpfs { guest: format!("/{name}").as_str().into(), bytes: pages.map(|pages| pages << 12), mode, uid, gid, exec };
            prop_assert_eq!(tmpfs.to_string().parse(), Ok(tmpfs));
        }
    }
}
