//! What a client of a session has written to its standard input and the session has not got yet. Pure.
//!
//! ```text
//!   written:  ── got by the session ──┬── on its way ──┬── to be sent ──┬── (no more is taken until the window moves)
//!                                 received            sent           written, at most limit
//!   detached: sent = received, and nothing is sent before the window of another attachment is known
//! ```

use std::collections::VecDeque;

/// The next thing to tell a session of its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputPiece {
    /// Bytes.
    Bytes {
        /// The offset of the first one.
        offset: u64,
        /// At least one.
        bytes: Vec<u8>,
    },
    /// Its end.
    End {
        /// All of its bytes.
        total: u64,
    },
}

/// The input of one session, as its client has it: at most a window of it is kept.
#[derive(Debug, Default)]
pub struct SessionInput {
    /// What begins at `received`.
    kept: VecDeque<u8>,
    received: u64,
    limit: u64,
    sent: u64,
    is_ended: bool,
    is_end_sent: bool,
    is_closed: bool,
}

impl SessionInput {
    /// That of a session which has got `received` bytes; it takes none before its window is known.
    pub fn new(received: u64) -> Self {
        Self { received, limit: received, sent: received, ..Self::default() }
    }

    /// Takes as much as the window has room for; how many bytes. All, for nothing, where nobody reads them.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        if self.is_closed || self.is_ended {
            return bytes.len();
        }
        let room = usize::try_from(self.limit.saturating_sub(self.written())).unwrap_or(usize::MAX);
        let taken = bytes.len().min(room);
        self.kept.extend(&bytes[..taken]);
        taken
    }

    /// No more will be written.
    pub fn end(&mut self) {
        self.is_ended = true;
    }

    /// Whether nobody reads it (any more).
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether somebody has said that there is no more.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Whether the session has all of it, the news of its end included as far as that can be known.
    pub fn is_received(&self) -> bool {
        self.is_closed || self.kept.is_empty() && (!self.is_ended || self.is_end_sent)
    }

    /// Whether nothing more can be sent now: all was, or the window is full.
    pub fn is_sent(&self) -> bool {
        let is_full = self.sent >= self.limit;
        let has_bytes = self.sent < self.written();
        self.is_closed || (has_bytes && is_full) || (!has_bytes && (!self.is_ended || self.is_end_sent))
    }

    /// Whether all of it was sent, its end included.
    pub fn is_all_sent(&self) -> bool {
        self.is_closed || self.sent >= self.written() && (!self.is_ended || self.is_end_sent)
    }

    /// What is to be sent next, at most `most` bytes of it: it counts as sent from now on.
    pub fn next(&mut self, most: usize) -> Option<InputPiece> {
        if self.is_closed {
            return None;
        }
        let from = usize::try_from(self.sent - self.received).unwrap_or(usize::MAX);
        if from < self.kept.len() {
            let window = usize::try_from(self.limit.saturating_sub(self.sent)).unwrap_or(usize::MAX);
            let count = (self.kept.len() - from).min(most).min(window);
            if count == 0 {
                return None;
            }
            let offset = self.sent;
            self.sent += count as u64;
            return Some(InputPiece::Bytes { offset, bytes: self.kept.range(from..from + count).copied().collect() });
        }
        if self.is_ended && !self.is_end_sent {
            self.is_end_sent = true;
            return Some(InputPiece::End { total: self.written() });
        }
        None
    }

    /// The session has the bytes before `received`, and takes those before `limit`. What it said before it does not take
    /// back; a session that does is not believed.
    pub fn window(&mut self, received: u64, limit: u64) {
        self.forget(received.min(self.sent));
        self.limit = self.limit.max(limit);
    }

    /// Nobody reads it any more.
    pub fn close(&mut self) {
        self.is_closed = true;
        self.kept = VecDeque::new();
    }

    /// The way to the session is gone: what was on it may have got lost, and what the session has the next way tells.
    pub fn detached(&mut self) {
        (self.sent, self.limit, self.is_end_sent) = (self.received, self.received, false);
    }

    /// It goes to the session in another way from now on, which has the bytes before `received`.
    pub fn attached(&mut self, received: u64) {
        // More than was written: another client was there meanwhile.
        if received > self.written() {
            self.kept.clear();
            self.received = received;
        } else {
            self.forget(received);
        }
        self.detached();
    }

    fn written(&self) -> u64 {
        self.received + self.kept.len() as u64
    }

    fn forget(&mut self, received: u64) {
        let count = received.saturating_sub(self.received);
        self.kept.drain(..usize::try_from(count).unwrap_or(usize::MAX).min(self.kept.len()));
        self.received = self.received.max(received);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A session's side, and the ways to it that break.
    #[derive(Default)]
    struct Session {
        got: Vec<u8>,
        total: Option<u64>,
        limit: u64,
    }

    impl Session {
        fn take(&mut self, piece: InputPiece) {
            match piece {
                InputPiece::Bytes { offset, bytes } => {
                    let there = self.got.len() as u64;
                    assert!(offset <= there, "bytes are left out: {offset} after {there}");
                    assert!(offset + bytes.len() as u64 <= self.limit, "beyond the window");
                    let known = usize::try_from(there - offset).unwrap().min(bytes.len());
                    self.got.extend(&bytes[known..]);
                }
                InputPiece::End { total } => self.total = Some(total),
            }
        }
    }

    proptest! {
        #[test]
        fn every_byte_comes_once_over_any_number_of_attachments(
            text in proptest::collection::vec(any::<u8>(), 0..400),
            steps in proptest::collection::vec((0..6_u8, 0..64_usize), 0..300),
        ) {
            let (mut input, mut session) = (SessionInput::new(0), Session::default());
            let (mut written, mut lost) = (0, Vec::new());
            let rest = [(1, 64), (3, 64), (2, 64)].into_iter().cycle().take(3 * 1000);
            for (step, amount) in steps.into_iter().chain(rest) {
                match step {
                    0 | 1 => written += input.push(&text[written..(written + amount).min(text.len())]),
                    2 => while let Some(piece) = input.next(amount.max(1)) { session.take(piece) },
                    3 => {
                        session.limit = session.limit.max(session.got.len() as u64 + amount as u64);
                        input.window(session.got.len() as u64, session.limit);
                    }
                    // What is on its way is lost, and the next way begins with what the session has.
                    4 => {
                        lost.extend(input.next(amount.max(1)));
                        input.detached();
                        let early = input.next(amount.max(1));
                        prop_assert!(!matches!(early, Some(InputPiece::Bytes { .. })), "before anything is known: {early:?}");
                        input.attached(session.got.len() as u64);
                        session.limit = session.got.len() as u64;
                    }
                    _ => {}
                }
                if written == text.len() { input.end(); }
                prop_assert!(input.kept.len() <= 64 + 64, "more than a window is kept");
            }
            prop_assert_eq!(&session.got, &text);
            prop_assert_eq!(session.total, Some(text.len() as u64));
            prop_assert!(input.is_received());
        }

        #[test]
        fn whatever_a_session_says_nothing_breaks(news in proptest::collection::vec((0..4_u8, any::<u64>(), any::<u64>()), 0..40)) {
            let mut input = SessionInput::new(news.first().map_or(0, |news| news.1 >> 1));
            for (kind, one, two) in news {
                match kind {
                    0 => input.window(one, two),
                    1 => input.attached(one >> 1),
                    2 => { input.push(&[7; 100]); }
                    _ => { input.next(50); }
                }
                prop_assert!(input.kept.len() <= 100 * 40);
            }
        }
    }

    #[test]
    fn what_nobody_reads_is_taken_and_dropped() {
        let mut input = SessionInput::new(0);
        assert_eq!(input.push(b"abc"), 0, "before the window is known");
        input.window(0, 2);
        assert_eq!(input.push(b"abc"), 2);
        assert!(!input.is_received());
        input.close();
        assert!(input.is_closed() && input.is_received());
        assert_eq!((input.push(b"abc"), input.next(9)), (3, None));
        input.end();
        assert_eq!(input.next(9), None);
    }

    #[test]
    fn one_that_joins_goes_on_where_others_were() {
        let mut input = SessionInput::new(7);
        input.window(7, 100);
        assert_eq!(input.push(b"abc"), 3);
        assert_eq!(input.next(2), Some(InputPiece::Bytes { offset: 7, bytes: b"ab".to_vec() }));
        input.end();
        assert_eq!(input.next(9), Some(InputPiece::Bytes { offset: 9, bytes: b"c".to_vec() }));
        assert_eq!(input.next(9), Some(InputPiece::End { total: 10 }));
        assert_eq!(input.next(9), None);
        input.attached(8);
        assert_eq!(input.next(9), None, "not before the window");
        input.window(8, 100);
        assert_eq!(input.next(9), Some(InputPiece::Bytes { offset: 8, bytes: b"bc".to_vec() }));
        assert_eq!(input.next(9), Some(InputPiece::End { total: 10 }));
    }
}
