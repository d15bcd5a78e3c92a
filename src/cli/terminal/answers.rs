//! Answers of the terminal to what a guest asked, which come when nobody asks for them any more and would be typed
//! into the user's shell. The terminal is asked one thing more: it answers in order, so what came before
//! that answer was the guest's.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr};

/// Asks whether the terminal is well (DSR), what each one answers.
const QUERY: &[u8] = b"\x1b[5n";
/// It is.
const ANSWER: &[u8] = b"\x1b[0n";
/// Longest wait: some terminals answer nothing, others are far away.
const LIMIT: Duration = Duration::from_secs(1);
/// A guest may have asked the same, so the last answer is the one after which so long none comes.
const QUIET_MS: u8 = 30;

static HEARD: Mutex<Heard> = Mutex::new(Heard { end: Vec::new(), is_answered: false, at: None });

/// What was typed since the terminal was asked.
struct Heard {
    /// The last bytes, fewer than the answer has.
    end: Vec<u8>,
    is_answered: bool,
    at: Option<Instant>,
}

/// Takes note of what was typed: the thread that reads the keys has it instead of us, when it comes first.
pub fn hear(bytes: &[u8]) {
    let mut heard = HEARD.lock().unwrap_or_else(PoisonError::into_inner);
    heard.end.extend_from_slice(bytes);
    heard.is_answered |= heard.end.windows(ANSWER.len()).any(|window| window == ANSWER);
    let surplus = heard.end.len().saturating_sub(ANSWER.len() - 1);
    heard.end.drain(..surplus);
    heard.at = Some(Instant::now());
}

/// Asks on `screen` and reads `keyboard`, not much longer than [`LIMIT`]; leaves the keyboard's settings changed.
pub fn wait(keyboard: &OwnedFd, screen: &OwnedFd) {
    *HEARD.lock().unwrap_or_else(PoisonError::into_inner) = Heard { end: Vec::new(), is_answered: false, at: None };
    let Ok(mut settings) = tcgetattr(keyboard) else { return };
    // Answers end no line, and are not to be shown. A read that comes after another reader's finds nothing.
    settings.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
    settings.control_chars[SpecialCharacterIndices::VMIN as usize] = 0;
    settings.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
    if tcsetattr(keyboard, SetArg::TCSANOW, &settings).is_err() || nix::unistd::write(screen, QUERY).is_err() {
        return;
    }
    let end = Instant::now() + LIMIT;
    let mut buffer = [0; 1024];
    while Instant::now() < end {
        let mut wanted = [PollFd::new(keyboard.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wanted, PollTimeout::from(QUIET_MS)) {
            Ok(0) => {
                let heard = HEARD.lock().unwrap_or_else(PoisonError::into_inner);
                let is_quiet = heard.at.is_none_or(|at| at.elapsed() >= Duration::from_millis(QUIET_MS.into()));
                if heard.is_answered && is_quiet {
                    return;
                }
            }
            Ok(_) if wanted[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) => {
                match nix::unistd::read(keyboard, &mut buffer) {
                    Ok(count) => hear(&buffer[..count]),
                    Err(_) => return,
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            // It is gone.
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_found_in_pieces_and_among_others() {
        let is_answered = || HEARD.lock().unwrap().is_answered;
        for piece in [&b"\x1b[24;80R\x1b["[..], b"", b"0", b"m\x1b[0"] {
            hear(piece);
            assert!(!is_answered());
        }
        hear(b"nx");
        assert!(is_answered());
    }
}
