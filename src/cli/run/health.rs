//! How a sandbox's health is checked.

use std::ffi::OsString;

use sandpen_types::spec::{ByteString, HealthCheck};
use sandpen_types::units::TimeSpan;

/// The check and its times. Where the command line has a name already, the flag has another id.
#[derive(Debug, clap::Args)]
pub struct HealthArgs {
    /// Shell command that is run beside the command from time to time, in its environment; when it fails
    /// too often in a row, the sandbox has crashed
    #[arg(long = "health-cmd", id = "health_cmd", value_name = "CMD")]
    command: Option<OsString>,
    /// From one health check to the next, with its unit
    #[arg(long = "health-interval", value_name = "TIME", default_value = "30s", requires = "health_cmd")]
    interval: TimeSpan,
    /// How long a health check may take, with its unit
    #[arg(
        long = "health-timeout",
        id = "health_timeout",
        value_name = "TIME",
        default_value = "30s",
        requires = "health_cmd"
    )]
    timeout: TimeSpan,
    /// How many failures in a row are too many
    #[arg(long = "health-retries", value_name = "N", default_value_t = 3, requires = "health_cmd")]
    retries: u32,
    /// Time for the command to get ready, in which failures do not count until a check has succeeded
    #[arg(long = "health-start-period", value_name = "TIME", requires = "health_cmd")]
    start_period: Option<TimeSpan>,
}

impl HealthArgs {
    /// The check, where there is one.
    pub fn check(&self) -> Option<HealthCheck> {
        let command = vec!["/bin/sh".into(), "-c".into(), ByteString::from(self.command.as_ref()?)];
        Some(HealthCheck {
            interval: self.interval.duration(),
            timeout: self.timeout.duration(),
            retries: self.retries,
            start_period: self.start_period.map(TimeSpan::duration).unwrap_or_default(),
            ..HealthCheck::new(command)
        })
    }
}
