//! Bytes that came and are not all read: what both readers of frames hold.

/// See the module. It holds at most what its users push.
#[derive(Debug, Default)]
pub(super) struct FrameBuffer {
    bytes: Vec<u8>,
    /// Before it all is read.
    start: usize,
    skipped: usize,
}

impl FrameBuffer {
    /// Takes bytes from the front of `bytes`, until `capacity` of them are held; how many.
    pub(super) fn push(&mut self, bytes: &[u8], capacity: usize) -> usize {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let taken = bytes.len().min(capacity.saturating_sub(self.bytes.len()));
        self.bytes.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// What is not read.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// So much of it is read.
    pub(super) fn read(&mut self, len: usize) {
        self.start += len;
    }

    /// Passes over bytes up to the next one that is `first`, at least one of them; how many.
    pub(super) fn skip_to(&mut self, first: u8) -> usize {
        let rest = self.rest();
        let step = rest.iter().skip(1).position(|byte| *byte == first).map_or(rest.len(), |place| place + 1);
        self.start += step;
        self.skipped = self.skipped.saturating_add(step);
        step
    }

    /// How many bytes were passed over so far.
    pub(super) fn skipped(&self) -> usize {
        self.skipped
    }

    /// Holds nothing any more.
    pub(super) fn clear(&mut self) {
        *self = Self { skipped: self.skipped, ..Self::default() };
    }
}
