//! How a sandbox's output is kept.

use sandpen_types::spec::{LogBacklog, LogLimits};
use sandpen_types::units::ByteSize;

/// Sizes and numbers of log files.
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// Size after which a log file is rotated, with its unit
    #[arg(long, value_name = "SIZE", default_value = "10M")]
    log_max_size: ByteSize,
    /// Rotated log files that are kept, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 5)]
    log_keep: u32,
    /// While the log cannot be written, its disk is full for example: block keeps the output waiting, and the
    /// command with it; drop drops it, and marks the gap in the log
    #[arg(long, value_name = "POLICY", default_value_t)]
    log_backlog: LogBacklog,
}

impl LogArgs {
    /// What they say.
    pub fn limits(&self) -> LogLimits {
        LogLimits { max_bytes: self.log_max_size.bytes(), keep: self.log_keep, backlog: self.log_backlog }
    }
}
