//! The way of standard input from a thread of its own into a request's body. Reading stdin blocks,
//! and a runtime whose threads block in it cannot end: hence no `tokio::io::stdin`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;

/// Chunks that may wait: with 64 KiB each, 256 KiB are read ahead of the workload.
const CHUNKS: usize = 4;

/// The thread's end. Dropping it ends the input; a broken one must be told with an error instead,
/// so that the workload does not take half of it for all.
pub type StdinSender = mpsc::Sender<io::Result<Bytes>>;

/// The request's end.
#[derive(Debug)]
pub struct StdinReceiver(mpsc::Receiver<io::Result<Bytes>>);

/// Both ends.
pub fn stdin_channel() -> (StdinSender, StdinReceiver) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    (sender, StdinReceiver(receiver))
}

impl Stream for StdinReceiver {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
