//! What the jails of one sandbox's processes have in common, as far as this user may make them on this host.

use sandpen_vmm::driver::Launch;
use sandpen_vmm::waiter::{DescriptorSpec, FIRST_DESCRIPTOR, Namespaces};

use super::jail::{JailNetwork, JailPlan};
use super::policy::Policy;
use super::rights::{Rights, UserNamespace};
use super::seccomp;

/// Why a microVM is not started on this host.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// Its confinement is demanded.
    #[error(
        "{layer} is demanded for the processes beside a microVM, and there is none: {why}; see `sandpen doctor`, or start \
         the daemon with --require-confinement=no"
    )]
    Demanded {
        /// What is missing.
        layer: &'static str,
        /// Why, for people.
        why: String,
    },
    /// It shares directories.
    #[error(
        "directories are not shared without a jail, which a guest could leave through them: {0}; see `sandpen doctor`, or use \
         --root image without volumes"
    )]
    Shares(String),
}

/// The network of a sandbox's VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmmNetwork {
    /// None.
    None,
    /// The host's.
    Host,
    /// The host's, and it listens at ports that take a capability: one that counts there as the host's root alone.
    HostWithLowPorts,
}

/// What the processes of a sandbox need.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Its VMM's network.
    pub network: VmmNetwork,
    /// Whether it shares directories.
    pub shares: bool,
    /// Whether it is not to be started unless its processes are in a jail and have lists of system calls.
    pub confinement: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct SandboxJail {
    rights: Result<&'static Rights, String>,
    uid: Option<u32>,
    network: VmmNetwork,
}

impl SandboxJail {
    /// For a launch, by what was found of this user's rights.
    ///
    /// # Errors
    /// [`ConfinementError`] when it is not to be started here.
    pub fn new(
        launch: &Launch,
        needs: Needs,
        rights: Result<&'static Rights, String>,
    ) -> Result<Self, ConfinementError> {
        if let Err(why) = &rights {
            if needs.confinement {
                return Err(ConfinementError::Demanded { layer: "a jail", why: why.clone() });
            }
            if needs.shares {
                return Err(ConfinementError::Shares(why.clone()));
            }
        }
        if needs.confinement {
            seccomp::available()
                .map_err(|why| ConfinementError::Demanded { layer: "a list of system calls (seccomp)", why })?;
        }
        Ok(Self { rights, uid: launch.uid, network: needs.network })
    }

    /// The jail of the VMM, which has the sandbox's network.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn plan(&self) -> Result<JailPlan, String> {
        let network = if self.has_own() { JailNetwork::Sandbox } else { JailNetwork::Host };
        let uid = self.own_uid()?.filter(|_| self.network != VmmNetwork::HostWithLowPorts);
        Ok(JailPlan { uid, network, empty_root: None })
    }

    /// Whether the sandbox has a network of its own, an empty one.
    fn has_own(&self) -> bool {
        self.network == VmmNetwork::None
    }

    fn own_uid(&self) -> Result<Option<u32>, String> {
        let rights = self.rights.clone()?;
        Ok(self.uid.filter(|_| rights.user().is_none()))
    }

    /// The jail of a process that has no network, whatever the sandbox has.
    ///
    /// # Errors
    /// As [`SandboxJail::plan`].
    pub fn plan_without_network(&self) -> Result<JailPlan, String> {
        let network = if self.has_own() { JailNetwork::Sandbox } else { JailNetwork::Own };
        Ok(JailPlan { uid: self.own_uid()?, network, empty_root: None })
    }

    /// The jail of a process that no waiter starts, and that has no network.
    ///
    /// # Errors
    /// As [`SandboxJail::plan`], and where the waiter enters the user namespace.
    pub fn plan_alone(&self) -> Result<JailPlan, String> {
        match self.rights.clone()?.user() {
            None => Ok(JailPlan { uid: self.uid, network: JailNetwork::Own, empty_root: None }),
            Some(_) => Err("only the host's root has one beside a waiter".to_owned()),
        }
    }

    /// The namespaces that the waiter makes.
    pub fn namespaces(&self) -> Option<Namespaces> {
        let user = self.rights.as_ref().ok()?.user().map(UserNamespace::path);
        Some(Namespaces { user, network: self.has_own() })
    }

    /// Has the waiter hand the empty root over to the process of this policy, behind its other descriptors.
    pub fn hand_over(&self, policy: &mut Policy, descriptors: &mut Vec<DescriptorSpec>) {
        if let (Ok(rights), Ok(plan), Ok(number)) = (&self.rights, &mut policy.jail, i32::try_from(descriptors.len())) {
            plan.empty_root = Some(FIRST_DESCRIPTOR + number);
            descriptors.push(DescriptorSpec::File(rights.empty_root()));
        }
        policy.handed_over = u32::try_from(descriptors.len()).unwrap_or(u32::MAX);
    }
}
