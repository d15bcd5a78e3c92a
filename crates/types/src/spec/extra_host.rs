//! Names that a sandbox knows besides those of its root and its network.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Hostname, SpecError};

/// Most of them in one sandbox.
pub const EXTRA_HOSTS_MAX: usize = 256;

/// A line of the guest's `/etc/hosts`, written as `NAME:ADDRESS` or `NAME=ADDRESS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraHost {
    /// The name.
    pub name: Hostname,
    /// Where it leads.
    pub address: IpAddr,
}

impl FromStr for ExtraHost {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let refused = || SpecError::ExtraHost(text.to_owned());
        // No name holds either; an address may be in brackets.
        let (name, address) = text.split_once([':', '=']).ok_or_else(refused)?;
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        Ok(Self { name: name.parse().map_err(|_| refused())?, address: bare.parse().map_err(|_| refused())? })
    }
}

impl fmt::Display for ExtraHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_an_address() {
        for text in ["db:10.0.0.7", "db.internal:::1", "a-1:fe80::1"] {
            assert_eq!(text.parse::<ExtraHost>().unwrap().to_string(), text);
        }
        assert_eq!("db=[::1]".parse::<ExtraHost>().unwrap().to_string(), "db:::1");
        for text in
            ["", "db", "db:", ":1.2.3.4", "db:1.2.3", "db:host-gateway", "d b:1.2.3.4", "db:1.2.3.4\n", "db:[::1"]
        {
            assert!(text.parse::<ExtraHost>().is_err(), "{text:?}");
        }
        assert!(serde_json::from_str::<ExtraHost>(r#"{"name":"a\nb","address":"1.2.3.4"}"#).is_err());
    }
}
