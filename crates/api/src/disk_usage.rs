//! What takes room on the disk, and what a pruning removed.

use sandpen_types::disk_usage::{PrunedItem, Reclaim, UsageItem, UsageKind};
use serde::{Deserialize, Serialize};

/// Answer of `GET /v1/disk-usage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// Each kind of thing.
    pub kinds: Vec<UsageOfKind>,
    /// Each thing; not there unless it was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<UsageEntry>,
}

/// All things of one kind together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageOfKind {
    /// The kind's word; later versions may have more.
    pub kind: String,
    /// How many there are.
    pub count: u64,
    /// What they take of the host's disk, in bytes.
    pub bytes: u64,
    /// What a pruning would free of that.
    pub reclaimable_bytes: u64,
    /// What one that removes ended sandboxes would free besides.
    pub with_sandboxes_bytes: u64,
}

/// One thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageEntry {
    /// The kind's word.
    pub kind: String,
    /// Which one: a path, or a sandbox's name.
    pub what: String,
    /// The sandbox that it belongs to, as CONFIG/NAME.
    pub sandbox: Option<String>,
    /// What it takes of the host's disk, in bytes.
    pub bytes: u64,
    /// What frees it: `never`, `always` or `with_sandbox`.
    pub reclaim: Reclaim,
}

impl From<&UsageItem> for UsageEntry {
    fn from(item: &UsageItem) -> Self {
        Self {
            kind: item.kind.as_str().to_owned(),
            what: item.what.clone(),
            sandbox: item.sandbox.as_ref().map(ToString::to_string),
            bytes: item.bytes,
            reclaim: item.reclaim,
        }
    }
}

impl DiskUsage {
    /// All of it, kind by kind, with each item where that is wanted.
    pub fn new(items: &[UsageItem], with_items: bool) -> Self {
        let of_kind = |kind: UsageKind| {
            let sum = |reclaim: Option<Reclaim>| {
                let items = items.iter().filter(|item| item.kind == kind);
                let items = items.filter(|item| reclaim.is_none_or(|reclaim| item.reclaim == reclaim));
                items.fold((0_u64, 0_u64), |(count, bytes), item| (count + 1, bytes.saturating_add(item.bytes)))
            };
            let (count, bytes) = sum(None);
            UsageOfKind {
                kind: kind.as_str().to_owned(),
                count,
                bytes,
                reclaimable_bytes: sum(Some(Reclaim::Always)).1,
                with_sandboxes_bytes: sum(Some(Reclaim::WithSandbox)).1,
            }
        };
        let kinds = UsageKind::ALL.into_iter().map(of_kind).collect();
        Self { kinds, items: if with_items { items.iter().map(UsageEntry::from).collect() } else { Vec::new() } }
    }
}

/// Body of `POST /v1/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneRequest {
    /// Whether ended sandboxes are removed too, with their logs and disks.
    #[serde(default)]
    pub sandboxes: bool,
    /// Whether it is only said what would be removed.
    #[serde(default)]
    pub dry_run: bool,
    /// Of the ended sandboxes only these, as CONFIG/NAME: those that somebody was shown and agreed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Vec<String>>,
}

/// Answer of `POST /v1/prune`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneReply {
    /// What was removed, or would be.
    pub removed: Vec<PrunedEntry>,
    /// What that freed, or would free, in bytes.
    pub freed_bytes: u64,
}

/// Something that was to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedEntry {
    /// The kind's word.
    pub kind: String,
    /// Which one.
    pub what: String,
    /// The sandbox that it belonged to, as CONFIG/NAME.
    pub sandbox: Option<String>,
    /// What it took of the host's disk, in bytes.
    pub bytes: u64,
    /// Why it is still there; null when it is gone.
    pub error: Option<String>,
}

impl From<Vec<PrunedItem>> for PruneReply {
    fn from(items: Vec<PrunedItem>) -> Self {
        let gone = items.iter().filter(|pruned| pruned.error.is_none());
        let freed_bytes = gone.fold(0_u64, |bytes, pruned| bytes.saturating_add(pruned.item.bytes));
        let removed = items.into_iter().map(|PrunedItem { item, error }| PrunedEntry {
            kind: item.kind.as_str().to_owned(),
            what: item.what,
            sandbox: item.sandbox.map(|key| key.to_string()),
            bytes: item.bytes,
            error,
        });
        Self { removed: removed.collect(), freed_bytes }
    }
}
