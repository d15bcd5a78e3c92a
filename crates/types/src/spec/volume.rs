//! Directories and files that a sandbox gets beside its root, and how they are written in one line.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ByteString, SpecError, VolumeName};

/// Most volumes of a sandbox, whatever its driver; a driver may take fewer.
pub const VOLUMES_MAX: usize = 64;
/// Most bytes of a guest path (`PATH_MAX` of Linux, with its NUL).
const GUEST_PATH_MAX: usize = 4095;
/// Most bytes of one component of it (`NAME_MAX`).
const COMPONENT_MAX: usize = 255;
/// Directories that the guest's own system needs.
const RESERVED: [&[u8]; 3] = [b"proc", b"sys", b"dev"];

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A directory or file of the host's, absolute.
    Host(PathBuf),
    /// A directory that outlives its sandboxes, kept in the state directory; made where it is missing.
    Named(VolumeName),
}

impl fmt::Display for VolumeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(path) => path.display().fmt(f),
            Self::Named(name) => name.fmt(f),
        }
    }
}

/// A directory or file inside the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "VolumeFields", into = "VolumeFields")]
pub struct Volume {
    /// What it is.
    pub source: VolumeSource,
    /// Where the guest sees it: absolute, without `.`, `..` and empty components, and not `/`,
    /// `/proc`, `/sys`, `/dev` or below those three.
    pub guest: ByteString,
    /// Whether the guest may only read. The host holds it to that.
    pub read_only: bool,
}

/// A volume as it is written in JSON: `host` or `name` is there.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<VolumeName>,
    guest: ByteString,
    #[serde(default)]
    read_only: bool,
}

impl TryFrom<VolumeFields> for Volume {
    type Error = SpecError;

    fn try_from(VolumeFields { host, name, guest, read_only }: VolumeFields) -> Result<Self, SpecError> {
        let source = match (host, name) {
            (Some(path), None) => VolumeSource::Host(path),
            (None, Some(name)) => VolumeSource::Named(name),
            _ => return Err(SpecError::volume(guest.as_bytes(), "it needs either a host path or a name")),
        };
        Ok(Self { source, guest, read_only })
    }
}

impl From<Volume> for VolumeFields {
    fn from(Volume { source, guest, read_only }: Volume) -> Self {
        let (host, name) = match source {
            VolumeSource::Host(path) => (Some(path), None),
            VolumeSource::Named(name) => (None, Some(name)),
        };
        Self { host, name, guest, read_only }
    }
}

impl Volume {
    /// A directory or file of the host's, absolute.
    pub fn of_host(path: impl Into<PathBuf>, guest: impl Into<ByteString>, read_only: bool) -> Self {
        Self { source: VolumeSource::Host(path.into()), guest: guest.into(), read_only }
    }

    /// Reads `HOST:GUEST`, `HOST:GUEST:ro` or `HOST:GUEST:rw`. The guest path begins at the last `:/`,
    /// so `HOST` may hold any colons; a guest path that ends in `:ro` needs `:rw` or `:ro` after it.
    /// A `HOST` that starts with `.` or `/` is a path, another one the name of a volume. Nothing is looked up.
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
        let owned = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let source = if matches!(host.first(), Some(b'.' | b'/')) {
            VolumeSource::Host(owned(host).into())
        } else {
            let name = std::str::from_utf8(host).ok().and_then(|name| VolumeName::new(name).ok());
            let advice = "HOST must be a path that starts with \".\" or \"/\", for example ./data:/data, or the name of a \
                          volume, of 1 to 63 of A-Z a-z 0-9 _ . -";
            VolumeSource::Named(name.ok_or_else(|| refused(advice))?)
        };
        let volume = Self { source, guest: owned(guest).into(), read_only };
        volume.check_guest()?;
        Ok(volume)
    }

    fn check_guest(&self) -> Result<(), SpecError> {
        check_guest_path(&self.guest).map_err(|reason| SpecError::volume(self.guest.as_bytes(), reason))
    }
}

/// The components of a guest path.
fn components(path: &ByteString) -> impl Iterator<Item = &[u8]> {
    path.as_bytes().split(|byte| *byte == b'/').skip(1)
}

/// Whether something can be mounted there in a guest; if not, why.
pub(super) fn check_guest_path(guest: &ByteString) -> Result<(), &'static str> {
    let path = guest.as_bytes();
    if path.first() != Some(&b'/') {
        return Err("the guest path is not absolute");
    }
    if path == b"/" {
        return Err("the guest's / is its root directory; use a directory below it");
    }
    if path.contains(&0) {
        return Err("the guest path holds a NUL byte");
    }
    if path.len() > GUEST_PATH_MAX || components(guest).any(|part| part.len() > COMPONENT_MAX) {
        return Err("the guest path is too long");
    }
    if components(guest).any(|part| matches!(part, b"" | b"." | b"..")) {
        return Err("a component of the guest path is empty, \".\" or \"..\"; write the path without");
    }
    if components(guest).next().is_some_and(|first| RESERVED.contains(&first)) {
        return Err("/proc, /sys and /dev are the guest's own; use another directory");
    }
    Ok(())
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
        write!(f, "{}:{}:{access}", self.source, self.guest.as_os_str().display())
    }
}

/// Checks a sandbox's volumes without a look at the host.
pub(super) fn check(volumes: &[Volume]) -> Result<(), SpecError> {
    if volumes.len() > VOLUMES_MAX {
        return Err(SpecError::Volumes(volumes.len()));
    }
    for (at, volume) in volumes.iter().enumerate() {
        volume.check_guest()?;
        if let VolumeSource::Host(path) = &volume.source {
            let bytes = path.as_os_str().as_bytes();
            if !path.is_absolute() {
                return Err(SpecError::volume(bytes, "the host path is not absolute"));
            }
            if bytes.contains(&0) {
                return Err(SpecError::Nul { what: "the host path of a volume" });
            }
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
    volumes.sort_by_key(|volume| components(&volume.guest).count());
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
        Volume::of_host(host, guest, read_only)
    }

    #[test]
    fn a_word_that_is_no_path_is_a_name() {
        let named = parse("cache-1:/var/cache:ro").unwrap();
        let name = VolumeName::new("cache-1").unwrap();
        assert_eq!(named, Volume { source: VolumeSource::Named(name), guest: "/var/cache".into(), read_only: true });
        let json = r#"{"name":"cache-1","guest":"/var/cache","read_only":true}"#;
        assert_eq!(serde_json::to_string(&named).unwrap(), json);
        assert_eq!(serde_json::from_str::<Volume>(json).unwrap(), named);
        for json in [
            r#"{"guest":"/a"}"#,
            r#"{"name":"a","host":"/a","guest":"/a"}"#,
            r#"{"name":"../a","guest":"/a"}"#,
            r#"{"name":"a","guest":"/a","more":1}"#,
        ] {
            assert!(serde_json::from_str::<Volume>(json).is_err(), "{json}");
        }
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
            "~/a:/b",
            "a b:/b",
            "a/b:/b",
            "-a:/b",
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
