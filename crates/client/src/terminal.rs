//! What a client passes on from the user's terminal.

use bytes::Bytes;
use sandpen_types::spec::TerminalSize;
use tokio::sync::{mpsc, oneshot, watch};

/// A terminal's input and sizes. Whoever reads the terminal never waits for the sandbox: keys that
/// leave it must work when it takes nothing.
#[derive(Debug)]
pub struct TerminalInput {
    /// What was typed, without the detach keys.
    pub typed: mpsc::Receiver<Bytes>,
    /// The size now, and each new one.
    pub sizes: watch::Receiver<Option<TerminalSize>>,
    /// The detach keys were typed. An end without them says nothing.
    pub detach: oneshot::Receiver<()>,
}
