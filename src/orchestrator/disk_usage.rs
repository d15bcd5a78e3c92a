//! What takes room on the disk of the state directory and of the data directory, and the removal of what nothing uses.
//!
//! ```text
//!   usage:  rows ─┬ logs, disks ── whose row has ended: WithSandbox; logs of jobs are with those of their sandbox
//!                 ├ cache ──────── nobody's list names it, nor a row its kernel: Always
//!                 ├ kernels ────── not current any more, and no row has it: Always
//!                 └ images ─────── without a name, and no row has it: Always; so are layers of no other image
//!   prune:  plan: the same, as if the ended sandboxes that go (where asked for) were gone
//!           ended sandboxes of the plan ─▶ cache ─▶ kernels ─▶ images
//! ```
//! Each part is removed by its owner, who decides at that moment: a sandbox by the supervisor, which refuses a live one;
//! an entry of the cache under the lock under which starts say what they use; a kernel under the lock of installs. What was
//! listed before is only a suggestion. While a sandbox on record cannot be read, nobody knows whether a kernel is unused, and
//! each stays, with an error. Everything in here blocks, but for [`Handle::prune`](super::Handle::prune).

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use sandpen_actors::database::EverySandbox;
use sandpen_cache::Cache;
use sandpen_types::disk_usage::{PrunedItem, Reclaim, UsageItem, UsageKind};
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{ConfigName, SandboxKey, SandboxName};
use sandpen_types::state_dir::{DISK_DRAFT_PREFIX, DISK_SUFFIX, StateDir};
use sandpen_vmm::tree;

use super::images::{AskAgain, ImageUsers, Images};

/// How names of copies of kernels begin ([`sandpen_kernels::own::copy_path`]).
const COPY_PREFIX: &str = "kernel-";

/// What is removed beside what nothing uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Ended sandboxes too, with their logs and disks.
    pub sandboxes: bool,
    /// Nothing is removed: it is only said what would be.
    pub dry_run: bool,
    /// Of the ended sandboxes only these; `None`: all.
    pub only: Option<Vec<SandboxKey>>,
}

impl PruneOptions {
    /// Whether it removes the sandbox of this row.
    fn takes(&self, row: &SandboxRow) -> bool {
        let is_meant = self.only.as_ref().is_none_or(|only| only.contains(&row.spec.key));
        self.sandboxes && is_meant && row.state.is_ended()
    }
}

/// Where to look.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub state_dir: StateDir,
    pub data_dir: PathBuf,
}

impl Places {
    /// Everything that takes room. Another kind of thing is another list here.
    pub fn usage(&self, every: &EverySandbox) -> Vec<UsageItem> {
        let rows = &every.rows;
        let mut items = self.of_sandboxes(rows);
        items.extend(self.named_disks());
        items.extend(self.volumes());
        // What a prune would leave, with an error, is not to be had.
        items.extend(self.of_nobody(rows).map(|item| match keeps(every, &item) {
            Some(_) => UsageItem { reclaim: Reclaim::Never, ..item },
            None => item,
        }));
        items.extend(self.images().usage(&ImageUsers::of(every)));
        items.extend(self.own_files());
        items.sort_by(order);
        items
    }

    /// What a prune removes, by what is known now; what has an error would stay. At least one item of each sandbox that goes.
    pub fn plan(&self, every: &EverySandbox, options: &PruneOptions) -> Vec<PrunedItem> {
        let (go, stay): (Vec<_>, Vec<_>) = every.rows.iter().cloned().partition(|row| options.takes(row));
        let mut items = self.of_sandboxes(&go);
        items.retain(|item| item.reclaim == Reclaim::WithSandbox);
        let with_files: HashSet<_> = items.iter().filter_map(|item| item.sandbox.clone()).collect();
        let keys = go.iter().map(|row| &row.spec.key);
        items.extend(keys.filter(|key| !with_files.contains(key)).map(without_files));
        let of_images = self.images().usage(&ImageUsers::without(every, |row| options.takes(row)));
        items.extend(self.of_nobody(&stay).chain(of_images).filter(|item| item.reclaim == Reclaim::Always));
        items.sort_by(order);
        items.into_iter().map(|item| PrunedItem { error: keeps(every, &item), item }).collect()
    }

