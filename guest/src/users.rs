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
    /// `None` for a number that nobody has.
    pub name: Option<String>,
    /// The login shell, where one is named.
    pub shell: Option<CString>,
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

/// The user with this number in `/etc/passwd`, without supplementary groups; `None` where nobody has it.
pub fn with_number(uid: u32) -> Option<User> {
    entries(&read("/etc/passwd")).find(|entry| entry.uid == uid).map(|entry| entry.user(entry.gid, Vec::new()))
}

/// All numbers that somebody has, with the names, in the order of `/etc/passwd`.
pub fn names() -> Vec<(u32, String)> {
    entries(&read("/etc/passwd")).map(|entry| (entry.uid, entry.name.to_owned())).collect()
}

/// What cannot be read has nobody in it.
fn read(path: &str) -> String {
    String::from_utf8_lossy(&root_file::read(path, FILE_MAX).unwrap_or_default()).into_owned()
}

/// A uid or gid. The largest is nobody's: it means "no change" to the kernel.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

/// The first fields of a line; `None` where it has fewer.
fn fields<const N: usize>(line: &str) -> Option<[&str; N]> {
    let mut parts = line.split(':');
    let mut fields = [""; N];
    for field in &mut fields {
        *field = parts.next()?;
    }
    Some(fields)
}

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, Copy)]
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

impl Entry<'_> {
    fn user(&self, gid: u32, groups: Vec<u32>) -> User {
        let text = |text: &str| CString::new(text).unwrap_or_default();
        User {
            uid: self.uid,
            gid,
            groups,
            home: text(if self.home.is_empty() { "/" } else { self.home }),
            name: (!self.name.is_empty()).then(|| self.name.to_owned()),
            shell: (!self.shell.is_empty()).then(|| text(self.shell)),
        }
    }
}

fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let [name, _, uid, gid, _, home] = fields(line)?;
        let shell = line.split(':').nth(6).unwrap_or_default();
        Some(Entry { name, uid: id(uid)?, gid: id(gid)?, home, shell })
    })
}

fn find_in(user: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (user, wanted_group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    // A name may look like a number.
    let number = id(user);
    let found = entries(passwd)
        .find(|entry| entry.name == user)
        .or_else(|| entries(passwd).find(|entry| Some(entry.uid) == number));
    let entry = match (found, number) {
        (Some(entry), _) => entry,
        (None, Some(uid)) => Entry { name: "", uid, gid: 0, home: "/", shell: "" },
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    let groups = || {
        group.lines().filter_map(|line| {
            let [name, _, gid, members] = fields(line)?;
            Some((name, id(gid)?, members))
        })
    };
    // A group that is named is the only one.
    let (gid, supplementary) = if let Some(wanted) = wanted_group {
        let found = groups().find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid);
        let gid = found.or_else(|| id(wanted));
        (gid.ok_or_else(|| UserError::NoGroup(wanted.to_owned()))?, Vec::new())
    } else {
        let is_member = |members: &str| found.is_some() && members.split(',').any(|member| member.trim() == entry.name);
        (entry.gid, groups().filter(|(_, _, members)| is_member(members)).map(|(_, gid, _)| gid).collect())
    };
    Ok(entry.user(gid, supplementary))
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

    #[test]
    fn a_user_may_have_a_name_and_a_shell() {
        let of = |user: &str| {
            let user = find_in(user, PASSWD, GROUP).unwrap();
            (user.name, user.shell.map(|shell| shell.into_string().unwrap()))
        };
        assert_eq!(of("33"), (Some("web".into()), Some("/bin/sh".into())));
        assert_eq!(of("bare"), (Some("bare".into()), None));
        assert_eq!(of("500"), (None, None));
        let short = "six:x:9:9::/home";
        assert_eq!(find_in("six", short, "").unwrap().shell, None);
    }
}
