//! A sandbox's output: byte for byte into a pipe or a file, and to a terminal with its control characters escaped,
//! unless the terminal is the sandbox's or it was asked for.
//!
//! In the foreground a thread of its own writes: a terminal or pipe that takes nothing would
//! otherwise hold up the signals that end the sandbox.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use sandpen::api::frame::Frame;
use sandpen::client::{Notice, StopLevel};
use sandpen_types::error_chain::error_chain;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::visible::{Charset, Returns, Visible};
use tokio::sync::{mpsc, oneshot};

use super::super::stdio;
use super::super::terminal::{self, Queries};
use super::{CliError, is_wanted, message};

/// Frames that may wait for the writer; each has at most 1 MiB, usually 64 KiB.
const NOTICES: usize = 8;

/// What becomes of a guest's control characters on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controls {
    /// They are shown.
    Escaped,
    /// The terminal gets them: the user asked for it.
    Raw,
    /// Likewise, as the terminal is the sandbox's; it is to be given back with no answer to them unread.
    OfItsTerminal,
}

impl Controls {
    /// What the option `--raw` says.
    pub fn of_raw(raw: bool) -> Self {
        if raw { Self::Raw } else { Self::Escaped }
    }
}

/// Writes frames to stdout and stderr.
pub struct Output {
    timestamps: bool,
    /// Everything goes to stdout.
    together: bool,
    /// Of stdout and of stderr.
    streams: [Stream; 2],
}

/// One of a sandbox's streams.
struct Stream {
    /// Whether the next byte begins a line.
    at_line_start: bool,
    to: Reader,
}

/// Who reads what is written.
enum Reader {
    /// Somebody who gets every byte as it is.
    Exact,
    /// A terminal that must not be spoken to, and what it was given last.
    Protected { visible: Visible, shown: Vec<u8> },
    /// A terminal that the sandbox speaks to.
    Spoken(Queries),
}

impl Stream {
    fn new(controls: Controls, returns: Returns, charset: Option<Charset>) -> Self {
        let to = match (charset, controls) {
            (None, _) | (_, Controls::Raw) => Reader::Exact,
            (Some(charset), Controls::Escaped) => {
                Reader::Protected { visible: Visible::new(charset, returns), shown: Vec::new() }
            }
            (Some(_), Controls::OfItsTerminal) => Reader::Spoken(Queries::default()),
        };
        Self { at_line_start: true, to }
    }

    /// Writes the next bytes, with the time before each line where there is one.
    fn write(&mut self, to: &mut dyn Write, at: Option<DateTime<Utc>>, bytes: &[u8]) -> io::Result<()> {
        let bytes = match &mut self.to {
            Reader::Exact => bytes,
            Reader::Protected { visible, shown } => {
                shown.clear();
                visible.push(bytes, shown);
                shown
            }
            Reader::Spoken(queries) => {
                if queries.push(bytes) {
                    terminal::was_asked();
                }
                bytes
            }
        };
        Self::lines(&mut self.at_line_start, to, at, bytes)
    }

    /// Writes what was held back for its other half, which is not going to come.
    fn settle(&mut self, to: &mut dyn Write) -> io::Result<()> {
        let Reader::Protected { visible, shown } = &mut self.to else { return Ok(()) };
        shown.clear();
        visible.settle(shown);
        Self::lines(&mut self.at_line_start, to, None, shown)
    }

    fn lines(at_line_start: &mut bool, to: &mut dyn Write, at: Option<DateTime<Utc>>, bytes: &[u8]) -> io::Result<()> {
        if let Some(at) = at {
            let at = at.format("%Y-%m-%dT%H:%M:%S%.6fZ");
            for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                if *at_line_start {
                    write!(to, "{at} ")?;
                }
                to.write_all(line)?;
                *at_line_start = line.ends_with(b"\n");
            }
        } else {
            to.write_all(bytes)?;
        }
        to.flush()
    }
}

impl Output {
    /// Each stream to its own.
    pub fn of_run(controls: Controls) -> Self {
        let charsets = [terminal::charset(&io::stdout()), terminal::charset(&io::stderr())];
        let streams = charsets.map(|charset| Stream::new(controls, Returns::All, charset));
        Self { timestamps: false, together: false, streams }
    }

    /// Both on stdout, so that a log can be searched and paged; with or without the time before
    /// each line.
    pub fn of_log(timestamps: bool, controls: Controls) -> Self {
        // What the line begins with then is ours.
        let returns = if timestamps { Returns::AtLineEnd } else { Returns::All };
        let charset = terminal::charset(&io::stdout());
        let streams = [(); 2].map(|()| Stream::new(controls, returns, charset));
        Self { timestamps, together: true, streams }
    }