    /// Removes what nothing uses of the cache, of the installed kernels and of images, of which it is asked again.
    pub fn prune(&self, every: &EverySandbox, again: &AskAgain) -> Vec<PrunedItem> {
        let rows = &every.rows;
        let of_nobody = self.of_nobody(rows).filter(|item| item.reclaim == Reclaim::Always);
        let kept =
            of_nobody.filter_map(|item| keeps(every, &item).map(|error| PrunedItem { item, error: Some(error) }));
        let kept: Vec<_> = kept.collect();
        let wanted = wanted_copies(rows, &self.state_dir);
        let stays = |path: &Path| wanted.iter().any(|wanted| wanted == path) || (every.left_out > 0 && is_copy(path));
        let removed = self.cache_dir().remove_unused(stays);
        let of_cache = removed.into_iter().map(|removed| PrunedItem {
            item: cache_item(&removed.kept, Reclaim::Always),
            error: removed.error.map(|error| error.to_string()),
        });
        let old =
            sandpen_kernels::kept(&self.data_dir).into_iter().filter(|kept| kept.is_old && !is_wanted(kept, rows));
        let of_kernels = old.filter(|_| every.left_out == 0).filter_map(|kept| {
            let item = kernel_item(&kept, Reclaim::Always);
            match sandpen_kernels::remove_old(&self.data_dir, &kept) {
                Ok(false) => None,
                removed => Some(PrunedItem { item, error: removed.err().map(|error| error.to_string()) }),
            }
        });
        let of_images = self.images().prune_unnamed(&ImageUsers::of(every), again);
        kept.into_iter().chain(of_cache).chain(of_kernels).chain(of_images).collect()
    }

    /// What is said where the cache and the kernels were not looked at.
    pub fn not_looked_at(&self, error: String) -> PrunedItem {
        let what = self.state_dir.cache().display().to_string();
        let item = UsageItem { kind: UsageKind::Cache, what, sandbox: None, bytes: 0, reclaim: Reclaim::Never };
        PrunedItem { item, error: Some(error) }
    }

    /// Logs and disks of sandboxes: those of these rows, and of others.
    fn of_sandboxes(&self, rows: &[SandboxRow]) -> Vec<UsageItem> {
        let ended: HashMap<_, _> = rows.iter().map(|row| (&row.spec.key, row.state.is_ended())).collect();
        let of_sandbox = |key: &SandboxKey| match ended.get(key) {
            Some(true) => Reclaim::WithSandbox,
            _ => Reclaim::Never,
        };
        let mut items = self.logs(rows, &of_sandbox);
        items.extend(self.sandbox_disks(&of_sandbox));
        items
    }

    /// The cache and the kernels.
    fn of_nobody(&self, rows: &[SandboxRow]) -> impl Iterator<Item = UsageItem> + use<> {
        self.cache(rows).into_iter().chain(self.kernels(rows))
    }

    fn images(&self) -> Images {
        Images::new(&self.data_dir, None, None)
    }

    fn cache_dir(&self) -> Cache {
        Cache::new(self.state_dir.cache(), u64::MAX)
    }

    fn logs(&self, rows: &[SandboxRow], of_sandbox: &impl Fn(&SandboxKey) -> Reclaim) -> Vec<UsageItem> {
        let mut bytes: BTreeMap<SandboxKey, u64> = BTreeMap::new();
        for config in entries(&self.state_dir.path().join("logs")) {
            let Some(config_name) = config.file_name().and_then(|name| name.to_str()) else { continue };
            let Ok(config_name) = ConfigName::new(config_name) else { continue };
            for file in entries(&config) {
                let name = file.file_name().and_then(|name| name.to_str()).and_then(log_owner);
                let Some(name) = name.and_then(|name| SandboxName::new(name).ok()) else { continue };
                let key = SandboxKey { config: config_name.clone(), name };
                *bytes.entry(key).or_default() += allocated(&file);
            }
        }
        let keys: HashMap<_, _> = rows.iter().map(|row| (row.id, &row.spec.key)).collect();
        let mut of_others = Vec::new();
        for jobs in entries(&self.state_dir.all_jobs()) {
            let owner = jobs.file_name().and_then(StateDir::jobs_owner).and_then(|owner| keys.get(&owner));
            match owner {
                Some(key) => *bytes.entry((*key).clone()).or_default() += tree::allocated(&jobs),
                None => of_others.push(UsageItem {
                    kind: UsageKind::Logs,
                    bytes: tree::allocated(&jobs),
                    what: jobs.display().to_string(),
                    sandbox: None,
                    reclaim: Reclaim::Never,
                }),
            }
        }
        let item = |(key, bytes): (SandboxKey, u64)| UsageItem {
            kind: UsageKind::Logs,
            what: key.to_string(),
            reclaim: of_sandbox(&key),
            sandbox: Some(key),
            bytes,
        };
        bytes.into_iter().map(item).chain(of_others).collect()
    }

