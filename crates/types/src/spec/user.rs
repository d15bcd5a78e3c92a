//! Whom the workload runs as.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SpecError;
use super::text::checked_text;

/// Most bytes of a name: `LOGIN_NAME_MAX` of Linux, without its NUL.
const NAME_MAX: usize = 255;

/// A user and perhaps a group of the root's `/etc/passwd` and `/etc/group`, by name or number: `USER` or `USER:GROUP`.
/// Who they are, the guest looks up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadUser(String);

checked_text!(WorkloadUser);

fn is_name(text: &str) -> bool {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, ':' | ',' | '/');
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    // The largest is nobody's: it means "no change" to the kernel.
    let fits = !is_number || text.parse::<u32>().is_ok_and(|id| id != u32::MAX);
    !text.is_empty() && text.len() <= NAME_MAX && text.chars().all(plain) && !text.starts_with(['-', '+']) && fits
}

impl FromStr for WorkloadUser {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let is_user = match text.split_once(':') {
            Some((user, group)) => is_name(user) && is_name(group),
            None => is_name(text),
        };
        if is_user { Ok(Self(text.to_owned())) } else { Err(SpecError::User(text.to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_or_number_with_perhaps_a_group() {
        for text in ["nobody", "0", "1000:1000", "www-data:4294967294", "a.b@c", "jürgen:users"] {
            assert_eq!(text.parse::<WorkloadUser>().unwrap().to_string(), text);
        }
        let long = "x".repeat(NAME_MAX + 1);
        for text in
            ["", ":", "a:", ":b", "a:b:c", "a b", "a\n", "a/b", "-1", "+1", "4294967295", "99999999999", long.as_str()]
        {
            assert!(text.parse::<WorkloadUser>().is_err(), "{text:?}");
            assert!(serde_json::from_value::<WorkloadUser>(text.into()).is_err(), "{text:?}");
        }
    }
}
