//! The owners of files in a jail that has a uid of the sandbox's own, where the host's root runs it.
//!
//! ```text
//!   in the guest and on disk      on the host, for as long as the process lives
//!   0                          ↔  the sandbox's uid
//!   n, up to 2^31 - 2          ↔  2^31 + n, which are nobody's
//! ```
//!
//! So what a guest's process of uid n makes is owned by n on disk, and nothing of the host's own users can be reached
//! through such an owner. Groups are the same.

/// The first of the host's uids that stand for the guest's, without the guest's root: the half of all that no system
/// gives to anybody (systemd's UIDS-GIDS document calls it reserved).
const SHIFT: u32 = 1 << 31;

/// Lines of `uid_map` and `gid_map` (user_namespaces(7)) for a sandbox's uid.
pub(super) fn maps(uid: u32) -> (String, String) {
    // The last one possible is 2^32 - 2.
    let map = format!("0 {uid} 1\n1 {} {}\n", SHIFT + 1, SHIFT - 2);
    (map.clone(), map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_stands_for_one_of_the_host() {
        let (uids, gids) = maps(0x7000_0001);
        assert_eq!(uids, "0 1879048193 1\n1 2147483649 2147483646\n");
        assert_eq!(uids, gids);
        assert_eq!(SHIFT + 1 + (SHIFT - 2) - 1, u32::MAX - 1);
    }
}
