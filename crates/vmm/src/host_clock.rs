//! Tells that the host's wall clock was set, or that the host slept, to whoever tells guests the time.
//!
//! Whoever watches the clock calls [`was_set`]; links with guests [`subscribe`]. It is the process's, as the clock is the
//! host's: several orchestrators in one process tell each other, at the price of a message too many for each guest.

use std::sync::LazyLock;

use tokio::sync::watch;

static SET: LazyLock<watch::Sender<()>> = LazyLock::new(watch::Sender::default);

/// The host's clock was set, or may have been.
pub fn was_set() {
    SET.send_replace(());
}

/// Changes whenever the host's clock was set. Its sender is never gone.
pub fn subscribe() -> watch::Receiver<()> {
    SET.subscribe()
}
