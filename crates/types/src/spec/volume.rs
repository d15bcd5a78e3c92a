//! Host directories that a sandbox gets beside its root, and how they are written in one line.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ByteString, SpecError};

/// Most volumes of a sandbox, whatever its driver; a driver may take fewer.
pub const VOLUMES_MAX: usize = 64;
/// Most bytes of a guest path (`PATH_MAX` of Linux, with its NUL).
const GUEST_PATH_MAX: usize = 4095;
/// Most bytes of one component of it (`NAME_MAX`).
const COMPONENT_MAX: usize = 255;
/// Directories that the guest's own system needs.
const RESERVED: [&[u8]; 3] = [b"proc", b"sys", b"dev"];

/// A host directory inside the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// The directory on the host, absolute.
    pub host: PathBuf,
    /// Where the guest sees it: absolute, without `.`, `..` and empty components, and not `/`,
    /// `/proc`, `/sys`, `/dev` or below those three.
    pub guest: ByteString,
    /// Whether the guest may only read. The host holds it to that.
    #[serde(default)]
    pub read_only: bool,
}

impl Volume {
    /// Reads `HOST:GUEST`, `HOST:GUEST:ro` or `HOST:GUEST:rw`. The guest path begins at the last `:/`,
    /// so `HOST` may hold any colons; a guest path that ends in `:ro` needs `:rw` or `:ro` after it.
    /// `HOST` starts with `.` or `/`, so that a word without them can come to mean something else one
    /// day. Nothing is looked up.
    ///
    /// # Errors
    /// [`SpecError::Volume`].
    pub fn parse(text: &OsStr) -> Result<Self, SpecError> {
        let whole = text.as_bytes();
        let refused = |reason: &str| SpecError::volume(whole, reason);
        let read_only = whole.ends_with(b":ro");
        let rest = if read_only || whole.ends_with(b":rw") { &whole[..whole.len() - 3] } else { whole };
        let colon = rest.windows(2).rposition(|pair| pair == b":/");
        let (host, guest) = colon
            .map(|at| (&rest[..at], &rest[at + 1..]))
            .ok_or_else(|| refused("it is not of the form HOST:GUEST or HOST:GUEST:ro with an absolute GUEST"))?;
        if !matches!(host.first(), Some(b'.' | b'/')) {
            return Err(refused("HOST must start with \".\" or \"/\", for example ./data:/data"));
        }
        let owned = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let volume = Self { host: owned(host).into(), guest: owned(guest).into(), read_only };
        volume.check_guest()?;
        Ok(volume)
    }

    /// The components of the guest path.
    fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.guest.as_bytes().split(|byte| *byte == b'/').skip(1)
    }

    fn check_guest(&self) -> Result<(), SpecError> {
        let path = self.guest.as_bytes();
        let refused = |reason: &str| Err(SpecError::volume(path, reason));
        if path.first() != Some(&b'/') {
            return refused("the guest path is not absolute");
        }
        if path == b"/" {
            return refused("the guest's / is its root directory; use a directory below it");
        }
        if path.contains(&0) {
            return refused("the guest path holds a NUL byte");
        }
        if path.len() > GUEST_PATH_MAX || self.components().any(|part| part.len() > COMPONENT_MAX) {
            return refused("the guest path is too long");
        }
        if self.components().any(|part| matches!(part, b"" | b"." | b"..")) {
            return refused("a component of the guest path is empty, \".\" or \"..\"; write the path without");
        }
        if self.components().next().is_some_and(|first| RESERVED.contains(&first)) {
            return refused("/proc, /sys and /dev are the guest's own; use another directory");
        }
        Ok(())
    }
}

impl FromStr for Volume {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        Self::parse(OsStr::new(text))
    }
}

impl fmt::Display for Volume {
    /// What [`Volume::parse`] reads, where both paths are text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.read_only { "ro" } else { "rw" };
        write!(f, "{}:{}:{access}", self.host.display(), self.guest.as_os_str().display())
    }
}

/// Checks a sandbox's volumes without a look at the host.
pub(super) fn check(volumes: &[Volume]) -> Result<(), SpecError> {
    if volumes.len() > VOLUMES_MAX {
        return Err(SpecError::Volumes(volumes.len()));
    }
    for (at, volume) in volumes.iter().enumerate() {
        volume.check_guest()?;
        if !volume.host.is_absolute() {
            return Err(SpecError::volume(volume.host.as_os_str().as_bytes(), "the host path is not absolute"));
        }
        if volume.host.as_os_str().as_bytes().contains(&0) {
            return Err(SpecError::Nul { what: "the host path of a volume" });
        }
        if volumes[..at].iter().any(|other| other.guest == volume.guest) {
            return Err(SpecError::volume(volume.guest.as_bytes(), "two volumes have this guest path"));
        }
    }
    Ok(())
}