    /// Writes one frame; false when nobody reads any more.
    pub fn frame(&mut self, frame: &Frame) -> Result<bool, CliError> {
        is_wanted(self.write(frame))
    }

    /// Writes bytes of a session.
    pub(super) fn piece(&mut self, stream: OutputStream, bytes: &[u8]) -> io::Result<()> {
        self.of(stream, |stream, to| stream.write(to, None, bytes))
    }

    /// Writes bytes that are no workload's, as a VMM log's, to stdout; false when nobody reads any more.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<bool, CliError> {
        is_wanted(self.streams[0].write(&mut stdio::stdout(), None, bytes))
    }

    /// Writes what is left of all: no more comes.
    pub fn finish(&mut self) -> Result<(), CliError> {
        is_wanted([OutputStream::Stdout, OutputStream::Stderr].into_iter().try_for_each(|stream| self.settle(stream)))
            .map(|_| ())
    }

    fn write(&mut self, frame: &Frame) -> io::Result<()> {
        match frame {
            Frame::Bytes { stream, at, bytes, .. } => {
                let at = self.timestamps.then_some(*at);
                self.of(*stream, |stream, to| stream.write(to, at, bytes))
            }
            Frame::Gap { bytes, .. } => {
                let settled = self.settle(OutputStream::Stdout).and_then(|()| self.settle(OutputStream::Stderr));
                message(&format!("{bytes} bytes are no longer on file, the log was rotated"));
                settled
            }
            Frame::Dropped { stream, bytes, .. } => {
                let settled = self.settle(*stream);
                message(&format!("{bytes} bytes of {stream} were dropped here: the log could not be written"));
                settled
            }
            Frame::End(_) => Ok(()),
        }
    }

    fn settle(&mut self, stream: OutputStream) -> io::Result<()> {
        self.of(stream, Stream::settle)
    }

    /// Does something to one of the streams, with where it goes.
    fn of(
        &mut self,
        stream: OutputStream,
        act: impl FnOnce(&mut Stream, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        match stream {
            OutputStream::Stdout => act(&mut self.streams[0], &mut stdio::stdout()),
            OutputStream::Stderr if self.together => act(&mut self.streams[1], &mut stdio::stdout()),
            OutputStream::Stderr => act(&mut self.streams[1], &mut stdio::stderr()),
        }
    }
}

/// The writing thread of a sandbox in the foreground.
pub struct Foreground {
    notices: mpsc::Sender<Notice>,
    done: oneshot::Receiver<()>,
}

impl Foreground {
    /// Starts it for what is called so in messages, as "sandbox web".
    pub fn start(what: String, controls: Controls) -> io::Result<Self> {
        let (notices, mut receiver) = mpsc::channel(NOTICES);
        let (tell_done, done) = oneshot::channel();
        let mut writer = Writer { what, output: Output::of_run(controls), closed: [false; 2] };
        std::thread::Builder::new().name("print".to_owned()).spawn(move || {
            while let Some(notice) = receiver.blocking_recv() {
                if !writer.notice(notice) {
                    // Whoever sends notices sees that nobody takes them.
                    break;
                }
            }
            // A reader that is gone, or a full disk, was told of before.
            let _ = writer.output.finish();
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
    what: String,
    output: Output,
    /// Whether stdout and stderr can no longer be written.
    closed: [bool; 2],
}

impl Writer {
    /// Whether there is somebody left who reads.
    fn notice(&mut self, notice: Notice) -> bool {
        let what = &self.what;
        match notice {
            Notice::Output(frame) => return self.output(&frame),
            Notice::Stopping(StopLevel::Stop) => {
                message(&format!("stopping {what}; interrupt again to kill it"));
            }
            Notice::Stopping(StopLevel::Kill) => message(&format!("killing {what}")),
            Notice::StopFailed(error) => {
                message(&format!("{what} could not be stopped: {}", error_chain(&error)));
            }
            Notice::StdinLost(error) => {
                message(&format!("{what} gets no more standard input: {}", error_chain(&error)));
            }
            Notice::DaemonEnds => {
                message(&format!("the daemon ends; {what} runs on, and another daemon is waited for"));
            }
            Notice::Reconnected => message(&format!("the daemon ended; {what} goes on with a new one")),
        }
        true
    }

    /// Writes a frame. False when standard output's reader has seen enough (`| head`): as a filter, we are done then.
    fn output(&mut self, frame: &Frame) -> bool {
        let index = match frame {
            Frame::Bytes { stream: OutputStream::Stderr, .. } => 1,
            _ => 0,
        };
        if self.closed[index] {
            return true;
        }
        match self.output.write(frame) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed[index] = true;
                index != 0
            }
            Err(error) => {
                self.closed[index] = true;
                message(&format!("cannot write the output of {}: {error}; see `sandpen logs`", self.what));
                true
            }
        }
    }
}
