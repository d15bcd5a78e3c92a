//! What goes over the wire, version 1: the JSON and the frames of the HTTP API, shared by server and clients.
//! Described for users in `docs/http-api.md`; field names and codes are stable within one [`API_VERSION`].
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`CreateSandbox`], [`OutputQuery`], [`HistoryQuery`], [`StopRequest`] … | what is asked |
//! | [`Sandbox`], [`Transition`], [`EventLine`], [`Metric`] … | what is answered |
//! | [`ErrorCode`], [`ErrorDetail`] | what failed, as a word with its HTTP status, and in words |
//! | [`Word`] | a word that may be of a later version |
//! | [`session`] | how commands beside the workload are asked for, and what goes through their WebSocket |
//! | [`mod@file`] | files of a running sandbox, and what happens to them |
//! | [`frame`], [`LogRecords`] | the binary frames of a sandbox's output, and lines as JSON made of them |
//! | [`Readiness`] | what a daemon in the background tells its parent |
//!
//! May know: `sandpen-types`, serde. May not: how anything is sent, kept or done. The types in here are not what
//! sandpen works with inside: they are made from those and turned into them, so that either side can change
//! without the other. `golden/` has what this version writes, byte for byte.

mod create;
mod disk;
mod disk_usage;
mod error;
mod events;
pub mod file;
pub mod frame;
#[cfg(test)]
mod golden;
mod history_query;
mod image;
mod log_record;
mod metrics;
mod output_query;
mod readiness;
mod reconcile;
mod requests;
mod sandbox;
pub mod session;
mod stats;
mod timings;
mod transition;
mod version;
mod volume;
mod word;

pub use create::CreateSandbox;
pub use disk::DiskEntry;
pub use disk_usage::{DiskUsage, PruneReply, PruneRequest, PrunedEntry, UsageEntry, UsageOfKind};
pub use error::{ErrorBody, ErrorCode, ErrorDetail};
pub use events::{EVENTS_CONTENT_TYPE, EventEntry, EventLine};
pub use history_query::{HistoryQuery, HistoryQueryError};
pub use image::{
    ImageArchive, ImageCommitRequest, ImageCredentials, ImageDetail, ImageEntry, ImageImportRequest, ImageLayer,
    ImageLoadRequest, ImageMirror, ImageProgress, ImageProxies, ImagePruneRequest, ImagePullRequest, ImagePushRequest,
    ImagePushed, ImageRemoval, ImageSaveRequest, ImageStep, ImageTagRequest, ImageWork, MIRRORS_MAX, RegistryPassword,
    RegistryToken,
};
pub use log_record::{LogRecord, LogRecords, RECORD_MAX_BYTES, RecordBytes};
pub use metrics::{Metric, MetricKind, PROMETHEUS_CONTENT_TYPE, prometheus};
pub use output_query::{OutputQuery, OutputQueryError, TimeWindow};
pub use readiness::Readiness;
pub use reconcile::{LeftoverEntry, ReconcileReply};
pub use requests::{
    GRACE_DEFAULT_MS, GRACE_MAX_MS, KillRequest, RenameRequest, ShutdownReply, ShutdownRequest, StdinReply, StopRequest,
};
pub use sandbox::{DroppedBytes, Sandbox, SandboxDisk};
pub use stats::{GuestStats, HostStats, SandboxStats, Stats, StatsRates};
pub use timings::{StepTime, Timings};
pub use transition::Transition;
pub use version::Version;
pub use volume::VolumeEntry;
pub use word::{Keyword, Word};

/// The version of everything in here; a client refuses a daemon of another one.
pub const API_VERSION: u32 = 1;

/// What [`Version::name`] says, so that a stranger on the socket is noticed.
pub const NAME: &str = "sandpen";

/// Largest JSON body in bytes: a full workload (1 MiB) with every byte escaped, and some room.
pub const BODY_MAX_BYTES: usize = 8 << 20;
