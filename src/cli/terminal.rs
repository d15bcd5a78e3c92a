//! The user's terminal: raw while a sandbox has it, and as it was before on every way out.
//!
//! ```text
//!   as it was ──take──▶ taken ──give_back: end, error, signal (Guard), panic (hook)──▶ as it was
//! ```
//!
//! There is one terminal for a process, so what it was like is a static: the hook of a panic on any
//! thread finds it, and whoever comes first gives it back.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use rustix::termios::tcgetwinsize;
use sandpen_types::spec::TerminalSize;

/// Undoes what a workload may have left: the cursor hidden, colours, pasted text in brackets, other
/// codes for the cursor and number keys, reports of the mouse (ECMA-48 and xterm's control sequences).
const PLAIN: &[u8] = b"\x1b[?25h\x1b[0m\x1b[?2004l\x1b[?1l\x1b>\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l";
/// How long a terminal that takes nothing may hold up our end for that.
const PLAIN_LIMIT_MS: u8 = 100;

static TAKEN: Mutex<Option<Taken>> = Mutex::new(None);
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// What it was like.
struct Taken {
    /// Standard input and its settings, where they were changed.
    settings: Option<(OwnedFd, Termios)>,
    /// Standard output, where it is a terminal.
    screen: Option<OwnedFd>,
}

/// Whether lines must end in CR LF now.
pub fn is_raw() -> bool {
    IS_RAW.load(Ordering::Relaxed)
}

/// The size of the terminal that standard input, or else standard output, is.
pub fn size() -> Option<TerminalSize> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    [stdin.as_fd(), stdout.as_fd()].into_iter().find_map(|fd: BorrowedFd<'_>| {
        let size = tcgetwinsize(fd).ok()?;
        TerminalSize::new(size.ws_row, size.ws_col)
    })
}

/// Takes the terminal for a sandbox; with `raw`, every key is the sandbox's. Give it back with a
/// [`Guard`], made before.
pub fn take(raw: bool) -> io::Result<()> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Held by this very thread only if the panic came from there.
            if let Ok(mut taken) = TAKEN.try_lock() {
                give_back(&mut taken);
            }
            report(panic);
        }));
    });
    let screen = if io::stdout().is_terminal() { Some(io::stdout().as_fd().try_clone_to_owned()?) } else { None };
    let mut taken = Taken { settings: None, screen };
    if raw {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&stdin)?;
        let mut settings = before.clone();
        cfmakeraw(&mut settings);
        taken.settings = Some((stdin, before));
        // Kept first: whatever happens from here on, somebody knows how it was.
        put(taken);
        IS_RAW.store(true, Ordering::Relaxed);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &settings)?;
    } else {
        put(taken);
    }
    Ok(())
}

fn put(taken: Taken) {
    *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
}

/// Gives it back, if it is taken. Never waits for more than a moment.
fn give_back(taken: &mut Option<Taken>) {
    let Some(Taken { settings, screen }) = taken.take() else { return };
    if let Some((stdin, before)) = settings {
        // One that is gone needs nothing.
        let _ = tcsetattr(&stdin, SetArg::TCSANOW, &before);
        IS_RAW.store(false, Ordering::Relaxed);
    }
    if let Some(screen) = screen {
        let mut wanted = [PollFd::new(screen.as_fd(), PollFlags::POLLOUT)];
        if matches!(poll(&mut wanted, PollTimeout::from(PLAIN_LIMIT_MS)), Ok(1)) {
            let _ = nix::unistd::write(&screen, PLAIN);
        }
    }
}

/// Gives the terminal back when it is dropped.
#[derive(Debug)]
pub struct Guard(());

impl Guard {
    /// One to be made before [`take`].
    pub fn new() -> Self {
        Self(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // After another thread that is just giving it back: the process may end next.
        give_back(&mut TAKEN.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
