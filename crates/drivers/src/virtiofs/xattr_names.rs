//! What a guest's extended attributes are called on the host.
//!
//! | in the guest | on the host |
//! | --- | --- |
//! | `user.…` | the same |
//! | `security.…`, `trusted.…`, `user.sandpen.…` | [`PREFIX`] before it |
//! | others, `system.posix_acl_…` among them | none |
//!
//! What counts on the host (file capabilities, labels) is so never of a guest's making, and needs no privilege there.
//! In the other direction the guest sees one attribute of the host's own, [`CAPABILITY`]: without it programs of a
//! root directory that the host unpacked would lack what they need.

use std::ffi::{CStr, CString};

/// What is before the names of a guest's attributes that would mean something on the host.
pub(super) const PREFIX: &[u8] = b"user.sandpen.";

/// File capabilities.
pub(super) const CAPABILITY: &CStr = c"security.capability";

/// The name on the host; `None` where the guest cannot have such an attribute.
pub(super) fn stored(name: &CStr) -> Option<CString> {
    let bytes = name.to_bytes();
    match (is_prefixed(bytes), bytes.starts_with(b"user.")) {
        (true, _) => CString::new([PREFIX, bytes].concat()).ok(),
        (false, true) => Some(name.to_owned()),
        (false, false) => None,
    }
}

/// Whether a guest's name has the prefix on the host.
fn is_prefixed(name: &[u8]) -> bool {
    [b"security.".as_slice(), b"trusted.", PREFIX].iter().any(|space| name.starts_with(space))
}

/// The guest's names of what a file has on the host, each ended by a zero, as `listxattr` has them;
/// `own_capability` says whether the host's own capabilities can be read.
pub(super) fn shown(stored: &[u8], own_capability: impl FnOnce() -> bool) -> Vec<u8> {
    let names = || stored.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut shown: Vec<&[u8]> = names().filter_map(|name| shown_name(name)).collect();
    let capability = CAPABILITY.to_bytes();
    if names().any(|name| name == capability) && !shown.contains(&capability) && own_capability() {
        shown.push(capability);
    }
    shown.iter().flat_map(|name| name.iter().chain(&[0])).copied().collect()
}

fn shown_name(stored: &[u8]) -> Option<&[u8]> {
    match stored.strip_prefix(PREFIX) {
        Some(name) => is_prefixed(name).then_some(name),
        None => stored.starts_with(b"user.").then_some(stored),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_names_come_back_and_none_counts_on_the_host() {
        let names = [
            c"user.plain",
            c"security.capability",
            c"security.selinux",
            c"trusted.overlay.opaque",
            c"user.sandpen.security.capability",
            c"user.sandpen.user.sandpen.deep",
        ];
        for name in names {
            let on_host = stored(name).unwrap();
            assert!(on_host.to_bytes().starts_with(b"user."), "{on_host:?}");
            assert_eq!(shown(on_host.to_bytes_with_nul(), || false), name.to_bytes_with_nul(), "{on_host:?}");
        }
        let distinct: std::collections::BTreeSet<_> = names.iter().map(|name| stored(name)).collect();
        assert_eq!(distinct.len(), names.len());
        for name in
            [c"system.posix_acl_access", c"system.posix_acl_default", c"system.x", c"btrfs.x", c"capability", c""]
        {
            assert_eq!(stored(name), None, "{name:?}");
        }
    }

    #[test]
    fn of_the_hosts_own_attributes_only_readable_capabilities_are_shown() {
        let host = b"security.selinux\0trusted.x\0system.posix_acl_access\0security.capability\0user.a\0";
        assert_eq!(shown(host, || true), b"user.a\0security.capability\0");
        assert_eq!(shown(host, || false), b"user.a\0");
        let both = b"security.capability\0user.sandpen.security.capability\0";
        assert_eq!(shown(both, || panic!("the guest's own are there")), b"security.capability\0");
    }
}
