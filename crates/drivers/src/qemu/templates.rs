//! The templates of this daemon: in memory, on disk, or made now. One for each kind of machine.
//!
//! ```text
//!   (nothing) ─▶ on disk and whole: read ─┐
//!       └──────▶ built, written ──────────┴─▶ ready ─ restored from ─▶ …
//!                     │                         │ a machine could not be restored: removed, again (nothing)
//!                     └─ failed ─▶ given up     └─ twice: given up, such machines boot
//! ```
//!
//! Reading, building and writing are [long work](crate::work): starts of one kind wait for the same, and
//! may leave; when all have left, it is given up. A machine that is built belongs to none of them and has a
//! directory of its own, `cache/building/KEY-RANDOM`.
//!
//! Whatever fails here is told in the log, and the machine boots as any other.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sandpen_cache::Cache;
use sandpen_types::error_chain::error_chain;
use sandpen_types::reconcile::{Leftover, LeftoverKind};
use sandpen_types::start_step::StartStep;
use sandpen_vmm::driver::{DriverError, Vmm};
use sandpen_vmm::waiter::WaitedVmm;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::prepare::MachinePlan;
use super::template::{Template, TemplateError, blank, disk_sizes};
use super::template_file;
use crate::step;
use crate::work::{Lane, Piece, Stop, Turn, WorkError};

/// Templates that are kept in memory, some 100 MiB each.
const IN_MEMORY: usize = 4;
/// What their files' names begin with.
const PREFIX: &str = "template-";
/// So often may machines not be restored before their kind is given up.
const FAILURES: u32 = 2;
/// Goes into the key: raise it when what is saved changes without its inputs.
const LAYOUT: &str = "sandpen template 2";

/// How long some 100 MiB may take to be read or written.
const FILE_LIMIT: Duration = Duration::from_mins(5);
/// How long a build may take beside the machine's boot.
const CLEAR_LIMIT: Duration = Duration::from_secs(30);
const ADVICE: &str = "such machines boot instead; see the sandbox's VMM log";

static READING: Lane<Option<Arc<Template>>, TemplateError> = Lane::new(2);
static BUILDING: Lane<Arc<Template>, TemplateError> = Lane::new(4);
static WRITING: Lane<(), io::Error> = Lane::new(1);

/// One kind of machine.
#[derive(Debug, Default)]
struct MachineKind {
    template: Option<Arc<Template>>,
    used: Option<Instant>,
    failures: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Templates {
    cache: Cache,
    /// Locked for a look alone.
    kinds: Mutex<HashMap<String, MachineKind>>,
}

impl Templates {
    /// Those of a cache.
    pub(super) fn new(cache: Cache) -> Self {
        Self { cache, kinds: Mutex::default() }
    }

    /// Ends and removes machines that an earlier daemon was building; once, later on there are our own.
    pub(super) async fn remove_leftovers(&self, bin_dir: &Path) -> Vec<Leftover> {
        let building = self.building();
        let left = step::blocking(move || Ok(left_over(&building))).await.unwrap_or_default();
        let mut removed = Vec::new();
        for path in left {
            let error = WaitedVmm::clear_away(&path, bin_dir).await.err().map(|error| error_chain(&error));
            let (kind, what) = (LeftoverKind::RuntimeDir, path.display().to_string());
            removed.push(Leftover { kind, what, sandbox: None, error });
        }
        removed
    }

    fn building(&self) -> PathBuf {
        self.cache.directory().join("building")
    }

