//! Whether this host can run libkrun's microVMs: KVM, and a libkrunfw.

use std::path::{Path, PathBuf};

use sandpen_kernels::krunfw::{self, KrunfwError};

use super::acceleration::{Accelerator, acceleration};

/// Why libkrun cannot run Linux here.
#[derive(Debug, thiserror::Error)]
pub enum KrunUnusable {
    /// It is left out of this build.
    #[error("this sandpen was built without libkrun (feature krun)")]
    LeftOut,
    /// KVM runs no Linux.
    #[error("libkrun needs KVM: {0}")]
    Kvm(String),
    /// There is no guest kernel for it.
    #[error(transparent)]
    Firmware(KrunfwError),
    /// The guest kernel that was named is of no use. That is a mistake on every host.
    #[error("the libkrunfw that was named cannot be used")]
    Named(#[source] KrunfwError),
}

/// Whether libkrun runs Linux on this host: its libkrunfw, or what is missing. `krunfw` is the one to
/// use, `None` to look for it. Blocking, for milliseconds.
///
/// # Errors
/// [`KrunUnusable`].
pub fn find(krunfw: Option<&Path>, data_dir: &Path) -> Result<PathBuf, KrunUnusable> {
    if cfg!(not(feature = "krun-driver")) {
        return Err(KrunUnusable::LeftOut);
    }
    // Before KVM, so that a mistake shows on every host.
    let named = krunfw::named(krunfw).map_err(KrunUnusable::Named)?;
    check_kvm()?;
    krunfw::find(named.as_deref(), data_dir).map_err(KrunUnusable::Firmware)
}

/// Whether KVM runs Linux in libkrun's machines on this host.
///
/// # Errors
/// [`KrunUnusable::Kvm`].
pub fn check_kvm() -> Result<(), KrunUnusable> {
    let acceleration = acceleration();
    match acceleration.accelerator {
        Accelerator::Kvm => Ok(()),
        Accelerator::Tcg => Err(KrunUnusable::Kvm(acceleration.reason)),
    }
}