/// Volumes in the order in which they are mounted: one that lies inside of another comes after it.
pub fn by_depth(volumes: &[Volume]) -> Vec<&Volume> {
    let mut volumes: Vec<&Volume> = volumes.iter().collect();
    volumes.sort_by_key(|volume| volume.components().count());
    volumes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Volume, SpecError> {
        Volume::parse(OsStr::new(text))
    }

    fn volume(host: &str, guest: &str, read_only: bool) -> Volume {
        Volume { host: host.into(), guest: guest.into(), read_only }
    }

    #[test]
    fn one_line_says_where_and_how() {
        for (text, expected) in [
            ("/a:/b", volume("/a", "/b", false)),
            ("./a:/b:ro", volume("./a", "/b", true)),
            (".:/b/c:rw", volume(".", "/b/c", false)),
            ("/a:b:/c", volume("/a:b", "/c", false)),
            ("/a:/b:/c:ro", volume("/a:/b", "/c", true)),
            ("/a:/b:c", volume("/a", "/b:c", false)),
            ("/a:/b:ro:rw", volume("/a", "/b:ro", false)),
            ("/a,b \n:/c,\n d", volume("/a,b \n", "/c,\n d", false)),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn hostile_and_half_lines_are_refused() {
        for text in [
            "",
            ":",
            "/a",
            "/a:",
            "/a:b",
            ":/b",
            "a:/b",
            "~/a:/b",
            "/a:/",
            "/a:/:ro",
            "/a:/b/",
            "/a://b",
            "/a:/b/../c",
            "/a:/./b",
            "/a:/..",
            "/a:/proc",
            "/a:/proc/1",
            "/a:/sys/x",
            "/a:/dev",
            "/a:/dev/shm",
            "/a:/b\0c",
            "/a:ro",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse("/a:/process").is_ok() && parse("/a:/var/dev").is_ok());
        assert!(parse(&format!("/a:/{}", "x".repeat(256))).is_err());
        assert!(parse(&format!("/a:{}", "/x".repeat(3000))).is_err());
    }

    #[test]
    fn sets_of_volumes_are_checked_and_ordered() {
        let all = [volume("/h", "/a/b/c", false), volume("/h", "/a", true), volume("/h", "/b:x/y", false)];
        assert_eq!(check(&all), Ok(()));
        let order: Vec<_> = by_depth(&all).into_iter().map(|v| v.guest.clone()).collect();
        assert_eq!(order, ["/a", "/b:x/y", "/a/b/c"].map(ByteString::from));
        assert!(check(&[volume("/h", "/a", false), volume("/i", "/a", true)]).is_err());
        assert!(check(&[volume("h", "/a", false)]).is_err());
        let many: Vec<_> = (0..=VOLUMES_MAX).map(|n| volume("/h", &format!("/{n}"), false)).collect();
        assert_eq!(check(&many), Err(SpecError::Volumes(65)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            host in "[./][a-z:/ ,\n]{0,12}",
            parts in proptest::collection::vec("[a-z:, \n]{1,8}", 1..4),
            read_only: bool,
        ) {
            let guest = format!("/{}", parts.join("/"));
            prop_assume!(!["/proc", "/sys", "/dev"].iter().any(|own| guest == *own || guest.starts_with(&format!("{own}/"))));
            // A component that ends in a colon would make another ":/".
            prop_assume!(!guest.contains(":/"));
            let volume = volume(&host, &guest, read_only);
            prop_assert_eq!(volume.to_string().parse(), Ok(volume));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(volume) = Volume::parse(&OsString::from_vec(bytes)) {
                prop_assert!(volume.check_guest().is_ok());
                let json = serde_json::to_string(&volume.guest).unwrap();
                prop_assert_eq!(serde_json::from_str::<ByteString>(&json).unwrap(), volume.guest);
            }
        }

        #[test]
        fn nested_volumes_come_after_what_they_lie_in(parts in proptest::collection::vec("(/[ab]){1,4}", 1..8)) {
            let volumes: Vec<_> = parts.iter().map(|guest| volume("/h", guest, false)).collect();
            let order = by_depth(&volumes);
            for (at, inner) in order.iter().enumerate() {
                let inside = |outer: &Volume| {
                    inner.guest.as_bytes().strip_prefix(outer.guest.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'/'))
                };
                prop_assert!(!order[at..].iter().any(|outer| inside(outer)));
            }
        }
    }
}