    /// The machine of `plan`, restored; `None` where it has to boot.
    ///
    /// # Errors
    /// [`DriverError::Cancelled`] alone.
    pub(super) async fn restored(
        self: &Arc<Self>,
        plan: &MachinePlan,
        bin_dir: &Path,
    ) -> Result<Option<Vmm>, DriverError> {
        if !plan.can_be_restored() {
            return Ok(None);
        }
        let (planned, cache) = (plan.clone(), self.cache.directory().to_owned());
        let key = match step::blocking(move || Ok(key(&planned, &cache))).await {
            Ok(Ok(key)) => key,
            Ok(Err(error)) => {
                tracing::warn!(%error, "no template for this microVM");
                return Ok(None);
            }
            Err(_) => return Ok(None),
        };
        for _ in 0..FAILURES {
            let Some(template) = self.get(&key, plan, bin_dir).await? else { return Ok(None) };
            plan.launch().timings.mark(StartStep::TemplateReady);
            match template.restore(plan, bin_dir).await {
                Ok(vmm) => return Ok(Some(vmm)),
                Err(TemplateError::Driver(DriverError::Cancelled)) => return Err(DriverError::Cancelled),
                // Of the host's, not of the template's: the machine that boots instead meets the same, or it has passed.
                Err(error @ TemplateError::Driver(_)) => {
                    tracing::warn!(error = error_chain(&error), "a machine cannot be restored now, and boots");
                    return Ok(None);
                }
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), "a template is of no use and is made again");
                    self.remove(&key, &template).await;
                }
            }
        }
        Ok(None)
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<String, MachineKind>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directory(&self) -> PathBuf {
        self.cache.directory().join("templates")
    }

    fn path(&self, key: &str) -> PathBuf {
        self.directory().join(format!("{PREFIX}{key}"))
    }

    /// The template of `key`, made if there is none; others that want it wait for the same one.
    async fn get(
        self: &Arc<Self>,
        key: &str,
        plan: &MachinePlan,
        bin_dir: &Path,
    ) -> Result<Option<Arc<Template>>, DriverError> {
        {
            let mut kinds = self.kinds();
            let kind = kinds.entry(key.to_owned()).or_default();
            if kind.failures >= FAILURES {
                return Ok(None);
            }
            kind.used = Some(Instant::now());
            if let Some(template) = &kind.template {
                return Ok(Some(template.clone()));
            }
        }
        let cancel = &plan.launch().cancel;
        let error = match self.read(key, cancel).await {
            Ok(Some(template)) => return Ok(Some(template)),
            Ok(None) => match self.build(key, plan, bin_dir).await {
                Ok(template) => return Ok(Some(template)),
                Err(error) => error,
            },
            Err(error) => error,
        };
        if matches!(*error, WorkError::Cancelled) {
            return Err(DriverError::Cancelled);
        }
        self.kinds().entry(key.to_owned()).or_default().failures = FAILURES;
        tracing::warn!(error = error_chain(&error), "no template can be made; microVMs like this one boot");
        Ok(None)
    }

    fn piece(&self, key: &str, what: &str, limit: Duration) -> Piece {
        let path = self.path(key).display().to_string();
        Piece { what: format!("{what} the template {path}"), key: path, limit, advice: ADVICE }
    }

    /// The one on disk.
    async fn read(
        self: &Arc<Self>,
        key: &str,
        cancel: &CancellationToken,
    ) -> Result<Option<Arc<Template>>, Arc<WorkError<TemplateError>>> {
        let (this, of) = (self.clone(), key.to_owned());
        let read = move |stop: &Stop| {
            let template = match template_file::read(&this.path(&of), &of, || stop.check()) {
                Ok(template) => template.map(Arc::new),
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), "a template cannot be read and is made again");
                    None
                }
            };
            if let Some(template) = &template {
                sandpen_cache::mark_used(&this.path(&of));
                this.keep(&of, template);
            }
            Ok(template)
        };
        READING.on_thread(self.piece(key, "reading", FILE_LIMIT), cancel, read).await
    }

    /// A new one.
    async fn build(
        self: &Arc<Self>,
        key: &str,
        plan: &MachinePlan,
        bin_dir: &Path,
    ) -> Result<Arc<Template>, Arc<WorkError<TemplateError>>> {
        let limit = Template::build_limit(plan).saturating_add(CLEAR_LIMIT);
        let (this, of, plan, bin) = (self.clone(), key.to_owned(), plan.clone(), bin_dir.to_owned());
        let cancel = plan.launch().cancel.clone();
        let build = move |turn: Turn| async move {
            let built = this.build_apart(&of, &plan, &bin, &turn.stop).await;
            let template = built.map(Arc::new).map_err(WorkError::Failed)?;
            this.keep(&of, &template);
            // Nobody waits for the disk: without the file the next daemon makes another one. It tells itself what
            // goes wrong.
            drop(tokio::spawn(this.write(of, template.clone())));
            Ok(template)
        };
        BUILDING.share(self.piece(key, "building", limit), &cancel, build).await
    }

    async fn build_apart(
        &self,
        key: &str,
        plan: &MachinePlan,
        bin_dir: &Path,
        stop: &CancellationToken,
    ) -> Result<Template, TemplateError> {
        for left in self.remove_leftovers(bin_dir).await {
            tracing::warn!(
                what = left.what,
                error = left.error,
                "removed a machine that an earlier daemon was building"
            );
        }
        let (building, prefix) = (self.building(), format!("{key}-"));
        let prepared = move || {
            let made = sandpen_cache::make_directory(&building);
            let directory = made.and_then(|()| tempfile::Builder::new().prefix(&prefix).tempdir_in(&building));
            directory.map_err(|source| step::failed("making the runtime directory", source))
        };
        let directory = step::blocking(prepared).await?;
        // Kept for as long as anything may run in it; the waiter removes it.
        let runtime_dir = directory.keep();
        let plan = plan.apart(runtime_dir.clone(), &format!("template:{key}"));
        let built = Template::build(&plan, bin_dir, stop).await;
        if runtime_dir.exists() {
            clear_away(&runtime_dir, bin_dir).await;
        }
        built
    }

    fn keep(&self, key: &str, template: &Arc<Template>) {
        let mut kinds = self.kinds();
        let kind = kinds.entry(key.to_owned()).or_default();
        kind.template = Some(template.clone());
        kind.used = Some(Instant::now());
        // Gives memory back. What is in use stays with its machines, and on disk.
        let mut held: Vec<_> = kinds.values_mut().filter(|kind| kind.template.is_some()).collect();
        held.sort_by_key(|kind| std::cmp::Reverse(kind.used));
        for kind in held.into_iter().skip(IN_MEMORY) {
            kind.template = None;
        }
    }

    fn write(&self, key: String, template: Arc<Template>) -> impl Future<Output = ()> + use<> {
        let (piece, path, cache) = (self.piece(&key, "writing", FILE_LIMIT), self.path(&key), self.cache.clone());
        async move {
            let to = path.clone();
            let write = move |stop: &Stop| {
                let written = template_file::write(&to, &key, &template, || stop.check());
                cache.keep_within_budget();
                written
            };
            if let Err(error) = WRITING.on_thread(piece, &CancellationToken::new(), write).await {
                tracing::warn!(error = error_chain(&error), ?path, "a template cannot be kept on disk");
            }
        }
    }

    /// A template from which a machine could not be restored.
    async fn remove(&self, key: &str, template: &Arc<Template>) {
        {
            let mut kinds = self.kinds();
            let kind = kinds.entry(key.to_owned()).or_default();
            // Others that it failed as well have seen to it, and another one may have taken its place by now.
            if kind.template.as_ref().is_none_or(|there| !Arc::ptr_eq(there, template)) {
                return;
            }
            kind.template = None;
            kind.failures += 1;
        }
        let path = self.path(key);
        let removed = step::blocking(move || Ok(fs::remove_file(path)));
        if let Ok(Err(error)) = removed.await {
            tracing::debug!(%error, "removing a template");
        }
    }
}

