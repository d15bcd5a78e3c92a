//! Stub of the facade; replaced by the lead's.
#![allow(missing_docs, clippy::unused_async, clippy::needless_pass_by_value)]
use chrono::{DateTime, Utc};
use sandpen_actors::database::{RecordTransition, SandboxRow};
use sandpen_actors::driver::{Drivers, OutputStream};
use sandpen_actors::spec::{SandboxKey, SandboxSpec};
use sandpen_actors::state_dir::StateDir;
use std::path::PathBuf;
use std::time::Duration;

mod lock;
pub use lock::LockError;
pub struct Sandpen {
    dir: StateDir,
    lock: lock::StateLock,
}
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    StateDir(#[from] LockError),
}
#[derive(Debug, thiserror::Error)]
pub enum SandpenError {
    #[error("gone")]
    Gone,
}
impl SandpenError {
    pub fn code(&self) -> &'static str {
        "unavailable"
    }
}
#[derive(Default)]
pub struct SandpenBuilder {
    dir: PathBuf,
}
impl SandpenBuilder {
    #[must_use]
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }
    #[must_use]
    pub fn drivers(self, _drivers: Drivers) -> Self {
        self
    }
    pub fn start(self) -> Result<Sandpen, StartError> {
        let dir = StateDir::new(self.dir);
        Ok(Sandpen { lock: lock::take(&dir)?, dir })
    }
}
impl Sandpen {
    pub fn builder() -> SandpenBuilder {
        SandpenBuilder::default()
    }
    pub fn handle(&self) -> Handle {
        Handle { dir: self.dir.clone() }
    }
    pub async fn shutdown(self, _grace: Option<Duration>) -> Result<(), SandpenError> {
        drop(self.lock);
        Ok(())
    }
}
#[derive(Clone)]
pub struct Handle {
    dir: StateDir,
}
#[derive(Debug, Clone, Copy)]
pub enum OutputFrom {
    Oldest,
    Generation,
    Tail(usize),
}
#[derive(Debug, Clone, Copy)]
pub struct OutputOptions {
    pub from: OutputFrom,
    pub follow: bool,
    pub stream: Option<OutputStream>,
}
pub enum LogChunk {
    Bytes { stream: OutputStream, at: DateTime<Utc>, position: u64, bytes: Vec<u8> },
    Gap { position: u64, bytes: u64 },
}
pub struct Output;
impl Output {
    pub async fn next(&mut self) -> Result<Option<LogChunk>, SandpenError> {
        Ok(None)
    }
}
pub struct StdinWriter;
impl StdinWriter {
    pub async fn write(&self, _b: Vec<u8>) -> Result<(), SandpenError> {
        Err(SandpenError::Gone)
    }
    pub async fn close(&self) -> Result<(), SandpenError> {
        Ok(())
    }
}
impl Handle {
    pub async fn start_sandbox(&self, _spec: SandboxSpec) -> Result<SandboxRow, SandpenError> {
        Err(SandpenError::Gone)
    }
    pub async fn get(&self, _key: &SandboxKey) -> Result<Option<SandboxRow>, SandpenError> {
        Ok(None)
    }
    pub async fn list(&self) -> Result<Vec<SandboxRow>, SandpenError> {
        Ok(vec![])
    }
    pub async fn history(&self, _key: &SandboxKey) -> Result<Vec<RecordTransition>, SandpenError> {
        Ok(vec![])
    }
    pub async fn stop(&self, _key: &SandboxKey, _grace: Duration) -> Result<SandboxRow, SandpenError> {
        Err(SandpenError::Gone)
    }
    pub async fn kill(&self, _key: &SandboxKey, _signal: i32) -> Result<SandboxRow, SandpenError> {
        Err(SandpenError::Gone)
    }
    pub async fn wait(&self, _key: &SandboxKey) -> Result<SandboxRow, SandpenError> {
        Err(SandpenError::Gone)
    }
    pub async fn remove(&self, _key: &SandboxKey, _force: bool) -> Result<(), SandpenError> {
        Err(SandpenError::Gone)
    }
    pub async fn output(&self, _key: &SandboxKey, _o: OutputOptions) -> Result<Output, SandpenError> {
        Err(SandpenError::Gone)
    }
    pub async fn stdin(&self, _key: &SandboxKey) -> Result<StdinWriter, SandpenError> {
        Err(SandpenError::Gone)
    }
    pub fn state_dir(&self) -> &StateDir {
        &self.dir
    }
}
