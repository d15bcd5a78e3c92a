//! Settings of the guest's own kernel.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SpecError;

/// Most of them in one sandbox.
pub const SYSCTLS_MAX: usize = 256;
/// Most bytes of a name, and of a value.
const TEXT_MAX: usize = 1024;

/// A setting below `/proc/sys`, written as `NAME=VALUE`. Parts of its name are divided by dots, or by slashes where a part
/// holds dots, as sysctl(8) has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SysctlFields")]
pub struct Sysctl {
    name: String,
    value: String,
}

/// The fields of one that may be none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SysctlFields {
    name: String,
    value: String,
}

impl Sysctl {
    /// As it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is written.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Its file below `/proc/sys`: names without a `/` in front, `.` and `..`.
    pub fn path(&self) -> String {
        // The first divider tells which of the two divides: the other one is part of a name then.
        match self.name.find(['.', '/']).map(|at| self.name.as_bytes()[at]) {
            Some(b'.') => self
                .name
                .chars()
                .map(|c| {
                    if c == '.' {
                        '/'
                    } else if c == '/' {
                        '.'
                    } else {
                        c
                    }
                })
                .collect(),
            _ => self.name.clone(),
        }
    }
}

impl TryFrom<SysctlFields> for Sysctl {
    type Error = SpecError;

    fn try_from(SysctlFields { name, value }: SysctlFields) -> Result<Self, SpecError> {
        let sysctl = Self { name, value };
        let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-' | ':' | '@');
        let is_part = |part: &str| !matches!(part, "" | "." | "..");
        let path = sysctl.path();
        let is_setting = sysctl.name.len() <= TEXT_MAX
            && sysctl.value.len() <= TEXT_MAX
            && sysctl.name.chars().all(in_name)
            && path.split('/').count() > 1
            && path.split('/').all(is_part)
            && !sysctl.value.chars().any(|c| c.is_control() && c != '\t');
        if is_setting { Ok(sysctl) } else { Err(SpecError::Sysctl(sysctl.to_string())) }
    }
}

impl FromStr for Sysctl {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (name, value) = text.split_once('=').ok_or_else(|| SpecError::Sysctl(text.to_owned()))?;
        SysctlFields { name: name.to_owned(), value: value.to_owned() }.try_into()
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_file_below_proc_sys() {
        for (text, path) in [
            ("net.core.somaxconn=4096", "net/core/somaxconn"),
            ("net/ipv4/conf/eth0.1/forwarding=1", "net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding=1", "net/ipv4/conf/eth0.1/forwarding"),
            ("kernel.msgmax=", "kernel/msgmax"),
            ("net.ipv4.ip_local_port_range=1024 65000", "net/ipv4/ip_local_port_range"),
        ] {
            let sysctl: Sysctl = text.parse().unwrap();
            assert_eq!((sysctl.path().as_str(), sysctl.to_string().as_str()), (path, text));
        }
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        let long = format!("a.{}=1", "b".repeat(TEXT_MAX));
        for text in [
            "",
            "=",
            "a",
            "a.b",
            "a=1",
            ".a.b=1",
            "a..b=1",
            "a.b.=1",
            "/a/b=1",
            "a/../b=1",
            "a/./b=1",
            "a.b c=1",
            "a.b=1\n2",
            "a.b=\0",
            long.as_str(),
        ] {
            assert!(text.parse::<Sysctl>().is_err(), "{text:?}");
        }
        assert!(serde_json::from_str::<Sysctl>(r#"{"name":"../x","value":"1"}"#).is_err());
        assert!(serde_json::from_str::<Sysctl>(r#"{"name":"a/../../x","value":"1"}"#).is_err());
    }
}
