//! The user's terminal: raw while a sandbox has it, and as it was before on every way out.
//!
//! ```text
//!   as it was ──take──▶ taken ──give_back: end, error, signal (Guard), panic (hook)──▶ as it was
//! ```
//!
//! There is one terminal for a process, so what it was like is a static: the hook of a panic on any
//! thread finds it, and whoever comes first gives it back.

mod answers;
mod queries;

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{FlushArg, InputFlags, SetArg, Termios, cfmakeraw, tcflush, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};
use rustix::termios::tcgetwinsize;
use sandpen_types::spec::TerminalSize;
use sandpen_types::visible::Charset;

pub use answers::hear;
pub use queries::Queries;

/// Undoes what a workload may have left (ECMA-48, xterm's control sequences, and those of kitty's keyboard). What the
/// user may have set up, as the title, the colours or the tabs, is left alone.
const PLAIN: &[&[u8]] = &[
    // Whatever sequence or string is not at its end, and an open link.
    b"\x18\x1b\\\x1b]8;;\x1b\\",
    // The first screen. With it comes a cursor that was saved, so it is saved before, where it is that screen already.
    b"\x1b7\x1b[?1049l",
    // All modes that a soft reset has. Then the margins, which take the cursor to the corner and back.
    b"\x1b[!p\x1b7\x1b[?69l\x1b[r\x1b8",
    // The cursor shown, lines wrapped, no reversed screen, no output that waits, letters not inserted, LF without CR.
    b"\x1b[?25h\x1b[?7h\x1b[?5l\x1b[?2026l\x1b[4l\x1b[20l",
    // ASCII as both sets of characters, and the first of them in use.
    b"\x1b(B\x1b)B\x0f\x1b[0m",
    // Keys as they are: not locked, cursor and number keys, pasted text, those of kitty, xterm and Windows.
    b"\x1b[2l\x1b[?1l\x1b>\x1b[?2004l\x1b[<u\x1b[=0u\x1b[>4;0m\x1b[?9001l",
    // No reports of the mouse, the focus, the size and the colours.
    b"\x1b[?9l\x1b[?1000l\x1b[?1001l\x1b[?1002l\x1b[?1003l\x1b[?1005l\x1b[?1006l\x1b[?1015l\x1b[?1016l",
    b"\x1b[?1004l\x1b[?2048l\x1b[?2031l",
];
/// How long a terminal that takes nothing may hold up our end for that.
const PLAIN_LIMIT_MS: u8 = 100;

static TAKEN: Mutex<Option<Taken>> = Mutex::new(None);
static IS_RAW: AtomicBool = AtomicBool::new(false);
static WAS_ASKED: AtomicBool = AtomicBool::new(false);

/// What it was like.
struct Taken {
    /// Standard input, where it is a terminal and answers of it are ours.
    keyboard: Option<Keyboard>,
    /// Standard output, where it is a terminal.
    screen: Option<OwnedFd>,
}

/// Where a terminal's answers come, and how it was.
struct Keyboard {
    fd: OwnedFd,
    before: Termios,
    /// Every key is the sandbox's.
    is_raw: bool,
}

impl Keyboard {
    /// Standard input, unless it is no terminal or another program's.
    fn of_ours() -> Option<Self> {
        let stdin = io::stdin();
        if !is_ours(&stdin) {
            return None;
        }
        Some(Self { before: tcgetattr(&stdin).ok()?, fd: stdin.as_fd().try_clone_to_owned().ok()?, is_raw: false })
    }
}

/// Whether it is a terminal with us in the foreground: who changes one from the background is stopped (SIGTTOU).
fn is_ours(keyboard: &impl AsFd) -> bool {
    tcgetpgrp(keyboard).is_ok_and(|group| group == getpgrp())
}

/// Whether lines must end in CR LF now.
pub fn is_raw() -> bool {
    IS_RAW.load(Ordering::Relaxed)
}

/// What the terminal reads that this is; `None` where it is none.
pub fn charset(stream: &(impl AsFd + IsTerminal)) -> Option<Charset> {
    if !stream.is_terminal() {
        return None;
    }
    // Terminals that read UTF-8 say so, for the sake of the erase key; some leave it to the locale.
    let is_utf8 = tcgetattr(stream).is_ok_and(|settings| settings.input_flags.contains(InputFlags::IUTF8));
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(std::env::var_os).find(|value| !value.is_empty());
    let locale = locale.unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let is_utf8 = is_utf8 || locale.contains("utf-8") || locale.contains("utf8");
    Some(if is_utf8 { Charset::Utf8 } else { Charset::Ascii })
}

/// Rows and columns of the terminal that a stream is, if it is one.
pub fn size_of(stream: &impl AsFd) -> Option<(usize, usize)> {
    let size = tcgetwinsize(stream.as_fd()).ok()?;
    Some((size.ws_row.into(), size.ws_col.into()))
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
                give_back(&mut taken, false);
            }
            report(panic);
        }));
    });
    let screen = if io::stdout().is_terminal() { Some(io::stdout().as_fd().try_clone_to_owned()?) } else { None };
    if raw {
        let fd = io::stdin().as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&fd)?;
        let mut settings = before.clone();
        cfmakeraw(&mut settings);
        // Kept first: whatever happens from here on, somebody knows how it was.
        put(Taken { keyboard: Some(Keyboard { fd, before, is_raw: true }), screen });
        IS_RAW.store(true, Ordering::Relaxed);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &settings)?;
    } else {
        put(Taken { keyboard: Keyboard::of_ours(), screen });
    }
    Ok(())
}

/// The sandbox's output, shown as it is, may have asked this terminal something.
pub fn was_asked() {
    WAS_ASKED.store(true, Ordering::Relaxed);
}

fn put(taken: Taken) {
    *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
}

/// Gives it back, if it is taken. Never waits for more than a moment; for answers only if it may.
fn give_back(taken: &mut Option<Taken>, may_wait: bool) {
    let Some(Taken { keyboard, screen }) = taken.take() else { return };
    let was_asked = WAS_ASKED.load(Ordering::Relaxed);
    let mut is_plain = false;
    if let Some(screen) = &screen {
        let mut wanted = [PollFd::new(screen.as_fd(), PollFlags::POLLOUT)];
        if matches!(poll(&mut wanted, PollTimeout::from(PLAIN_LIMIT_MS)), Ok(1)) {
            is_plain = nix::unistd::write(screen, &PLAIN.concat()).is_ok();
        }
    }
    // Who only watched may have been put into the background meanwhile, and what is typed is another program's.
    let is_to_mend = |keyboard: &Keyboard| keyboard.is_raw || was_asked && is_ours(&keyboard.fd);
    let Some(Keyboard { fd, before, .. }) = keyboard.filter(is_to_mend) else { return };
    if let Some(screen) = screen.filter(|_| is_plain && was_asked && may_wait) {
        answers::wait(&fd, &screen);
    }
    // One that is gone needs nothing.
    let _ = tcsetattr(&fd, SetArg::TCSANOW, &before);
    // What the guest had the terminal type is not for the shell. Both together are TCSAFLUSH, but for the wait for a
    // terminal that takes nothing.
    let _ = tcflush(&fd, FlushArg::TCIFLUSH);
    IS_RAW.store(false, Ordering::Relaxed);
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
        give_back(&mut TAKEN.lock().unwrap_or_else(PoisonError::into_inner), true);
    }
}
