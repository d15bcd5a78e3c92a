//! What happens to files of a sandbox, as it is told.
//!
//! ```text
//!   asked ──▶ Watching ──▶ events, a few of them kept for who does not read: the guest's system drops the rest, and says so
//!     └── Failed: refused      └── dropped: the session is hung up
//! ```

use std::time::Duration;

use sandpen_files::client::EventReader;
use sandpen_files::{FilesError, WatchEvent};
use sandpen_types::error_chain::error_chain;
use sandpen_types::guest_tool::GuestTool;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{SessionProgram, SessionSpec};
use sandpen_types::spec::{ByteString, SandboxKey, WorkloadUser};
use tokio::sync::mpsc;

use super::super::error::SandpenError;
use super::super::handle::Handle;
use super::super::session::Session;

/// Most events that wait for who reads them.
const EVENTS_KEPT: usize = 256;
/// How long a session may take to end that is hung up.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Events of something that is watched; dropped, it is watched no more.
#[derive(Debug)]
pub struct FileWatch {
    events: mpsc::Receiver<Result<WatchEvent, SandpenError>>,
    is_over: bool,
}

impl FileWatch {
    pub(super) async fn open(
        handle: &Handle,
        key: &SandboxKey,
        user: Option<WorkloadUser>,
        path: &[u8],
        recursive: bool,
    ) -> Result<Self, SandpenError> {
        let path = sandpen_files::path::checked(path).map_err(FilesError::from)?;
        let path = ByteString::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(path.to_vec()));
        let program = SessionProgram::Tool(GuestTool::Watch { path, recursive });
        let spec = SessionSpec { user, ..SessionSpec::new(program) };
        let (sender, events) = mpsc::channel(EVENTS_KEPT);
        let (handle, key) = (handle.clone(), key.clone());
        // Observed by whoever has the events, which end with it. Who does not wait for the first one leaves no session behind.
        drop(tokio::spawn(async move {
            match handle.tool(&key, spec).await {
                Ok(session) => pass_on(session, sender).await,
                Err(error) => drop(sender.send(Err(error)).await),
            }
        }));
        let mut watch = Self { events, is_over: false };
        match watch.next().await? {
            Some(WatchEvent::Watching) => Ok(watch),
            _ => Err(FilesError::Nonsense("it does not begin to watch").into()),
        }
    }

    /// The next event. `None` when its session was ended. Safe to cancel.
    ///
    /// # Errors
    /// That nothing more is told, and why: what was watched is gone, or the sandbox has ended. Nothing comes after that.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, SandpenError> {
        if self.is_over {
            return Ok(None);
        }
        let next = self.events.recv().await.transpose();
        self.is_over = !matches!(next, Ok(Some(_)));
        next
    }
}

/// Until the session ends, or nobody reads.
async fn pass_on(mut session: Session, events: mpsc::Sender<Result<WatchEvent, SandpenError>>) {
    let end = tokio::select! {
        end = tell(&mut session, &events) => end,
        () = events.closed() => None,
    };
    if let Some(error) = end {
        // Whoever is gone needs no word.
        let _ = events.send(Err(error)).await;
    }
    let _ = session.hang_up().await;
    let _ = tokio::time::timeout(END_LIMIT, session.wait()).await;
}

/// Why nothing more is told; `None`: nobody reads.
async fn tell(session: &mut Session, events: &mpsc::Sender<Result<WatchEvent, SandpenError>>) -> Option<SandpenError> {
    let mut reader = EventReader::default();
    loop {
        match session.next().await {
            Ok(Some(output)) if output.stream == OutputStream::Stdout => reader.push(&output.bytes),
            Ok(Some(_)) => {}
            Ok(None) => return Some(FilesError::Gone("the session that watches them has ended".to_owned()).into()),
            Err(error) => return Some(error),
        }
        loop {
            match reader.next_event() {
                Ok(Some(WatchEvent::Failed(error))) => return Some(FilesError::File(error).into()),
                Ok(Some(event)) => events.send(Ok(event)).await.ok()?,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), "a guest's word about files cannot be");
                    return Some(error.into());
                }
            }
        }
    }
}
