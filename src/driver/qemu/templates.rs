//! The templates of this daemon: in memory, on disk, or made now. One for each kind of machine.
//!
//! ```text
//!   (nothing) ─▶ on disk and whole: read ─┐
//!       └──────▶ built, written ──────────┴─▶ ready ─ restored from ─▶ …
//!                     │                         │ a machine could not be restored: removed, again (nothing)
//!                     └─ failed ─▶ given up     └─ twice: given up, such machines boot
//! ```
//!
//! Whatever fails here is told in the log, and the machine boots as any other.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sandpen_actors::driver::{Vmm, error_chain};
use sandpen_actors::start_timings::StartStep;
use sha2::{Digest as _, Sha256};

use super::prepare::Plan;
use super::template::{Template, TemplateError, blank, disk_sizes};
use super::template_file;
use crate::driver::waited;

/// Templates that are kept in memory, some 100 MiB each.
const IN_MEMORY: usize = 4;
/// Templates that are kept on disk.
const ON_DISK: usize = 8;
/// So often may machines not be restored before their kind is given up.
const FAILURES: u32 = 2;
/// Goes into the key: raise it when what is saved changes without its inputs.
const LAYOUT: &str = "sandpen template 1";

/// One kind of machine.
#[derive(Debug, Default)]
struct Kind {
    template: Option<Arc<Template>>,
    used: Option<Instant>,
    failures: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Templates {
    directory: PathBuf,
    kinds: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Kind>>>>,
}

impl Templates {
    /// Those of a cache directory.
    pub(super) fn new(cache: &Path) -> Self {
        Self { directory: cache.join("templates"), kinds: Mutex::default() }
    }

    /// The machine of `plan`, restored; `None` where it has to boot.
    pub(super) async fn restored(&self, plan: &Plan, bin_dir: &Path) -> Option<Vmm> {
        if !plan.can_be_restored() {
            return None;
        }
        let planned = plan.clone();
        let key = match waited::blocking(move || Ok(key(&planned))).await {
            Ok(Ok(key)) => key,
            Ok(Err(error)) => {
                tracing::warn!(%error, "no template for this microVM");
                return None;
            }
            Err(_) => return None,
        };
        for _ in 0..FAILURES {
            let template = self.get(&key, plan, bin_dir).await?;
            plan.launch().timings.mark(StartStep::TemplateReady);
            match template.restore(plan, bin_dir).await {
                Ok(vmm) => return Some(vmm),
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), "a template is of no use and is made again");
                    self.remove(&key).await;
                }
            }
        }
        None
    }

    fn kind(&self, key: &str) -> Arc<tokio::sync::Mutex<Kind>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).entry(key.to_owned()).or_default().clone()
    }

    fn path(&self, key: &str) -> PathBuf {
        self.directory.join(format!("template-{key}"))
    }

    /// The template of `key`, made if there is none; others that want it wait meanwhile.
    async fn get(&self, key: &str, plan: &Plan, bin_dir: &Path) -> Option<Arc<Template>> {
        let kind = self.kind(key);
        let mut kind = kind.lock().await;
        if kind.failures >= FAILURES {
            return None;
        }
        kind.used = Some(Instant::now());
        if let Some(template) = &kind.template {
            return Some(template.clone());
        }
        let template = match self.read_or_build(key, plan, bin_dir).await {
            Ok(template) => template,
            Err(error) => {
                kind.failures = FAILURES;
                tracing::warn!(error = error_chain(&error), "no template can be made; microVMs like this one boot");
                return None;
            }
        };
        kind.template = Some(template.clone());
        drop(kind);
        self.forget_oldest();
        Some(template)
    }

    async fn read_or_build(&self, key: &str, plan: &Plan, bin_dir: &Path) -> Result<Arc<Template>, TemplateError> {
        let (path, of) = (self.path(key), key.to_owned());
        let read = waited::blocking(move || Ok(template_file::read(&path, &of))).await?;
        match read {
            Ok(Some(template)) => return Ok(Arc::new(template)),
            Ok(None) => {}
            Err(error) => tracing::warn!(error = error_chain(&error), "a template cannot be read and is made again"),
        }
        let template = Arc::new(Template::build(plan, bin_dir).await?);
        let (path, of, directory) = (self.path(key), key.to_owned(), self.directory.clone());
        let kept = template.clone();
        // Nobody waits for the disk: without the file the next daemon makes another one. It tells itself what
        // goes wrong.
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = template_file::write(&path, &of, &kept) {
                tracing::warn!(%error, ?path, "a template cannot be kept on disk");
            }
            remove_oldest(&directory);
        }));
        Ok(template)
    }

    /// A template from which a machine could not be restored.
    async fn remove(&self, key: &str) {
        let kind = self.kind(key);
        let mut kind = kind.lock().await;
        kind.template = None;
        kind.failures += 1;
        let path = self.path(key);
        let removed = waited::blocking(move || Ok(fs::remove_file(path)));
        if let Ok(Err(error)) = removed.await {
            tracing::debug!(%error, "removing a template");
        }
    }

    /// Gives memory back. What is in use stays with its machines, and on disk.
    fn forget_oldest(&self) {
        let kinds: Vec<_> = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        // One that is locked is being made or looked up: not the oldest.
        let mut held: Vec<_> = kinds.iter().filter_map(|kind| kind.try_lock().ok()).collect();
        held.retain(|kind| kind.template.is_some());
        held.sort_by_key(|kind| std::cmp::Reverse(kind.used));
        for kind in held.iter_mut().skip(IN_MEMORY) {
            kind.template = None;
        }
    }
}

#[cfg(test)]
impl Templates {
    /// Puts another template in the place of each; answers how many failures were counted.
    pub(super) async fn replace_all(&self, template: impl Fn() -> Template) -> u32 {
        let kinds: Vec<_> = self.kinds.lock().unwrap().values().cloned().collect();
        let mut failures = 0;
        for kind in kinds {
            let mut kind = kind.lock().await;
            failures += kind.failures;
            kind.template = Some(Arc::new(template()));
        }
        failures
    }
}

/// Removes templates beyond those that are kept, the oldest first. Blocking.
fn remove_oldest(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    found.sort_by(|a, b| b.cmp(a));
    for (_, path) in found.into_iter().skip(ON_DISK) {
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(%error, ?path, "an old template stays");
        }
    }
}

/// Everything that the saved machine depends on, hashed. Blocking.
fn key(plan: &Plan) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    hash.update(LAYOUT);
    for path in [plan.qemu(), &plan.args.kernel, &plan.args.initramfs] {
        let meta = fs::metadata(path)?;
        for number in [meta.dev(), meta.ino(), meta.size()] {
            hash.update(number.to_le_bytes());
        }
        for number in [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()] {
            hash.update(number.to_le_bytes());
        }
    }
    for bytes in disk_sizes(&plan.args)? {
        hash.update(bytes.to_le_bytes());
    }
    for argument in blank(&plan.args).to_argv() {
        let argument = std::os::unix::ffi::OsStrExt::as_bytes(argument.as_os_str());
        hash.update((argument.len() as u64).to_le_bytes());
        hash.update(argument);
    }
    Ok(crate::kernel::hex(&hash.finalize()[..16]))
}
