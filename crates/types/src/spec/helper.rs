//! Helpers: a helper is a microVM with the root and the disk of a sandbox that has ended. Its guest reads and writes files
//! there, so that nobody mounts or parses a guest's file system on the host.
//!
//! ```text
//!   ended sandbox ──something of its files is asked for──▶ helper ──no session for IDLE──▶ removed
//!                 ◀──started, removed, renamed: once its helper is gone────┘
//! ```

use std::time::Duration;

use super::{ConfigName, SandboxKey, SandboxName, SandboxSpec, SpecError};

/// The config of all helpers.
const CONFIG: &str = "sandpen-helpers";
/// So much of a sandbox's name is in its helper's: with a dash and 16 digits, a name is not too long.
const NAME_PART: usize = 40;
/// How long a helper stays without a session.
const IDLE: Duration = Duration::from_secs(1);

/// The name of a sandbox's helper.
///
/// # Errors
/// None that is known.
pub fn helper_key(of: &SandboxKey) -> Result<SandboxKey, SpecError> {
    let part: String = of.name.as_str().chars().take(NAME_PART).collect();
    let hash = fnv1a(of.to_string().as_bytes());
    let name = SandboxName::new(format!("{}-{hash:016x}", part.trim_end_matches('.')))?;
    Ok(SandboxKey { config: ConfigName::new(CONFIG)?, name })
}

impl SandboxSpec {
    /// The helper of a sandbox of this specification.
    ///
    /// # Errors
    /// None that is known.
    pub fn helper(&self) -> Result<Self, SpecError> {
        Ok(Self {
            driver: self.driver.clone(),
            root_device: self.root_device,
            kernel: self.kernel.clone(),
            disk: self.disk.clone(),
            // A path means what it means in the sandbox, and nothing can be written that could not be there.
            read_only: self.read_only,
            volumes: self.volumes.clone(),
            idle: true,
            idle_timeout: Some(IDLE),
            remove_on_end: true,
            helper_of: Some(self.key.clone()),
            ..Self::new(helper_key(&self.key)?, self.rootfs.clone(), Vec::new())
        })
    }
}

/// FNV-1a of 64 bits (Fowler, Noll, Vo): the same in every version of the program.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use crate::spec::{CheckedSpec, Rootfs, Volume};

    use super::*;

    #[test]
    fn every_sandbox_has_a_helper_of_its_own() {
        let key = |text: &str| text.parse::<SandboxKey>().unwrap();
        let long = format!("a/{}", "x".repeat(63));
        let names = ["default/a", "default/b", "a/default", "a/b", &long].map(|text| helper_key(&key(text)).unwrap());
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name}");
        }
        assert_eq!(names[0].to_string(), "sandpen-helpers/a-62a3dacc164a3626");
        let dotted = format!("a/{}.b", "x".repeat(NAME_PART - 1));
        assert!(helper_key(&key(&dotted)).is_ok());
    }

    #[test]
    fn a_helper_can_be_started_whatever_the_sandbox_is() {
        let of = SandboxKey::new(SandboxName::new("a").unwrap());
        for rootfs in [Rootfs::Native("/srv".into()), Rootfs::Overlayfs(vec!["/a".into()])] {
            let spec = SandboxSpec { stdin: true, ..SandboxSpec::new(of.clone(), rootfs, vec!["sh".into()]) };
            let helper = spec.helper().unwrap();
            assert_eq!(helper.helper_of.as_ref(), Some(&of));
            assert!(CheckedSpec::try_from(helper).is_ok());
        }
    }

    #[test]
    fn a_helper_may_write_where_the_sandbox_may() {
        let of = SandboxKey::new(SandboxName::new("a").unwrap());
        let volumes: Vec<Volume> = vec!["/srv/data:/data:ro".parse().unwrap()];
        let spec = SandboxSpec::new(of, Rootfs::Native("/srv".into()), vec!["sh".into()]);
        let helper = SandboxSpec { read_only: true, volumes: volumes.clone(), ..spec }.helper().unwrap();
        assert!(helper.read_only);
        assert_eq!(helper.volumes, volumes);
    }
}
