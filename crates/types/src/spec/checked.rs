//! A specification whose values were checked, once: only the check makes one.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{KernelDigest, PublishedPort, Rootfs, SandboxSpec, SpecError, VolumeSource, network};

/// What a specification names of its host's files, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPath<'a> {
    /// The root directory, or a layer of it.
    Root(&'a Path),
    /// The directory or file of a volume.
    Volume(&'a Path),
    /// The guest kernel.
    Kernel(&'a Path),
}

/// A [`SandboxSpec`] that passed [`SandboxSpec::check_values`]; shared by all who have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedSpec(Arc<SandboxSpec>);

impl CheckedSpec {
    /// The same with these ports, as for free ones that were chosen.
    ///
    /// # Errors
    /// They cannot be together, or not with this network.
    pub fn with_ports(mut self, ports: Vec<PublishedPort>) -> Result<Self, SpecError> {
        if self.ports != ports {
            network::check(self.network, &ports)?;
            Arc::make_mut(&mut self.0).ports = ports;
        }
        Ok(self)
    }

    /// The same with this kernel, as its file was found to hold; `None` where none is named.
    #[must_use]
    pub fn with_kernel(mut self, sha256: Option<KernelDigest>) -> Self {
        if self.kernel_sha256 != sha256 {
            Arc::make_mut(&mut self.0).kernel_sha256 = sha256;
        }
        self
    }

    /// The same with other paths of this host: each is what `real` makes of it.
    ///
    /// # Errors
    /// Those of `real`; they cannot be together.
    pub fn with_paths(
        mut self,
        mut real: impl FnMut(HostPath<'_>) -> Result<PathBuf, SpecError>,
    ) -> Result<Self, SpecError> {
        let spec = Arc::make_mut(&mut self.0);
        match &mut spec.rootfs {
            Rootfs::Native(path) => *path = real(HostPath::Root(path))?,
            Rootfs::Overlayfs(layers) => {
                for layer in layers {
                    *layer = real(HostPath::Root(layer))?;
                }
            }
            Rootfs::Image(_) => {}
        }
        for volume in &mut spec.volumes {
            if let VolumeSource::Host(path) = &mut volume.source {
                *path = real(HostPath::Volume(path))?;
            }
        }
        if let Some(kernel) = &mut spec.kernel {
            *kernel = real(HostPath::Kernel(kernel))?;
        }
        spec.check_values()?;
        Ok(self)
    }
}

impl TryFrom<SandboxSpec> for CheckedSpec {
    type Error = SpecError;

    fn try_from(spec: SandboxSpec) -> Result<Self, SpecError> {
        spec.check_values()?;
        Ok(Self(Arc::new(spec)))
    }
}

impl From<CheckedSpec> for Arc<SandboxSpec> {
    fn from(CheckedSpec(spec): CheckedSpec) -> Self {
        spec
    }
}

impl Deref for CheckedSpec {
    type Target = SandboxSpec;

    fn deref(&self) -> &SandboxSpec {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Network, Rootfs, SandboxName};

    #[test]
    fn only_what_passes_the_check_is_checked_and_its_ports_stay_so() {
        let name = SandboxName::new("a").unwrap();
        let mut spec = SandboxSpec::new(name, Rootfs::Native("/".into()), vec![]);
        assert_eq!(CheckedSpec::try_from(spec.clone()), Err(SpecError::NoCommand));
        spec.command.push("/bin/true".into());
        spec.network = Network::On;
        spec.ports = vec!["0:80".parse().unwrap()];
        let checked = CheckedSpec::try_from(spec).unwrap();
        let chosen = checked.clone().with_ports(vec!["4711:80".parse().unwrap()]).unwrap();
        assert_eq!((checked.ports[0].host, chosen.ports[0].host), (0, 4711));
        let twice = vec!["1:2".parse().unwrap(), "1:3".parse().unwrap()];
        assert_eq!(chosen.with_ports(twice), Err(SpecError::PortTwice(1)));
    }
}
