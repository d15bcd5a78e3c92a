//! Ctrl-C and its kin as messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::CliError;

/// SIGHUP, SIGINT, SIGQUIT and SIGTERM.
const NUMBERS: [i32; 4] = [1, 2, 3, 15];

/// One message for each SIGINT, SIGTERM, SIGHUP or SIGQUIT from now on, in the place of their default effect: once nobody waits
/// for messages any more, each ends the program. And who else can tell that the terminal is gone.
pub fn channel() -> Result<(mpsc::Receiver<()>, HangUp), CliError> {
    telling(|_| ())
}

/// The same with the number of each.
pub fn numbered() -> Result<(mpsc::Receiver<i32>, HangUp), CliError> {
    telling(|number| number)
}

fn telling<T: Send + 'static>(message: fn(i32) -> T) -> Result<(mpsc::Receiver<T>, HangUp), CliError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(CliError::Signals)?;
    let mut quit = signal(SignalKind::quit()).map_err(CliError::Signals)?;
    let (sender, receiver) = mpsc::channel(8);
    let told = Arc::new(AtomicBool::new(false));
    let of_terminal = sender.clone();
    // A full channel holds more signals than there are levels of stopping.
    let tell = Box::new(move || drop(of_terminal.try_send(message(NUMBERS[0]))));
    let hang_up = HangUp { tell, told: told.clone() };
    // Ends with the runtime; it cannot panic.
    tokio::spawn(async move {
        loop {
            let number = tokio::select! {
                _ = interrupt.recv() => NUMBERS[1],
                _ = terminate.recv() => NUMBERS[3],
                _ = quit.recv() => NUMBERS[2],
                _ = hangup.recv() => match told.swap(true, Ordering::Relaxed) && !sender.is_closed() {
                    true => continue,
                    false => NUMBERS[0],
                },
            };
            if let Err(TrySendError::Closed(_)) = sender.try_send(message(number)) {
                // The terminal is as it was, and nothing is half done: who had to see to that has heard of signals until then.
                std::process::exit(128 + number);
            }
        }
    });
    Ok((receiver, hang_up))
}

/// Tells that the terminal is gone. That and SIGHUP are one event: the second of them is no message.
pub struct HangUp {
    tell: Box<dyn Fn() + Send>,
    told: Arc<AtomicBool>,
}

impl HangUp {
    /// Tells it, if SIGHUP did not.
    pub fn tell(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            (self.tell)();
        }
    }
}
