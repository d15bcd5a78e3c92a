//! A session's streams carried from and to whatever reads and writes: a connection, a channel.
//!
//! ```text
//!   input ──▶ read, at most one piece ahead of the session's window ──▶ session;  its end ends the session's input
//!   session ──▶ output, errors: no more waits than the session's windows; what is written is taken
//!      │ ─▶ a stream ended, and all of it is written ─▶ its writer is shut down; the other ways go on
//!      ├ ended, and all is written ─▶ Ended
//!      └ the output takes no more, or the input broke ─▶ Broken: the caller ends the session
//! ```
//!
//! Each way waits for itself: an output that nobody reads holds up neither the input nor the errors.

use std::collections::VecDeque;
use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{SessionEnd, SessionOffsets};
use sandpen_types::spec::TerminalSize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::super::ClientError;
use super::{SessionBytes, SessionClient, SessionStep};

/// Bytes that are read at once.
const PIECE: usize = 32 << 10;

/// What is told a session besides its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionControl {
    /// Its terminal has this size.
    Resize(TerminalSize),
    /// A signal, 1 to 64, for its process group.
    Signal(i32),
}

/// How it came to an end.
#[derive(Debug)]
pub enum CarryEnd {
    /// The session ended, and all of its output is written.
    Ended(SessionEnd),
    /// Whoever is at the other side is gone. The session goes on.
    Broken(io::Error),
}

/// A session, and where its streams come from and go to.
pub struct SessionCarrier<'a, I, O, E> {
    /// Which.
    pub session: &'a mut SessionClient,
    /// Its input.
    pub input: I,
    /// Where its output goes. It is shut down when that has ended.
    pub output: O,
    /// Where its errors go; what that does not take is dropped.
    pub errors: E,
    /// What is asked of it.
    pub control: mpsc::Receiver<SessionControl>,
}

/// One output on its way.
struct Way<W> {
    writer: W,
    waiting: VecDeque<Bytes>,
    /// Behind all that was written.
    written: u64,
    has_ended: bool,
    /// It is shut down, or takes no more.
    is_over: bool,
}

impl<W: AsyncWrite + Unpin> Way<W> {
    fn new(writer: W, written: u64) -> Self {
        Self { writer, waiting: VecDeque::new(), written, has_ended: false, is_over: false }
    }

    fn push(&mut self, bytes: SessionBytes) {
        if self.is_over {
            self.written = bytes.offset + bytes.bytes.len() as u64;
        } else {
            self.waiting.push_back(bytes.bytes);
        }
    }

    fn has_work(&self) -> bool {
        !self.is_over && (!self.waiting.is_empty() || self.has_ended)
    }

    /// Writes some, or shuts it down. Safe to cancel.
    async fn step(&mut self) -> io::Result<()> {
        let Some(first) = self.waiting.front_mut() else {
            self.writer.shutdown().await?;
            self.is_over = true;
            return Ok(());
        };
        let count = self.writer.write(first).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        first.advance(count);
        self.written += count as u64;
        if first.is_empty() {
            self.waiting.pop_front();
            if self.waiting.is_empty() {
                self.writer.flush().await?;
            }
        }
        Ok(())
    }

    /// Takes all that comes, and drops it.
    fn give_up(&mut self) {
        self.written += self.waiting.drain(..).map(|bytes| bytes.len() as u64).sum::<u64>();
        self.is_over = true;
    }
}

impl<I, O, E> SessionCarrier<'_, I, O, E>
where
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    /// Carries until the session has ended or the other side is gone. A session that has begun just now is read from its
    /// begin on, another one from where its output is kept.
    ///
    /// # Errors
    /// As [`SessionClient::next`].
    pub async fn run(self) -> Result<CarryEnd, ClientError> {
        let Self { session, mut input, output, errors, mut control } = self;
        let from = session.info().kept_from;
        let (mut output, mut errors) = (Way::new(output, from.stdout), Way::new(errors, from.stderr));
        let (mut pending, mut is_read, mut is_told, mut has_control) = (BytesMut::new(), false, false, true);
        let mut end = None;
        loop {
            let count = session.write(&pending);
            pending.advance(count);
            if is_read && pending.is_empty() && !is_told {
                session.end_input();
                is_told = true;
            }
            if end.is_some()
                && !output.has_work()
                && !errors.has_work()
                && let Some(end) = end.take()
            {
                return Ok(CarryEnd::Ended(end));
            }
            let wants_input = end.is_none() && !is_read && pending.is_empty() && !session.is_input_closed();
            pending.reserve(if wants_input { PIECE } else { 0 });
            tokio::select! {
                step = session.next(), if end.is_none() => match step? {
                    SessionStep::Output(bytes) if bytes.stream == OutputStream::Stdout => output.push(bytes),
                    SessionStep::Output(bytes) => errors.push(bytes),
                    SessionStep::StreamEnded(OutputStream::Stdout) => output.has_ended = true,
                    SessionStep::StreamEnded(OutputStream::Stderr) => errors.has_ended = true,
                    SessionStep::Input | SessionStep::DaemonEnds | SessionStep::Reconnected => {}
                    SessionStep::Ended(how) => end = Some(how),
                },
                stepped = output.step(), if output.has_work() => match stepped {
                    Ok(()) => {}
                    Err(error) => return Ok(CarryEnd::Broken(error)),
                },
                stepped = errors.step(), if errors.has_work() => if stepped.is_err() {
                    errors.give_up();
                },
                read = input.read_buf(&mut pending), if wants_input => match read {
                    Ok(0) => is_read = true,
                    Ok(_) => {}
                    Err(error) => return Ok(CarryEnd::Broken(error)),
                },
                asked = control.recv(), if has_control && end.is_none() => match asked {
                    Some(SessionControl::Resize(size)) => session.resize(size),
                    Some(SessionControl::Signal(signal)) => session.signal(signal),
                    None => has_control = false,
                },
            }
            session.taken(SessionOffsets { stdout: output.written, stderr: errors.written });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    fn bytes(offset: u64, text: &'static str) -> SessionBytes {
        SessionBytes { stream: OutputStream::Stdout, offset, bytes: text.into() }
    }

    #[tokio::test]
    async fn a_way_is_shut_down_behind_its_last_byte() {
        let (writer, mut reader) = tokio::io::duplex(4);
        let mut way = Way::new(writer, 10);
        way.push(bytes(10, "abcdef"));
        way.has_ended = true;
        way.step().await.unwrap();
        assert_eq!(way.written, 14, "as much as there is room for");
        assert!(matches!(futures::poll!(std::pin::pin!(way.step())), Poll::Pending), "one that nobody reads");
        let mut text = vec![0; 4];
        reader.read_exact(&mut text).await.unwrap();
        while way.has_work() {
            way.step().await.unwrap();
        }
        assert_eq!(way.written, 16);
        reader.read_to_end(&mut text).await.unwrap();
        assert_eq!(text, b"abcdef");
    }

    #[tokio::test]
    async fn what_nobody_takes_is_dropped_and_counted() {
        let (writer, reader) = tokio::io::duplex(4);
        drop(reader);
        let mut way = Way::new(writer, 0);
        way.push(bytes(0, "abc"));
        way.step().await.unwrap_err();
        way.give_up();
        assert_eq!(way.written, 3);
        way.push(bytes(3, "de"));
        assert!(way.written == 5 && !way.has_work());
    }
}