    fn sandbox_disks(&self, of_sandbox: &impl Fn(&SandboxKey) -> Reclaim) -> Vec<UsageItem> {
        let mut items = Vec::new();
        for config in entries(&self.state_dir.sandbox_disks()) {
            let config_name =
                config.file_name().and_then(|name| name.to_str()).and_then(|name| ConfigName::new(name).ok());
            for file in entries(&config) {
                let name = disk_name(&file).and_then(|name| SandboxName::new(name).ok());
                let key = config_name.clone().zip(name).map(|(config, name)| SandboxKey { config, name });
                let reclaim = key.as_ref().map_or(Reclaim::Never, of_sandbox);
                items.push(disk_item(UsageKind::SandboxDisks, &file, key, reclaim));
            }
        }
        items
    }

    fn named_disks(&self) -> Vec<UsageItem> {
        // They are kept on purpose, also while nobody uses them.
        let files = entries(&self.state_dir.named_disks());
        files.map(|file| disk_item(UsageKind::NamedDisks, &file, None, Reclaim::Never)).collect()
    }

    fn volumes(&self) -> Vec<UsageItem> {
        // Kept on purpose as well; one that a removal is taking apart is still there.
        let item = |path: PathBuf| UsageItem {
            kind: UsageKind::Volumes,
            bytes: tree::allocated(&path),
            what: path.display().to_string(),
            sandbox: None,
            reclaim: Reclaim::Never,
        };
        entries(&self.state_dir.volumes()).map(item).collect()
    }

    fn cache(&self, rows: &[SandboxRow]) -> Vec<UsageItem> {
        let wanted = wanted_copies(rows, &self.state_dir);
        let kept = self.cache_dir().kept().into_iter();
        kept.map(|kept| {
            let is_free = !kept.is_used && (kept.is_draft || !wanted.contains(&kept.path));
            cache_item(&kept, if is_free { Reclaim::Always } else { Reclaim::Never })
        })
        .collect()
    }

    fn kernels(&self, rows: &[SandboxRow]) -> Vec<UsageItem> {
        let kept = sandpen_kernels::kept(&self.data_dir).into_iter();
        kept.map(|kept| {
            let is_free = kept.is_old && !is_wanted(&kept, rows);
            kernel_item(&kept, if is_free { Reclaim::Always } else { Reclaim::Never })
        })
        .collect()
    }

    /// What is ours whatever is asked for.
    fn own_files(&self) -> Vec<UsageItem> {
        let dir = &self.state_dir;
        let item = |kind, path: PathBuf| UsageItem {
            kind,
            bytes: tree::allocated(&path),
            what: path.display().to_string(),
            sandbox: None,
            reclaim: Reclaim::Never,
        };
        let database = StateDir::FILES.into_iter().filter(|name| name.starts_with(StateDir::DATABASE));
        let database = database.map(|name| item(UsageKind::Database, dir.path().join(name)));
        let runtime = entries(&dir.runtime_root()).flat_map(|config| entries(&config));
        let runtime = runtime.map(|path| item(UsageKind::Runtime, path));
        let program = entries(&dir.bin()).chain([dir.daemon_log()]);
        let program = program.map(|path| item(UsageKind::Program, path));
        database.chain(runtime).chain(program).filter(|item| Path::new(&item.what).exists()).collect()
    }
}

/// Why something that no readable sandbox wants stays all the same.
fn keeps(every: &EverySandbox, item: &UsageItem) -> Option<String> {
    let is_kernel = matches!(item.kind, UsageKind::KernelCopies | UsageKind::Kernels);
    let unknown = || {
        let unreadable = every.left_out;
        format!("{unreadable} of the sandboxes on record cannot be read, and may want it; the daemon's log says which")
    };
    (every.left_out > 0 && is_kernel && item.reclaim == Reclaim::Always).then(unknown)
}

