//! How a sandbox's health is checked.

use std::ffi::OsString;

use sandpen_types::spec::{ByteString, HealthCheck};
use sandpen_types::units::TimeSpan;

/// The check and its times.
#[derive(Debug, clap::Args)]
pub struct HealthArgs {
    /// Shell command that is run beside the command from time to time, in its environment; when it fails
    /// too often in a row, the sandbox has crashed
    #[arg(long, value_name = "CMD")]
    health_cmd: Option<OsString>,
    /// From one health check to the next, with its unit
    #[arg(long, value_name = "TIME", default_value = "30s", requires = "health_cmd")]
    health_interval: TimeSpan,
    /// How long a health check may take, with its unit
    #[arg(long, value_name = "TIME", default_value = "30s", requires = "health_cmd")]
    health_timeout: TimeSpan,
    /// How many failures in a row are too many
    #[arg(long, value_name = "N", default_value_t = 3, requires = "health_cmd")]
    health_retries: u32,
    /// Time for the command to get ready, in which failures do not count until a check has succeeded
    #[arg(long, value_name = "TIME", requires = "health_cmd")]
    health_start_period: Option<TimeSpan>,
}

impl HealthArgs {
    /// The check, where there is one.
    pub fn check(&self) -> Option<HealthCheck> {
        let command = vec!["/bin/sh".into(), "-c".into(), ByteString::from(self.health_cmd.as_ref()?)];
        Some(HealthCheck {
            interval: self.health_interval.duration(),
            timeout: self.health_timeout.duration(),
            retries: self.health_retries,
            start_period: self.health_start_period.map(TimeSpan::duration).unwrap_or_default(),
            ..HealthCheck::new(command)
        })
    }
}
