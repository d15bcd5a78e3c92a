//! Ctrl-C and its kin as messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::CliError;

/// One message for each SIGINT, SIGTERM, SIGHUP or SIGQUIT from now on; their default effect ends
/// with it. And who else can tell that the terminal is gone.
pub fn channel() -> Result<(mpsc::Receiver<()>, HangUp), CliError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(CliError::Signals)?;
    let mut quit = signal(SignalKind::quit()).map_err(CliError::Signals)?;
    let (sender, receiver) = mpsc::channel(8);
    let told = Arc::new(AtomicBool::new(false));
    let hang_up = HangUp { sender: sender.clone(), told: told.clone() };
    // Ends with the runtime; it cannot panic.
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = quit.recv() => {}
                _ = hangup.recv() => if told.swap(true, Ordering::Relaxed) { continue },
            }
            // A full channel holds more signals than there are levels of stopping.
            let _ = sender.try_send(());
        }
    });
    Ok((receiver, hang_up))
}

/// Tells that the terminal is gone. That and SIGHUP are one event: the second of them is no message.
#[derive(Debug)]
pub struct HangUp {
    sender: mpsc::Sender<()>,
    told: Arc<AtomicBool>,
}

impl HangUp {
    /// Tells it, if SIGHUP did not.
    pub fn tell(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let _ = self.sender.try_send(());
        }
    }
}