#[cfg(test)]
impl Templates {
    /// Puts another template in the place of each; answers how many failures were counted.
    pub(super) fn replace_all(&self, template: impl Fn() -> Template) -> u32 {
        self.kinds().values_mut().for_each(|kind| kind.template = Some(Arc::new(template())));
        self.failures()
    }

    /// All that were counted.
    pub(super) fn failures(&self) -> u32 {
        self.kinds().values().map(|kind| kind.failures).sum()
    }
}

/// Machines of an earlier daemon's that were being built. Once for each directory: later on there are our own.
/// Blocking, for microseconds.
fn left_over(building: &Path) -> Vec<PathBuf> {
    static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    // Held until the list is there: nobody adds to it before that.
    let mut swept = SWEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if !swept.insert(building.to_owned()) {
        return Vec::new();
    }
    fs::read_dir(building).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Ends and removes a machine that was being built. It tells itself what goes wrong.
async fn clear_away(runtime_dir: &Path, bin_dir: &Path) {
    if let Err(error) = WaitedVmm::clear_away(runtime_dir, bin_dir).await {
        tracing::warn!(%error, "clearing up after a machine that was built for a template");
    }
}

/// Everything that the saved machine depends on, hashed. Blocking.
fn key(plan: &MachinePlan, cache: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    hash.update(LAYOUT);
    for path in [plan.qemu(), &plan.args.kernel, &plan.args.initramfs] {
        let meta = fs::metadata(path)?;
        // An entry of the cache is named by its content, and its times say when it was used.
        if path.starts_with(cache) {
            continue;
        }
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
    Ok(sandpen_cache::hex(&hash.finalize()[..16]))
}
