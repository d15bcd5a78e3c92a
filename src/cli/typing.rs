//! The user at the terminal: what is typed, read by a thread of its own, and the terminal's sizes.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use bytes::Bytes;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use sandpen::client::TerminalInput;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use super::detach_keys::{DetachKeys, KeyFinder};
use super::signals::HangUp;
use super::{stdio, terminal};

/// Most bytes of one read: as many as the standard library's buffer has, which keeps nothing back then.
const CHUNK_BYTES: usize = 8 << 10;
/// Chunks that may wait for a workload that does not read: at most 1 MiB. More is refused with a
/// bell, as a terminal does: the detach keys must still work.
const CHUNKS: usize = 128;
/// How long the beginning of the detach keys is held back, in milliseconds: a key alone is the workload's.
const HOLD_MS: u16 = 500;

/// Takes the terminal. With detach keys it is raw and its input is the sandbox's; without, only its
/// sizes count. Call it on the runtime.
pub fn open(input: Option<(DetachKeys, HangUp)>) -> io::Result<TerminalInput> {
    let mut changes = signal(SignalKind::window_change())?;
    terminal::take(input.is_some())?;
    let (sizes, sizes_seen) = watch::channel(terminal::size());
    // Ends with the runtime, or when nobody wants to know any more.
    tokio::spawn(async move {
        while changes.recv().await.is_some() && !sizes.is_closed() {
            if let Some(size) = terminal::size() {
                sizes.send_replace(Some(size));
            }
        }
    });
    let (sender, typed) = mpsc::channel(CHUNKS);
    let (tell_detach, detach) = oneshot::channel();
    if let Some((keys, hang_up)) = input {
        let reader = std::thread::Builder::new().name("keys".to_owned());
        reader.spawn(move || read(KeyFinder::new(keys), &sender, tell_detach, Gone(Some(hang_up))))?;
    }
    #[cfg(feature = "testing")]
    panic_if_asked("main");
    Ok(TerminalInput { typed, sizes: sizes_seen, detach })
}

/// Tells that the terminal is gone when it is dropped: by an end, an error or a panic.
struct Gone(Option<HangUp>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(hang_up) = &self.0 {
            hang_up.tell();
        }
    }
}

/// Reads until the detach keys come or the terminal goes.
fn read(mut finder: KeyFinder, sender: &mpsc::Sender<Bytes>, detach: oneshot::Sender<()>, mut gone: Gone) {
    #[cfg(feature = "testing")]
    panic_if_asked("thread");
    let mut stdin = stdio::stdin();
    let mut buffer = [0; CHUNK_BYTES];
    let send = |bytes: Vec<u8>| {
        if !bytes.is_empty() && matches!(sender.try_send(bytes.into()), Err(mpsc::error::TrySendError::Full(_))) {
            let _ = io::stderr().write_all(b"\x07");
        }
    };
    loop {
        if finder.is_holding() {
            match poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], HOLD_MS) {
                Ok(0) => send(finder.release()),
                Err(Errno::EINTR) => continue,
                // The read says what an error means.
                Ok(_) | Err(_) => {}
            }
        }
        let count = match stdin.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        terminal::hear(&buffer[..count]);
        let (bytes, is_complete) = finder.push(&buffer[..count]);
        send(bytes);
        if is_complete {
            gone.0 = None;
            // Nobody listens when the sandbox has just ended.
            let _ = detach.send(());
            return;
        }
    }
}

/// For the test of what a panic leaves behind.
#[cfg(feature = "testing")]
fn panic_if_asked(place: &str) {
    let is_wanted = std::env::var_os("SANDPEN_TEST_PANIC").is_some_and(|wanted| wanted == place);
    assert!(!is_wanted, "a panic for a test, on {place}");
}
