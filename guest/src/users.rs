//! Whom the workload runs as, by the root's `/etc/passwd` and `/etc/group` (passwd(5), group(5)).

use std::ffi::CString;

use crate::root_file;

/// More than that of either file is no list of users that anybody wrote.
const FILE_MAX: u64 = 4 << 20;

/// A process's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The home directory; `/` for a number that nobody has.
    pub home: CString,
}

/// Why there is no such user, for people.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    #[error("there is no user {0:?} in the rootfs's /etc/passwd")]
    NoUser(String),
    #[error("there is no group {0:?} in the rootfs's /etc/group")]
    NoGroup(String),
}

/// Looks up `USER[:GROUP]`, names or numbers. Call it inside of the new root.
pub fn find(user: &str) -> Result<User, UserError> {
    find_in(user, &read("/etc/passwd"), &read("/etc/group"))
}

/// What cannot be read has nobody in it.
fn read(path: &str) -> String {
    String::from_utf8_lossy(&root_file::read(path, FILE_MAX).unwrap_or_default()).into_owned()
}

/// A uid or gid. The largest is nobody's: it means "no change" to the kernel.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

fn lines<const N: usize>(list: &str) -> impl Iterator<Item = [&str; N]> {
    list.lines().filter_map(|line| {
        let mut parts = line.split(':');
        let mut fields = [""; N];
        for field in &mut fields {
            *field = parts.next()?;
        }
        Some(fields)
    })
}

fn find_in(user: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (user, wanted_group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    let users = || lines::<6>(passwd).filter_map(|[name, _, uid, gid, _, home]| Some((name, id(uid)?, id(gid)?, home)));
    // A name may look like a number.
    let number = id(user);
    let found = users().find(|(name, ..)| *name == user).or_else(|| users().find(|(_, uid, ..)| Some(*uid) == number));
    let (name, uid, gid, home) = match (found, number) {
        (Some((name, uid, gid, home)), _) => (Some(name), uid, gid, home),
        (None, Some(uid)) => (None, uid, 0, "/"),
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    let groups = || lines::<4>(group).filter_map(|[name, _, gid, members]| Some((name, id(gid)?, members)));
    // A group that is named is the only one.
    let (gid, supplementary) = if let Some(wanted) = wanted_group {
        let found = groups().find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid);
        let gid = found.or_else(|| id(wanted));
        (gid.ok_or_else(|| UserError::NoGroup(wanted.to_owned()))?, Vec::new())
    } else {
        let is_member = |members: &str| members.split(',').any(|member| Some(member.trim()) == name);
        (gid, groups().filter(|(_, _, members)| is_member(members)).map(|(_, gid, _)| gid).collect())
    };
    let home = CString::new(if home.is_empty() { "/" } else { home }).unwrap_or_default();
    Ok(User { uid, gid, groups: supplementary, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/sh\n# web:x:1\nbroken:x\nodd:x:a:b:c:d\n\
                          1000:x:7:8::/seven:\nbare:x:9:9:::\n\
                          none:x:4294967295:4294967295::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\nlogs:x:4:web,root\nvideo:x:44: web\n1000:x:70:\nbroken\n";

    fn found(user: &str) -> (u32, u32, Vec<u32>, String) {
        let user = find_in(user, PASSWD, GROUP).unwrap();
        (user.uid, user.gid, user.groups, user.home.into_string().unwrap())
    }

    #[test]
    fn names_are_looked_up_and_numbers_need_nobody() {
        assert_eq!(found("web"), (33, 33, vec![4, 44], "/var/www".into()));
        assert_eq!(found("33"), (33, 33, vec![4, 44], "/var/www".into()));
        assert_eq!(found("web:logs"), (33, 4, vec![], "/var/www".into()));
        assert_eq!(found("web:12"), (33, 12, vec![], "/var/www".into()));
        assert_eq!(found("500"), (500, 0, vec![], "/".into()));
        assert_eq!(found("500:500"), (500, 500, vec![], "/".into()));
        assert_eq!(found("1000"), (7, 8, vec![], "/seven".into()), "a name that looks like a number");
        assert_eq!(found("5:1000"), (5, 70, vec![], "/".into()));
        assert_eq!(found("bare"), (9, 9, vec![], "/".into()));
        for user in ["nobody", "broken", "odd", "none", "4294967295", ""] {
            assert_eq!(find_in(user, PASSWD, GROUP), Err(UserError::NoUser(user.into())), "{user}");
        }
        assert_eq!(find_in("web:nobody", PASSWD, GROUP), Err(UserError::NoGroup("nobody".into())));
        assert_eq!(find_in("7:7", "", "").map(|user| (user.uid, user.gid)), Ok((7, 7)));
    }
}
