//! One channel's streams, as whoever carries them reads and writes them.
//!
//! ```text
//!   the client's data ──▶ kept, at most a window ──▶ ChannelReader: what it reads is told, and the window moves
//!   ChannelWriter ──▶ waits for the client's window, then for room at the server ──▶ packets
//! ```
//!
//! A channel whose program does not read fills its own window, and holds up no other one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{PollSemaphore, PollSender};

/// Bytes that a client may send on a channel before some of them are read.
pub(crate) const WINDOW: u32 = 1 << 20;
/// Most bytes of data in one packet, either way.
pub(crate) const PIECE: u32 = 32 << 10;
/// So much is read before the client is told.
const TOLD: u32 = WINDOW / 8;

/// Names one channel of a connection; none is given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ChannelId(pub(crate) u32);

/// What a channel's carrier has for the client.
#[derive(Debug)]
pub(crate) enum Said {
    /// Bytes, of standard error or not.
    Data { channel: ChannelId, is_error: bool, bytes: Bytes },
    /// No more of them.
    Eof(ChannelId),
    /// How its program ended.
    Exit(ChannelId, Exit),
    /// Nothing more.
    Done(ChannelId),
}

/// How a program ended, as SSH says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exit {
    Status(u32),
    /// By a signal, named without `SIG`.
    Signal(String),
}

/// So many bytes of a channel were read.
pub(crate) type Consumed = (ChannelId, u32);

/// A channel's input.
pub(crate) struct ChannelReader {
    pub(crate) channel: ChannelId,
    pub(crate) came: mpsc::UnboundedReceiver<Bytes>,
    pub(crate) rest: Bytes,
    /// Not yet told.
    pub(crate) consumed: u32,
    /// Unbounded, and yet few: each tells of [`TOLD`] bytes that came within a window.
    pub(crate) tell: mpsc::UnboundedSender<Consumed>,
}

impl AsyncRead for ChannelReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.came.poll_recv(context)) {
                Some(bytes) => self.rest = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        // Of a window at most.
        self.consumed += u32::try_from(count).unwrap_or(0);
        if self.consumed >= TOLD {
            // Whoever is gone needs no bytes.
            let _ = self.tell.send((self.channel, self.consumed));
            self.consumed = 0;
        }
        Poll::Ready(Ok(()))
    }
}

/// A channel's output, or its errors.
pub(crate) struct ChannelWriter {
    channel: ChannelId,
    is_error: bool,
    window: PollSemaphore,
    sender: PollSender<Said>,
    /// Bytes of the window that nothing was sent for yet.
    granted: usize,
    piece: usize,
    /// Writers of the channel that are open: the last one ends it.
    open: Arc<AtomicUsize>,
    is_shut: bool,
}

/// Both writers of a channel.
pub(crate) fn writers(
    channel: ChannelId,
    window: &Arc<Semaphore>,
    piece: u32,
    sender: &mpsc::Sender<Said>,
) -> [ChannelWriter; 2] {
    let open = Arc::new(AtomicUsize::new(2));
    [false, true].map(|is_error| ChannelWriter {
        channel,
        is_error,
        window: PollSemaphore::new(window.clone()),
        sender: PollSender::new(sender.clone()),
        granted: 0,
        piece: usize::try_from(piece.clamp(1, PIECE)).unwrap_or(1),
        open: open.clone(),
        is_shut: false,
    })
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.granted == 0 {
            ready!(self.window.poll_acquire(context)).ok_or_else(gone)?.forget();
            self.granted = 1;
            let more = self.window.available_permits().min(self.piece.min(bytes.len()) - 1);
            let inner = self.window.clone_inner();
            if let Some(Ok(permit)) = u32::try_from(more).ok().map(|more| inner.try_acquire_many(more)) {
                permit.forget();
                self.granted += more;
            }
        }
        ready!(self.sender.poll_reserve(context)).map_err(|_| gone())?;
        let count = self.granted.min(bytes.len());
        // Another write than the one before may be shorter.
        self.window.clone_inner().add_permits(self.granted - count);
        self.granted = 0;
        let (channel, is_error) = (self.channel, self.is_error);
        let said = Said::Data { channel, is_error, bytes: Bytes::copy_from_slice(&bytes[..count]) };
        self.sender.send_item(said).map_err(|_| gone())?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_shut {
            return Poll::Ready(Ok(()));
        }
        ready!(self.sender.poll_reserve(context)).map_err(|_| gone())?;
        self.is_shut = true;
        match self.open.fetch_sub(1, Ordering::Relaxed) {
            1 => {
                let eof = Said::Eof(self.channel);
                self.sender.send_item(eof).map_err(|_| gone())?;
            }
            _ => {
                self.sender.abort_send();
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn no_more_is_written_than_the_client_has_room_for() {
        let (sender, mut said) = mpsc::channel(16);
        let window = Arc::new(Semaphore::new(5));
        let [mut output, mut errors] = writers(ChannelId(7), &window, 4, &sender);
        let mut texts = Vec::new();
        let mut heard = |said: Said| match said {
            Said::Data { is_error, bytes, .. } => texts.push((is_error, bytes)),
            other => panic!("{other:?}"),
        };
        assert_eq!(output.write(b"abcdef").await.unwrap(), 4, "a packet's");
        assert_eq!(errors.write(b"ef").await.unwrap(), 1, "the window's");
        assert!(futures::poll!(std::pin::pin!(output.write(b"f"))).is_pending());
        window.add_permits(1);
        assert_eq!(output.write(b"f").await.unwrap(), 1);
        for _ in 0..3 {
            heard(said.recv().await.unwrap());
        }
        assert_eq!(texts, [(false, "abcd".into()), (true, "e".into()), (false, "f".into())]);
        output.shutdown().await.unwrap();
        output.shutdown().await.unwrap();
        assert!(said.try_recv().is_err(), "the errors go on");
        errors.shutdown().await.unwrap();
        assert!(matches!(said.try_recv(), Ok(Said::Eof(ChannelId(7)))));
        window.close();
        assert_eq!(output.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn what_was_read_is_told() {
        let ((send, came), (tell, mut told)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let channel = ChannelId(1);
        let mut reader = ChannelReader { channel, came, rest: Bytes::new(), consumed: 0, tell };
        for _ in 0..4 {
            send.send(vec![7; TOLD as usize / 2].into()).unwrap();
        }
        drop(send);
        let mut all = vec![0; TOLD as usize - 1];
        reader.read_exact(&mut all).await.unwrap();
        assert!(told.try_recv().is_err());
        assert_eq!(reader.read_to_end(&mut all).await.unwrap(), TOLD as usize + 1);
        let sum: u32 = std::iter::from_fn(|| told.try_recv().ok()).map(|(_, count)| count).sum();
        assert_eq!(sum, 2 * TOLD);
    }
}
