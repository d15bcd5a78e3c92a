//! A sandbox's output, byte for byte.
//!
//! In the foreground a thread of its own writes: a terminal or pipe that takes nothing would
//! otherwise hold up the signals that end the sandbox.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use sandpen::api::frame::Frame;
use sandpen::client::{Notice, StopLevel};
use sandpen_types::error_chain::error_chain;
use sandpen_types::output_stream::OutputStream;
use tokio::sync::{mpsc, oneshot};

use super::{CliError, message};

/// Frames that may wait for the writer; each has at most 1 MiB, usually 64 KiB.
const NOTICES: usize = 8;

/// Writes frames to stdout and stderr.
pub struct Output {
    timestamps: bool,
    /// Everything goes to stdout.
    together: bool,
    /// Whether the next byte of stdout and of stderr begins a line.
    at_line_start: [bool; 2],
}

impl Output {
    /// Each stream to its own.
    pub fn of_run() -> Self {
        Self { timestamps: false, together: false, at_line_start: [true; 2] }
    }

    /// Both on stdout, so that a log can be searched and paged; with or without the time before
    /// each line.
    pub fn of_log(timestamps: bool) -> Self {
        Self { timestamps, together: true, at_line_start: [true; 2] }
    }

    /// Writes one frame; false when nobody reads any more.
    pub fn frame(&mut self, frame: &Frame) -> Result<bool, CliError> {
        match self.write(frame) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(CliError::Output(error)),
        }
    }

    fn write(&mut self, frame: &Frame) -> io::Result<()> {
        match frame {
            Frame::Bytes { stream, at, bytes, .. } => match stream {
                OutputStream::Stdout => self.bytes(&mut io::stdout().lock(), 0, *at, bytes),
                OutputStream::Stderr if self.together => self.bytes(&mut io::stdout().lock(), 1, *at, bytes),
                OutputStream::Stderr => self.bytes(&mut io::stderr().lock(), 1, *at, bytes),
            },
            Frame::Gap { bytes, .. } => {
                message(&format!("{bytes} bytes are no longer on file, the log was rotated"));
                Ok(())
            }
            Frame::Dropped { stream, bytes, .. } => {
                message(&format!("{bytes} bytes of {stream} were dropped here: the log could not be written"));
                Ok(())
            }
            Frame::End(_) => Ok(()),
        }
    }

    fn bytes(&mut self, to: &mut impl Write, stream: usize, at: DateTime<Utc>, bytes: &[u8]) -> io::Result<()> {
        if self.timestamps {
            let at = at.format("%Y-%m-%dT%H:%M:%S%.6fZ");
            for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                if self.at_line_start[stream] {
                    write!(to, "{at} ")?;
                }
                to.write_all(line)?;
                self.at_line_start[stream] = line.ends_with(b"\n");
            }
        } else {
            to.write_all(bytes)?;
        }
        to.flush()
    }
}

/// The writing thread of a sandbox in the foreground.
pub struct Foreground {
    notices: mpsc::Sender<Notice>,
    done: oneshot::Receiver<()>,
}

impl Foreground {
    /// Starts it for the sandbox that users call `name`.
    pub fn start(name: &str) -> io::Result<Self> {
        let (notices, mut receiver) = mpsc::channel(NOTICES);
        let (tell_done, done) = oneshot::channel();
        let mut writer = Writer { name: name.to_owned(), output: Output::of_run(), closed: [false; 2] };
        std::thread::Builder::new().name("print".to_owned()).spawn(move || {
            while let Some(notice) = receiver.blocking_recv() {
                writer.notice(notice);
            }
            // Nobody waits after a signal.
            let _ = tell_done.send(());
        })?;
        Ok(Self { notices, done })
    }

    /// Where notices go.
    pub fn notices(&self) -> mpsc::Sender<Notice> {
        self.notices.clone()
    }

    /// Waits until all is written, or for a signal when a reader does not take it.
    pub async fn finish(self, signals: &mut mpsc::Receiver<()>) {
        let Self { notices, done } = self;
        drop(notices);
        tokio::select! {
            _ = done => {}
            _ = signals.recv() => {}
        }
    }
}

struct Writer {
    name: String,
    output: Output,
    /// Whether stdout and stderr can no longer be written.
    closed: [bool; 2],
}

impl Writer {
    fn notice(&mut self, notice: Notice) {
        let name = &self.name;
        match notice {
            Notice::Output(frame) => self.output(&frame),
            Notice::Stopping(StopLevel::Stop) => {
                message(&format!("stopping sandbox {name}; interrupt again to kill it"));
            }
            Notice::Stopping(StopLevel::Kill) => message(&format!("killing sandbox {name}")),
            Notice::StopFailed(error) => {
                message(&format!("sandbox {name} could not be stopped: {}", error_chain(&error)));
            }
            Notice::StdinLost(error) => {
                message(&format!("sandbox {name} gets no more standard input: {}", error_chain(&error)));
            }
            Notice::DaemonEnds => {
                message(&format!("the daemon ends; sandbox {name} runs on, and another daemon is waited for"));
            }
            Notice::Reconnected => message(&format!("the daemon ended; sandbox {name} goes on with a new one")),
        }
    }

    /// Writes a frame as long as somebody reads: a reader that has seen enough (`| head`) is no
    /// reason to end the sandbox.
    fn output(&mut self, frame: &Frame) {
        let index = match frame {
            Frame::Bytes { stream: OutputStream::Stderr, .. } => 1,
            _ => 0,
        };
        if self.closed[index] {
            return;
        }
        if let Err(error) = self.output.write(frame) {
            self.closed[index] = true;
            if error.kind() != io::ErrorKind::BrokenPipe {
                message(&format!("cannot write the output of sandbox {}: {error}; see `sandpen logs`", self.name));
            }
        }
    }
}
