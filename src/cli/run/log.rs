//! How a sandbox's output is kept.

use sandpen_types::spec::{LogBacklog, LogLimits};
use sandpen_types::units::ByteSize;

/// Sizes and numbers of log files.
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// Size after which a log file is rotated, with its unit
    #[arg(long = "log-max-size", value_name = "SIZE", default_value = "10M")]
    max_size: ByteSize,
    /// Rotated log files that are kept, 1 to 1000
    #[arg(long = "log-keep", value_name = "N", default_value_t = 5)]
    keep: u32,
    /// While the log cannot be written, its disk is full for example: block keeps the output waiting, and the
    /// command with it; drop drops it, and marks the gap in the log
    #[arg(long = "log-backlog", value_name = "POLICY", default_value_t)]
    backlog: LogBacklog,
}

impl LogArgs {
    /// What they say.
    pub fn limits(&self) -> LogLimits {
        LogLimits { max_bytes: self.max_size.bytes(), keep: self.keep, backlog: self.backlog }
    }
}
