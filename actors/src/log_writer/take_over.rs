//! How a log writer begins: with what earlier writers left, or as soon as that can be found out.
//!
//! ```text
//!   [started] ──▶ taking over ─┬ done ──────────────▶ what is on file is known
//!                    ▲         └ it cannot be read ──┐
//!                    └── the pause of the back-off ◀─┘
//! ```
//!
//! No byte has to come for the next try: who waits for what is on file already waits for that alone.

use std::time::{Duration, Instant};

use actix::{AsyncContext as _, Context};

use super::LogError;
use super::actor::LogWriter;
use super::pump::Moved;
use super::segment::now_us;

/// Pause before a log is looked at again that another writer still has, or that is being closed.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

impl LogWriter {
    /// Finds out what is on file, and tries again later where that fails.
    pub(super) fn take_over(&mut self, ctx: &mut Context<Self>) {
        match self.try_to_take_over() {
            Ok(()) => self.on_taken_over(),
            // The one before has just lost its last address. Where it has not, the first byte meets it again.
            Err(LogError::Busy(_)) => take_over_at(Instant::now() + BUSY_PAUSE, ctx),
            Err(e) => {
                let next = self.fail(e);
                take_over_at(next, ctx);
            }
        }
        self.files_in_use(ctx);
        self.publish(false);
    }

    fn try_to_take_over(&mut self) -> Result<(), LogError> {
        let recovered = self.store.recover();
        self.tell_notes();
        recovered?;
        if self.drops() { self.store.prepare_to_drop(now_us()) } else { Ok(()) }
    }

    /// Bytes that wait find out for themselves whether it can be written.
    fn on_taken_over(&mut self) {
        let waits = self.sources.values().any(|(pipe, _)| matches!(pipe.look(), Ok(Moved::Bytes(_))));
        if !waits {
            self.recovered();
        }
    }
}

fn take_over_at(time: Instant, ctx: &mut Context<LogWriter>) {
    let pause = time.saturating_duration_since(Instant::now());
    ctx.run_later(pause, |act: &mut LogWriter, ctx| match act.backoff.next() {
        // It tries by itself.
        _ if act.closing.is_some() => take_over_at(Instant::now() + BUSY_PAUSE, ctx),
        // Bytes that came meanwhile have failed too.
        Some(next) if next > Instant::now() => take_over_at(next, ctx),
        _ => act.take_over(ctx),
    });
}
