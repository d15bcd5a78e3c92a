//! What the guest arranges inside: whom the command runs as, and what it finds beside its root.

use std::ffi::OsString;

use sandpen_types::spec::{ExtraHost, Hostname, SandboxSpec, SpecError, Sysctl, Tmpfs, WorkloadUser};
use sandpen_types::units::ByteSize;

/// The options of the inside.
#[derive(Debug, clap::Args)]
pub struct InsideArgs {
    /// User, and perhaps group, that the command runs as, names or numbers of the root's /etc/passwd and /etc/group
    /// [default: root]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<WorkloadUser>,
    /// The machine's name inside [default: the sandbox's]
    #[arg(long, value_name = "NAME")]
    hostname: Option<Hostname>,
    /// Take no writes to the root; volumes, --tmpfs, /run, /dev/shm and a /tmp that the root does not have are as ever
    #[arg(long)]
    read_only: bool,
    /// File system in the sandbox's memory at PATH, empty at first; options are size=, mode=, uid=, gid= and noexec; may be
    /// given several times
    #[arg(long, value_name = "PATH[:OPTION,…]")]
    tmpfs: Vec<OsString>,
    /// Most that /dev/shm holds [default: half of the memory]
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<ByteSize>,
    /// A name that the sandbox's /etc/hosts has besides those of the root; may be given several times
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<ExtraHost>,
    /// Setting of the sandbox's own kernel, for example net.core.somaxconn=4096; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl: Vec<Sysctl>,
}

impl InsideArgs {
    /// Puts them into a specification.
    pub fn apply(&self, spec: &mut SandboxSpec) -> Result<(), SpecError> {
        spec.user.clone_from(&self.user);
        spec.hostname.clone_from(&self.hostname);
        spec.read_only = self.read_only;
        spec.tmpfs = self.tmpfs.iter().map(|text| Tmpfs::parse(text)).collect::<Result<_, _>>()?;
        spec.shm_bytes = self.shm_size.map(ByteSize::bytes);
        spec.extra_hosts.clone_from(&self.add_host);
        spec.sysctls.clone_from(&self.sysctl);
        Ok(())
    }
}