/// In which order things are shown.
pub(super) fn order(a: &UsageItem, b: &UsageItem) -> Ordering {
    (a.kind, &a.what).cmp(&(b.kind, &b.what))
}

/// A sandbox that has left nothing but its row.
fn without_files(key: &SandboxKey) -> UsageItem {
    let (what, sandbox) = (key.to_string(), Some(key.clone()));
    UsageItem { kind: UsageKind::Logs, what, sandbox, bytes: 0, reclaim: Reclaim::WithSandbox }
}

/// Whether an entry of the cache is the copy of a kernel.
fn is_copy(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(COPY_PREFIX))
}

/// Copies of kernels that a sandbox was started with, and is started with again.
fn wanted_copies(rows: &[SandboxRow], dir: &StateDir) -> Vec<PathBuf> {
    let digests = rows.iter().filter_map(|row| row.spec.kernel_sha256);
    digests.map(|digest| sandpen_kernels::own::copy_path(&dir.cache(), digest.bytes())).collect()
}

/// Whether a sandbox may want something of an installed kernel: it is its own, or its own takes modules there.
fn is_wanted(kept: &sandpen_kernels::Kept, rows: &[SandboxRow]) -> bool {
    let own = rows.iter().filter_map(|row| row.spec.kernel.as_ref());
    let (inside, outside): (Vec<_>, Vec<_>) =
        own.partition(|kernel| kept.path.parent().is_some_and(|dir| kernel.starts_with(dir)));
    // Of one that lies elsewhere it is not known which version it is.
    !outside.is_empty() || inside.iter().any(|kernel| kernel.starts_with(&kept.path))
}

fn kernel_item(kept: &sandpen_kernels::Kept, reclaim: Reclaim) -> UsageItem {
    let what = kept.path.display().to_string();
    UsageItem { kind: UsageKind::Kernels, what, sandbox: None, bytes: kept.bytes, reclaim }
}

fn cache_item(kept: &sandpen_cache::Kept, reclaim: Reclaim) -> UsageItem {
    let name = kept.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let kind = match name {
        _ if kept.is_draft => UsageKind::Drafts,
        _ if name.starts_with("template-") => UsageKind::Templates,
        _ if name.starts_with("root-") => UsageKind::RootImages,
        _ if name.starts_with(COPY_PREFIX) => UsageKind::KernelCopies,
        _ => UsageKind::Cache,
    };
    UsageItem { kind, what: kept.path.display().to_string(), sandbox: None, bytes: kept.bytes, reclaim }
}

fn disk_item(kind: UsageKind, file: &Path, sandbox: Option<SandboxKey>, reclaim: Reclaim) -> UsageItem {
    let is_draft =
        file.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(DISK_DRAFT_PREFIX));
    let kind = if is_draft { UsageKind::Drafts } else { kind };
    let what = match &sandbox {
        Some(key) => key.to_string(),
        None => file.display().to_string(),
    };
    UsageItem { kind, what, sandbox, bytes: allocated(file), reclaim }
}

fn disk_name(file: &Path) -> Option<&str> {
    file.file_name()?.to_str()?.strip_suffix(DISK_SUFFIX)
}

/// Whose log a file belongs to: `NAME.vmm`, or `NAME.log` with `.N`, `.idx` or both behind it.
fn log_owner(file_name: &str) -> Option<&str> {
    if let Some(name) = file_name.strip_suffix(".vmm") {
        return Some(name);
    }
    let log = file_name.strip_suffix(".idx").unwrap_or(file_name);
    let numbered = log.rsplit_once('.').filter(|(_, number)| number.parse::<u32>().is_ok());
    numbered.map_or(log, |(log, _)| log).strip_suffix(".log")
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn allocated(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| tree::allocated_by(&meta))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_files_name_says_whose_it_is() {
        for (file, owner) in [
            ("web.log", Some("web")),
            ("web.log.12", Some("web")),
            ("web.log.idx", Some("web")),
            ("web.log.3.idx", Some("web")),
            ("web.vmm", Some("web")),
            ("a.log.1.log", Some("a.log.1")),
            ("a.log.1.log.2.idx", Some("a.log.1")),
            ("a.7.log", Some("a.7")),
            ("a.vmm.log", Some("a.vmm")),
            ("notes.txt", None),
            ("web", None),
        ] {
            assert_eq!(log_owner(file), owner, "{file}");
        }
    }
}
