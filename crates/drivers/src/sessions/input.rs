//! The standard input of a session on its way into the guest. Pure.
//!
//! ```text
//!   0 …………… received ………………… sent ═══ queued ═══ (end)
//!     the session has it │ on its way  │ waits for room
//!                        └─────────── limit: no further ───┘
//! ```
//!
//! What the session has not received its client keeps: nothing of it is here once it is sent.

use std::collections::VecDeque;

use sandpen_guest::protocol::session::Budget;
use sandpen_vmm::sessions::SessionError;

use super::broken::Broken;

/// What `sessions.rs` of `sandpen-vmm` calls the stream.
const STREAM: &str = "stdin";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// What the guest says.
    window: Window,
    sent: u64,
    queued: VecDeque<u8>,
    /// Where the client ends it.
    end: Option<u64>,
    end_is_sent: bool,
    /// Nobody reads it any more.
    closed: bool,
    /// Nobody ever did.
    none: bool,
}

/// What a guest says of a session's input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// The session has what is before this.
    pub(super) received: u64,
    /// It takes what is before this.
    pub(super) limit: u64,
}

/// What is sent next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Bytes from an offset on.
    Bytes(u64, Vec<u8>),
    /// The end, after so many.
    End(u64),
}

fn len(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Input {
    /// Of a session that has none.
    pub(super) fn none() -> Self {
        Self { closed: true, none: true, ..Self::default() }
    }

    /// As a guest has it that was found.
    pub(super) fn found(received: u64, ended: bool, takes: bool) -> Self {
        let end = ended.then_some(received);
        let window = Window { received, limit: received };
        Self { window, sent: received, end, end_is_sent: ended, closed: !takes, ..Self::default() }
    }

    /// What the guest said last.
    pub(super) fn window(&self) -> Window {
        self.window
    }

    /// Whether nobody reads it.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether nobody ever read it.
    pub(super) fn is_none(&self) -> bool {
        self.none
    }

    /// What waits.
    pub(super) fn queued(&self) -> usize {
        self.queued.len()
    }

    /// Another client comes: what the one before had not sent yet may not be the new one's.
    pub(super) fn attach(&mut self) {
        self.queued = VecDeque::new();
        if !self.end_is_sent {
            self.end = None;
        }
    }

    /// Takes input of the client's. What was sent or waits already is passed over.
    pub(super) fn push(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SessionError> {
        // What was on its way when it was closed is counted nowhere.
        if self.closed {
            return Ok(());
        }
        let there = self.sent + len(self.queued.len());
        if offset > there {
            return Err(SessionError::Ahead { stream: STREAM, asked: offset, there });
        }
        if self.end.is_some() {
            return Ok(());
        }
        let known = usize::try_from(there - offset).unwrap_or(usize::MAX).min(bytes.len());
        self.queued.extend(&bytes[known..]);
        Ok(())
    }

    /// The client ends it.
    pub(super) fn end(&mut self, total: u64) -> Result<(), SessionError> {
        if self.closed {
            return Ok(());
        }
        let there = self.sent + len(self.queued.len());
        if total > there {
            return Err(SessionError::Ahead { stream: STREAM, asked: total, there });
        }
        // What was given besides was given.
        self.end.get_or_insert(there);
        Ok(())
    }

    /// The guest has received something, or has room.
    pub(super) fn open(&mut self, window: Window) -> Result<(), Broken> {
        let Window { received, limit } = window;
        let before = self.window;
        if self.closed {
            return Err(Broken::Unexpected { what: "a window for input", when: "nobody reads that" });
        }
        if received < before.received || received > self.sent {
            return Err(Broken::Offset { what: "input received", told: received, known: self.sent });
        }
        // More than any window: what the session has not received its client keeps, so that would be without end.
        let most = received.saturating_add(len(Budget::largest().window(1)));
        if limit < before.limit || limit < received || limit > most {
            return Err(Broken::Offset { what: "a limit for input", told: limit, known: before.limit });
        }
        self.window = window;
        Ok(())
    }

    /// Nobody reads it any more.
    pub(super) fn close(&mut self) -> Result<(), Broken> {
        if self.closed {
            return Err(Broken::Unexpected { what: "the close of an input", when: "it was closed" });
        }
        self.shut();
        Ok(())
    }

    /// The same where it does not matter whether somebody did.
    pub(super) fn shut(&mut self) {
        self.closed = true;
        self.queued = VecDeque::new();
    }

    /// Whether something can be sent now.
    pub(super) fn has_next(&self) -> bool {
        !self.closed && (self.sendable(usize::MAX) > 0 || self.can_end())
    }

    fn can_end(&self) -> bool {
        self.queued.is_empty() && self.end.is_some() && !self.end_is_sent
    }

    fn sendable(&self, most: usize) -> usize {
        let room = usize::try_from(self.window.limit.saturating_sub(self.sent)).unwrap_or(usize::MAX);
        self.queued.len().min(room).min(most)
    }

    /// What to send now, at most `most` bytes.
    pub(super) fn next(&mut self, most: usize) -> Option<Next> {
        if !self.has_next() {
            return None;
        }
        let count = self.sendable(most);
        if count == 0 {
            let total = self.end.filter(|_| self.can_end())?;
            self.end_is_sent = true;
            return Some(Next::End(total));
        }
        let (offset, bytes) = (self.sent, self.queued.drain(..count).collect());
        self.sent += len(count);
        Some(Next::Bytes(offset, bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(limit: u64) -> Input {
        let mut input = Input::default();
        input.open(Window { received: 0, limit }).unwrap();
        input
    }

    #[test]
    fn gaps_are_refused_and_what_is_known_is_passed_over() {
        let mut input = open(5);
        input.push(0, b"abc").unwrap();
        assert_eq!(input.push(4, b"x"), Err(SessionError::Ahead { stream: "stdin", asked: 4, there: 3 }));
        input.push(1, b"bcdefg").unwrap();
        assert_eq!(input.next(2), Some(Next::Bytes(0, b"ab".to_vec())));
        assert_eq!(input.next(100), Some(Next::Bytes(2, b"cde".to_vec())), "to the limit");
        assert_eq!(input.next(100), None);
        assert!(input.end(8).is_err());
        input.end(7).unwrap();
        input.push(7, b"more").unwrap();
        input.open(Window { received: 5, limit: 100 }).unwrap();
        assert_eq!(input.next(100), Some(Next::Bytes(5, b"fg".to_vec())));
        assert_eq!(input.next(100), Some(Next::End(7)));
        assert_eq!(input.next(100), None, "once");
    }

    #[test]
    fn windows_never_go_back() {
        let mut input = open(10);
        input.push(0, &[0; 8]).unwrap();
        input.next(100).unwrap();
        for (received, limit) in [(9, 20), (0, 9), (3, 2), (0, (1 << 20) + 1), (8, u64::MAX)] {
            assert!(input.open(Window { received, limit }).is_err(), "{received} {limit}");
        }
        input.open(Window { received: 8, limit: 10 }).unwrap();
        assert!(input.open(Window { received: 7, limit: 10 }).is_err());
        input.close().unwrap();
        assert!(input.close().is_err());
        assert!(input.open(Window { received: 8, limit: 10 }).is_err());
        input.push(8, b"for nobody").unwrap();
        // A client that has not heard of it sends on, and ends it.
        input.push(18, b"and on").unwrap();
        input.end(24).unwrap();
        assert!(!input.has_next());
    }

    #[test]
    fn another_client_goes_on_where_the_first_one_was_sent() {
        let mut input = open(3);
        input.push(0, b"abcdef").unwrap();
        input.end(6).unwrap();
        input.next(100).unwrap();
        input.attach();
        assert_eq!(input.sent, 3);
        input.open(Window { received: 3, limit: 100 }).unwrap();
        input.push(3, b"DEF").unwrap();
        assert_eq!(input.next(100), Some(Next::Bytes(3, b"DEF".to_vec())));
        assert_eq!(input.next(100), None, "the end was the first one's");
        let mut found = Input::found(7, true, true);
        found.push(7, b"x").unwrap();
        assert!(!found.has_next(), "it has ended");
        assert_eq!(found.sent, 7);
    }

    proptest! {
        #[test]
        fn each_byte_is_sent_once_within_the_limit(
            steps in proptest::collection::vec((0..50_u64, 1..200_usize, 0..200_u64, 1..100_usize), 1..80),
        ) {
            let byte = |at: u64| (at % 241) as u8;
            let mut input = Input::default();
            let (mut limit, mut sent) = (0, 0);
            for (back, count, more, most) in steps {
                let there = input.sent + input.queued.len() as u64;
                let offset = there.saturating_sub(back);
                let bytes: Vec<u8> = (offset..offset + count as u64).map(byte).collect();
                input.push(offset, &bytes).unwrap();
                limit += more;
                input.open(Window { received: sent, limit }).unwrap();
                while let Some(Next::Bytes(offset, bytes)) = input.next(most) {
                    prop_assert_eq!(offset, sent);
                    prop_assert!(bytes.iter().zip(sent..).all(|(found, at)| *found == byte(at)));
                    sent += bytes.len() as u64;
                    prop_assert!(sent <= limit);
                }
            }
        }
    }
}
