//! Looks at what sandboxes take again and again, whatever becomes of the daemon.

use sandpen_api::Stats;
use sandpen_types::spec::SandboxKey;

use super::resume::Resume;
use super::{Client, ClientError, ClientOptions};

/// Who is asked, and about what.
pub struct StatsReader {
    client: Client,
    keys: Vec<SandboxKey>,
    all: bool,
    resume: Resume,
}

impl StatsReader {
    pub(super) fn new(client: Client, options: &ClientOptions, keys: Vec<SandboxKey>, all: bool) -> Self {
        Self { client, keys, all, resume: Resume::new(options, None) }
    }

    /// What they take now. Where the daemon dies or is replaced, the next one is found, or started, and asked; one that
    /// ended in order is waited for. Safe to cancel.
    ///
    /// # Errors
    /// Code [`NotFound`](sandpen_api::ErrorCode::NotFound); [`ClientError::NoSuccessor`] where no daemon goes on.
    pub async fn sample(&mut self) -> Result<Stats, ClientError> {
        loop {
            match self.client.stats(&self.keys, self.all).await {
                Ok(stats) => {
                    self.resume.progressed();
                    return Ok(stats);
                }
                Err(error) => self.client = self.resume.after(error).await?,
            }
        }
    }
}
