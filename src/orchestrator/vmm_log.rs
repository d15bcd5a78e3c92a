//! A sandbox's VMM log as a stream of chunks.

use std::fmt;
use std::path::PathBuf;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sandpen_actors::runtime::actor_ref::ActorRef;
use sandpen_actors::supervisor::{Supervisor, SupervisorError, WaitSandbox};
use sandpen_actors::vmm_log::VmmLogReader;
use sandpen_types::spec::SandboxKey;

use super::error::SandpenError;

/// What of a VMM log is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VmmLogOptions {
    /// Only this many lines before the end.
    pub tail: Option<usize>,
    /// Whether to go on until the sandbox has ended.
    pub follow: bool,
}

/// What the VMM of a sandbox, its companions and the guest's console printed, byte for byte.
/// Bounded: it reads on only when it is asked for the next chunk.
pub struct VmmLog {
    reader: VmmLogReader,
    /// Resolves when nothing more will be written; `None` once that is so.
    end: Option<BoxFuture<'static, Result<(), SandpenError>>>,
}

impl VmmLog {
    pub(super) async fn open(
        path: PathBuf,
        supervisor: ActorRef<Supervisor>,
        key: SandboxKey,
        options: VmmLogOptions,
    ) -> Result<Self, SandpenError> {
        let end = async move {
            match supervisor.send(WaitSandbox { key }).await? {
                // Removed: it has ended, too.
                Ok(_) | Err(SupervisorError::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            }
        };
        let reader = VmmLogReader::open(path, options.tail, options.follow).await.map_err(SandpenError::VmmLog)?;
        Ok(Self { reader, end: options.follow.then(|| end.boxed()) })
    }

    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// The log cannot be read, or the orchestrator has ended.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, SandpenError> {
        loop {
            let bytes = self.reader.read().await.map_err(SandpenError::VmmLog)?;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
            let Some(end) = &mut self.end else { return Ok(None) };
            tokio::select! {
                ended = end => {
                    ended?;
                    // What was written last is still to be read.
                    self.end = None;
                }
                changed = self.reader.changed() => changed.map_err(SandpenError::VmmLog)?,
            }
        }
    }
}

impl fmt::Debug for VmmLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmmLog").field("reader", &self.reader).field("follows", &self.end.is_some()).finish()
    }
}
