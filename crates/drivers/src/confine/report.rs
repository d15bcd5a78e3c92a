//! What holds for a process, as it tells it itself: one JSON file in the runtime directory for each.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use sandpen_types::confinement::ProcessConfinement;
use sandpen_vmm::waiter::VMM_ROLE;

use crate::qemu::args::SHARES_MAX;
use crate::virtiofs;

/// Before a process's role in the name of its report.
const PREFIX: &str = "confinement.";
/// Most bytes that are read of a report.
const MAX_BYTES: u64 = 64 << 10;

/// The roles of processes that write one.
fn roles() -> impl Iterator<Item = String> {
    std::iter::once(VMM_ROLE.to_owned()).chain((0..SHARES_MAX).map(virtiofs::role))
}

/// Makes the empty report of `role` in the current directory, to be filled when that is out of reach.
pub(super) fn create(role: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    options.open(format!("{PREFIX}{role}"))
}

/// Fills it, at once: who reads it finds the whole or nothing. Nothing of it has to outlive this boot, so it is not
/// forced to disk.
pub(super) fn fill(mut file: File, report: &ProcessConfinement) -> io::Result<()> {
    file.write_all(&serde_json::to_vec(report)?)
}

/// The reports in a sandbox's runtime directory, by role; `None` where there is none. Blocking, for
/// microseconds. What cannot be read is left out: it was written by a process that a guest may have
/// taken over.
pub fn read(runtime_dir: &Path) -> Option<BTreeMap<String, ProcessConfinement>> {
    let reports = roles().filter_map(|role| Some((role.clone(), read_one(runtime_dir, &role)?)));
    let reports: BTreeMap<_, _> = reports.collect();
    (!reports.is_empty()).then_some(reports)
}

fn read_one(runtime_dir: &Path, role: &str) -> Option<ProcessConfinement> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
    let file = options.open(runtime_dir.join(format!("{PREFIX}{role}"))).ok()?;
    let mut json = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}
