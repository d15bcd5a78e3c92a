//! The program on a terminal of its own, with somebody who reads and types.

use std::fs::File;
use std::io::{PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use rustix::termios::{Winsize as Size, tcsetwinsize};

use super::DEADLINE;

/// What the terminal got so far, and whoever waits for more.
type Seen = Arc<(Mutex<Vec<u8>>, Condvar)>;

/// A program that has this terminal as its controlling one and as all standard streams.
pub struct OnTerminal {
    child: Child,
    keys: File,
    /// Kept open, so that the terminal outlives the program.
    slave: OwnedFd,
    before: Termios,
    seen: Seen,
    /// The reader, and what stops it when it is closed.
    reading: Option<(JoinHandle<()>, PipeWriter)>,
}

impl OnTerminal {
    /// Starts `command` on a terminal of this size.
    pub fn spawn(command: &Command, rows: u16, cols: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        for fd in [&pty.master, &pty.slave] {
            let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
            nix::fcntl::fcntl(fd, flags).unwrap();
        }
        let before = tcgetattr(&pty.slave).unwrap();
        // setsid(1) makes its standard input the controlling terminal and becomes the program.
        let mut on_terminal = Command::new("setsid");
        on_terminal.arg("-c").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => on_terminal.env(name, value),
                None => on_terminal.env_remove(name),
            };
        }
        let stream = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = on_terminal.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        let seen = Seen::default();
        let mut screen = File::from(pty.master.try_clone().unwrap());
        let reader = seen.clone();
        let (stop, stopped) = std::io::pipe().unwrap();
        let reading = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let mut wanted =
                    [PollFd::new(screen.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
                poll(&mut wanted, PollTimeout::NONE).unwrap();
                if wanted[1].any().unwrap() {
                    return;
                }
                // An error: nobody has the terminal open any more.
                let Ok(count @ 1..) = screen.read(&mut buffer) else { return };
                reader.0.lock().unwrap().extend_from_slice(&buffer[..count]);
                reader.1.notify_all();
            }
        });
        let reading = Some((reading, stopped));
        Self { child, keys: pty.master.into(), slave: pty.slave, before, seen, reading }
    }

    pub fn keys(&mut self, keys: impl AsRef<[u8]>) {
        self.keys.write_all(keys.as_ref()).unwrap();
    }

    pub fn resize(&self, rows: u16, cols: u16) {
        tcsetwinsize(self.keys.as_fd(), Size { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Everything until now.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen_bytes()).into_owned()
    }

    /// The same, byte for byte.
    pub fn seen_bytes(&self) -> Vec<u8> {
        self.seen.0.lock().unwrap().clone()
    }

    /// Waits for `wanted` after the first `from` bytes; the number of bytes up to its end.
    pub fn see_after(&self, from: usize, wanted: &str) -> usize {
        let end = Instant::now() + DEADLINE / 3;
        let mut seen = self.seen.0.lock().unwrap();
        loop {
            let at = seen[from..].windows(wanted.len()).position(|window| window == wanted.as_bytes());
            if let Some(at) = at {
                return from + at + wanted.len();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {wanted:?} in {:?}", String::from_utf8_lossy(&seen));
            seen = self.seen.1.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// Types a line and waits for what the answer has that the line itself has not.
    pub fn ask(&mut self, line: &str, answer: &str) {
        let from = self.seen.0.lock().unwrap().len();
        self.keys(format!("{line}\r"));
        self.see_after(from, answer);
    }

    /// Whether the program has the terminal in raw mode.
    pub fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_flags.contains(LocalFlags::ICANON)
    }

    /// Makes the terminal go away, as when its window is closed; how the program ends then.
    pub fn hang_up(mut self) -> ExitStatus {
        let (reader, stop) = self.reading.take().unwrap();
        drop(stop);
        reader.join().unwrap();
        self.keys = File::open("/dev/null").unwrap();
        self.wait()
    }

    fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None => assert!(Instant::now() < end, "it does not end: {}", self.seen()),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What was typed and nobody read: a shell would get it next. Waits for the program's end before.
    pub fn unread(&mut self) -> Vec<u8> {
        self.wait();
        let settings = tcgetattr(&self.slave).unwrap();
        let mut every_byte = settings.clone();
        every_byte.local_flags.remove(LocalFlags::ICANON);
        every_byte.control_chars[SpecialCharacterIndices::VMIN as usize] = 0;
        every_byte.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(&self.slave, SetArg::TCSANOW, &every_byte).unwrap();
        let mut bytes = vec![0; 4096];
        let count = nix::unistd::read(&self.slave, &mut bytes).unwrap();
        bytes.truncate(count);
        tcsetattr(&self.slave, SetArg::TCSANOW, &settings).unwrap();
        bytes
    }

    /// Waits for the program's end, then for all that it wrote; checks that the terminal is as it was,
    /// with its cursor.
    pub fn end(self) -> (ExitStatus, String) {
        let (status, bytes) = self.end_bytes();
        (status, String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The same, with what it wrote byte for byte.
    pub fn end_bytes(mut self) -> (ExitStatus, Vec<u8>) {
        let status = self.wait();
        let after = tcgetattr(&self.slave).unwrap();
        assert_eq!(after, self.before, "the terminal is not as it was after {:?}", self.seen());
        // A mark of our own comes after everything else.
        let mark = "<<end of the test's terminal>>";
        nix::unistd::write(&self.slave, mark.as_bytes()).unwrap();
        self.see_after(0, mark);
        let text = self.seen().replace(mark, "");
        if let Some(hidden) = text.rfind("\x1b[?25l") {
            assert!(text[hidden..].contains("\x1b[?25h"), "the cursor is hidden: {text:?}");
        }
        let mut bytes = self.seen_bytes();
        bytes.truncate(bytes.len() - mark.len());
        (status, bytes)
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
