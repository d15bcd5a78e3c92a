//! Ctrl-C and its kin as messages.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::CliError;

/// One message for each SIGINT, SIGTERM or SIGHUP from now on; their default effect ends with it.
pub fn channel() -> Result<mpsc::Receiver<()>, CliError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(CliError::Signals)?;
    let (sender, receiver) = mpsc::channel(8);
    // Ends with the runtime; it cannot panic.
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            // A full channel holds more signals than there are levels of stopping.
            let _ = sender.try_send(());
        }
    });
    Ok(receiver)
}
