//! Permission bits and owners as they are typed. Pure.

use std::str::FromStr;

/// Permission bits.
pub fn mode(text: &str) -> Result<u32, String> {
    let is_octal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = is_octal.then(|| u32::from_str_radix(text, 8).ok()).flatten();
    mode.filter(|mode| *mode <= 0o7777).ok_or_else(|| "give it in octal digits, such as 644, at most 7777".to_owned())
}

/// Whom a file shall belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The largest means "no change" to the system.
        let number = |text: &str| text.parse().ok().filter(|number| *number != u32::MAX && !text.starts_with('+'));
        let owner = match text.split_once(':') {
            None => number(text).map(|uid| Self { uid: Some(uid), gid: None }),
            Some(("", gid)) => number(gid).map(|gid| Self { uid: None, gid: Some(gid) }),
            Some((uid, gid)) => number(uid).zip(number(gid)).map(|(uid, gid)| Self { uid: Some(uid), gid: Some(gid) }),
        };
        owner.ok_or_else(|| {
            "give numbers: 33, 33:33 or :33; the sandbox's /etc/passwd and /etc/group have them".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_octal() {
        assert_eq!((mode("644"), mode("0"), mode("07777")), (Ok(0o644), Ok(0), Ok(0o7777)));
        for text in ["", "8", "+7", "-1", "10000", "u+x", "0x1", "77777777777777"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn owners_are_numbers() {
        let of = |text: &str| text.parse::<Owner>().map(|owner| (owner.uid, owner.gid));
        assert_eq!(of("33"), Ok((Some(33), None)));
        assert_eq!(of("33:4"), Ok((Some(33), Some(4))));
        assert_eq!(of(":4"), Ok((None, Some(4))));
        for text in ["", ":", "33:", "web", "33:web", "-1", "+1", "4294967295", "4294967296", "1:2:3", " 1"] {
            assert!(of(text).is_err(), "{text}");
        }
    }
}
