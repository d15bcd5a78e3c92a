//! Names that are safe file names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SpecError;
use super::text::checked_text;

fn check_name(what: &'static str, name: &str) -> Result<(), SpecError> {
    let mut bytes = name.bytes();
    let starts_well = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let goes_on_well = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if starts_well && goes_on_well && name.len() <= 63 && !name.contains("..") {
        Ok(())
    } else {
        Err(SpecError::Name { what, name: name.to_owned() })
    }
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks and takes `name`.
            ///
            /// # Errors
            /// [`SpecError::Name`] unless it matches `[A-Za-z0-9][A-Za-z0-9_.-]{0,62}` without `..`.
            pub fn new(name: impl Into<String>) -> Result<Self, SpecError> {
                let name = name.into();
                check_name($what, &name)?;
                Ok(Self(name))
            }
        }

        checked_text!($type);

        impl FromStr for $type {
            type Err = SpecError;
            fn from_str(name: &str) -> Result<Self, SpecError> {
                Self::new(name)
            }
        }
    };
}

checked_name!(
    /// A sandbox's name: unique within its config, safe as a file name.
    SandboxName,
    "sandbox"
);
checked_name!(
    /// The project file a sandbox belongs to, as a safe name; `default` where none is used.
    ConfigName,
    "config"
);

checked_name!(
    /// The name of a disk that outlives its sandbox.
    DiskName,
    "disk"
);

checked_name!(
    /// The name of a directory that outlives its sandboxes.
    VolumeName,
    "volume"
);

impl Default for ConfigName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// What identifies a sandbox in one state directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxKey {
    /// The project file's name.
    pub config: ConfigName,
    /// The sandbox's name.
    pub name: SandboxName,
}

impl SandboxKey {
    /// A key in the `default` config.
    pub fn new(name: SandboxName) -> Self {
        Self { config: ConfigName::default(), name }
    }
}

impl From<SandboxName> for SandboxKey {
    fn from(name: SandboxName) -> Self {
        Self::new(name)
    }
}

impl FromStr for SandboxKey {
    type Err = SpecError;

    /// Reads `CONFIG/NAME`.
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (config, name) = text.split_once('/').ok_or_else(|| SpecError::Key(text.to_owned()))?;
        Ok(Self { config: ConfigName::new(config)?, name: SandboxName::new(name)? })
    }
}

impl fmt::Display for SandboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.config, self.name)
    }
}
