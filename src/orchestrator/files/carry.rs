//! Carries bytes between a client of a sandbox's files and the session that serves it.

use std::time::Duration;

use sandpen_files::Carrier;
use sandpen_types::error_chain::error_chain;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::SessionEnd;

use super::super::session::Session;

/// How long what was asked for last may take once nobody waits for it.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);
/// Most bytes of what the guest says on standard error.
pub(super) const WORDS_MAX: usize = 512;

/// Until no client is left, or the session ends.
pub(super) async fn carry(carrier: Carrier, mut session: Session) {
    let stdin = session.stdin();
    let why = {
        let sending = async {
            while let Some(bytes) = carrier.outgoing().await {
                if stdin.write(&bytes).await.is_err() {
                    // Whoever receives hears of it as well.
                    std::future::pending::<()>().await;
                }
            }
            // As above.
            let _ = stdin.close().await;
        };
        let receiving = receive(&carrier, &mut session);
        tokio::pin!(sending, receiving);
        tokio::select! {
            why = &mut receiving => Some(why),
            () = &mut sending => tokio::time::timeout(CLOSE_LIMIT, receiving).await.ok(),
        }
    };
    match why {
        Some(Ended::BySession(words)) => {
            // Now that nobody writes to it, it hears that its end is had.
            let end = session.wait().await.map_or_else(|error| error_chain(&error), |end| said(&end, &words));
            carrier.ended(end);
        }
        Some(Ended::Broken(why)) => carrier.ended(why),
        // It does not do what it shall, or what is done takes too long.
        Some(Ended::ByNonsense) | None => {
            drop(carrier);
            let _ = session.hang_up().await;
            let _ = tokio::time::timeout(CLOSE_LIMIT, session.wait()).await;
        }
    }
}

enum Ended {
    /// With what it said.
    BySession(Vec<u8>),
    Broken(String),
    /// All callers were told.
    ByNonsense,
}

async fn receive(carrier: &Carrier, session: &mut Session) -> Ended {
    let mut words = Vec::new();
    loop {
        match session.next().await {
            Ok(Some(output)) if output.stream == OutputStream::Stdout => {
                if let Err(error) = carrier.received(&output.bytes) {
                    tracing::warn!(error = error_chain(&error), "a guest's answer about files cannot be");
                    return Ended::ByNonsense;
                }
            }
            Ok(Some(output)) => keep(&mut words, &output.bytes),
            Ok(None) => return Ended::BySession(words),
            Err(error) => return Ended::Broken(error_chain(&error)),
        }
    }
}

/// Keeps the begin of what a guest says.
pub(super) fn keep(words: &mut Vec<u8>, bytes: &[u8]) {
    let room = WORDS_MAX.saturating_sub(words.len());
    words.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

/// How it ended, in words.
fn said(end: &SessionEnd, words: &[u8]) -> String {
    let words = String::from_utf8_lossy(words);
    let words: String = words.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if words.is_empty() { format!("the session that serves them has ended: {end}") } else { words }
}
