//! An image of a sandbox.

use sandpen_actors::supervisor::SupervisorError;
use sandpen_api::ImageProgress;
use sandpen_types::guest_tool::GuestTool;
use sandpen_types::session::{SessionId, SessionProgram, SessionSpec};
use sandpen_types::spec::{Rootfs, SandboxKey, SandboxSpec};

use super::super::error::SandpenError;
use super::super::images::{CommitError, CommitRequest, ImageInfo, commit};
use super::Handle;

impl Handle {
    /// Makes an image of what was written to a sandbox's root, which runs or has ended, over the layers of the image that it
    /// runs. While it is packed nobody in the sandbox writes to the root: who does waits. The same changes make the same
    /// image. `progress` is called on another thread.
    ///
    /// # Errors
    /// `NotFound`; [`CommitError`].
    pub async fn commit(
        &self,
        request: CommitRequest,
        progress: impl FnMut(ImageProgress) + Send + 'static,
    ) -> Result<Vec<ImageInfo>, SandpenError> {
        let key = request.sandbox.clone();
        let row = self.get(&key).await?.ok_or_else(|| SupervisorError::NotFound { key: key.clone() })?;
        let base = match &row.spec.rootfs {
            Rootfs::Image(image) => image.digest,
            Rootfs::Native(_) | Rootfs::Overlayfs(_) => None,
        };
        let base = base.ok_or_else(|| CommitError::NoImage(key.clone()))?;
        if row.spec.read_only {
            return Err(CommitError::ReadOnly(key).into());
        }
        let file = self.image_spool().await?;
        let session = self.exec(&key, SessionSpec::new(SessionProgram::Tool(GuestTool::Changes))).await?;
        let mut packing = Packing { handle: self, key: &key, id: session.id(), has_ended: false };
        let tar = commit::spool(&self.images, &key, session, file).await?;
        packing.has_ended = true;
        let request = with_sandbox(request, &row.spec);
        let digests = commit::commit((*self.images).clone(), base, request, tar, progress).await?;
        self.took_in(digests).await
    }
}

/// While it is there somebody packs, and the root is frozen. Whoever gives up has that end at once.
struct Packing<'a> {
    handle: &'a Handle,
    key: &'a SandboxKey,
    id: SessionId,
    /// There is nothing to give up any more.
    has_ended: bool,
}

impl Drop for Packing<'_> {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let (handle, key, id) = (self.handle.clone(), self.key.clone(), self.id);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Where that cannot be asked, the guest gives up by itself when nobody reads.
            runtime.spawn(async move { handle.hang_up_session(&key, id).await });
        }
    }
}

/// Where nothing is said: what the sandbox was started with, but for its environment, which may hold secrets, and its command,
/// which often only keeps it there.
fn with_sandbox(mut request: CommitRequest, spec: &SandboxSpec) -> CommitRequest {
    let changes = &mut request.changes;
    let workdir = spec.workdir.as_ref().map(|workdir| String::from_utf8_lossy(workdir.as_bytes()).into_owned());
    changes.workdir = changes.workdir.take().or(workdir);
    changes.user = changes.user.take().or_else(|| spec.user.as_ref().map(ToString::to_string));
    request
}
