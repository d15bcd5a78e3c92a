//! One output stream of a session: what came of it and no client has for good. Pure.
//!
//! ```text
//!   0 ……………………… from ═══════ kept ═══════ received ………………… limit
//!     forgotten    ▲          ▲                               ▲ the guest sends no further
//!                  │          └ sent: what the client was told
//!                  └ what the client has for good; where it is ahead of all that came (after an adoption), `received`
//! ```

use std::collections::VecDeque;

use bytes::Bytes;
use sandpen_guest::protocol::session::OutputState;
use sandpen_types::output_stream::OutputStream;
use sandpen_vmm::sessions::SessionError;

use super::broken::Broken;

/// Least bytes that a stream is given room for, whatever the others have: it never stands still for them.
const ROOM_MIN: u64 = 4 << 10;
/// Room that is kept when nothing is in it.
const SPARE: usize = 64 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Output {
    kept: VecDeque<u8>,
    from: u64,
    /// What the client has for good.
    taken: u64,
    sent: u64,
    /// So much was written at least, as the guest says.
    written: u64,
    /// All of its bytes, once it has ended.
    total: Option<u64>,
    /// It did not end by itself.
    is_cut: bool,
    /// What the guest was told last.
    told: Option<Grant>,
}

/// What a guest is told of a stream: `Taken`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    /// It need not keep what is before this.
    pub(super) taken: u64,
    /// It sends what is before this.
    pub(super) limit: u64,
}

fn len(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Output {
    /// As a guest has it that was found.
    pub(super) fn found(state: OutputState) -> Result<Self, Broken> {
        let OutputState { taken, written, ended } = state;
        if taken > written {
            return Err(Broken::Offset { what: "bytes taken", told: taken, known: written });
        }
        let total = ended.then_some(written);
        Ok(Self { from: taken, taken, sent: taken, written, total, ..Self::default() })
    }

    /// The offset behind all that came.
    fn received(&self) -> u64 {
        self.from + len(self.kept.len())
    }

    /// The first byte that can still be had; it may not have come.
    pub(super) fn from(&self) -> u64 {
        self.from.max(self.taken)
    }

    /// Takes what the guest sends.
    pub(super) fn receive(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Broken> {
        let known = self.received();
        if offset != known {
            return Err(Broken::Offset { what: "bytes", told: offset, known });
        }
        let end = offset.checked_add(len(bytes.len())).ok_or(Broken::Offset { what: "bytes", told: offset, known })?;
        let limit = self.told.map_or(0, |told| told.limit);
        let limit = self.total.map_or(limit, |total| limit.min(total));
        if end > limit {
            return Err(Broken::Offset { what: "bytes beyond what was allowed", told: end, known: limit });
        }
        self.kept.extend(bytes);
        self.written = self.written.max(end);
        self.forget();
        Ok(())
    }

    /// It ends after so many bytes.
    pub(super) fn end(&mut self, total: u64) -> Result<(), Broken> {
        if self.total.is_some() {
            return Err(Broken::Unexpected { what: "the end of a stream", when: "it has ended" });
        }
        let known = self.written;
        if total < known {
            return Err(Broken::Offset { what: "a stream's end", told: total, known });
        }
        self.total = Some(total);
        self.written = total;
        Ok(())
    }

    /// Whether its end was told.
    pub(super) fn has_ended(&self) -> bool {
        self.total.is_some()
    }

    /// Whether all of it came.
    pub(super) fn is_complete(&self) -> bool {
        self.total == Some(self.received())
    }

    /// Nothing more comes, whatever was announced.
    pub(super) fn cut(&mut self) {
        self.is_cut |= !self.is_complete();
        self.total = Some(self.received());
        self.written = self.received();
    }

    /// A client comes that has what is before `from`; or nothing, and wants what there is.
    pub(super) fn check_attach(&self, stream: OutputStream, from: Option<u64>) -> Result<(), SessionError> {
        match from {
            Some(asked) if asked < self.from() => Err(SessionError::NotKept { stream, asked, kept: self.from() }),
            Some(asked) => self.check_there(stream, asked),
            None => Ok(()),
        }
    }

    fn check_there(&self, stream: OutputStream, asked: u64) -> Result<(), SessionError> {
        match asked > self.written {
            true => Err(SessionError::Ahead { stream: stream.as_str(), asked, there: self.written }),
            false => Ok(()),
        }
    }

    /// After [`Output::check_attach`].
    pub(super) fn attach(&mut self, from: Option<u64>) {
        self.sent = from.unwrap_or(self.from());
    }

    /// Whether there is something that the client was not told.
    pub(super) fn has_news(&self) -> bool {
        self.sent < self.received()
    }

    /// Whether the client was told all that will ever be.
    pub(super) fn is_told(&self) -> bool {
        self.total.is_some_and(|total| self.sent >= total)
    }

    /// How many bytes it had when it ended by itself and the client was told all of them.
    pub(super) fn told_end(&self) -> Option<u64> {
        self.total.filter(|total| !self.is_cut && self.sent >= *total)
    }

    /// What the client is told next, at most `most` bytes.
    pub(super) fn next(&mut self, most: usize) -> Option<(u64, Bytes)> {
        if !self.has_news() {
            return None;
        }
        let offset = self.sent.max(self.from);
        let start = usize::try_from(offset - self.from).ok()?;
        let end = self.kept.len().min(start.saturating_add(most));
        let (front, back) = self.kept.as_slices();
        let mut bytes = Vec::with_capacity(end - start);
        bytes.extend_from_slice(&front[start.min(front.len())..end.min(front.len())]);
        bytes.extend_from_slice(&back[start.saturating_sub(front.len())..end.saturating_sub(front.len())]);
        self.sent = offset + len(bytes.len());
        Some((offset, bytes.into()))
    }

    /// The client has what is before `taken` for good.
    pub(super) fn take(&mut self, stream: OutputStream, taken: u64) -> Result<(), SessionError> {
        self.check_there(stream, taken)?;
        self.taken = self.taken.max(taken);
        self.forget();
        Ok(())
    }

    fn forget(&mut self) {
        let gone = self.taken.min(self.received()).saturating_sub(self.from);
        self.kept.drain(..usize::try_from(gone).unwrap_or(self.kept.len()).min(self.kept.len()));
        self.from += gone;
        self.sent = self.sent.max(self.from);
        if self.kept.is_empty() && self.kept.capacity() > SPARE {
            self.kept = VecDeque::new();
        }
    }

    /// Bytes that are here or may come.
    pub(super) fn reserved(&self) -> u64 {
        let limit = self.told.map_or(0, |told| told.limit);
        limit.min(self.total.unwrap_or(u64::MAX)).max(self.received()) - self.from
    }

    /// What to tell the guest, if that is something else than it was told: `window` bytes from the first one that is kept,
    /// and no more than `room` beyond what was given out before.
    pub(super) fn grant(&mut self, window: u64, room: u64) -> Option<Grant> {
        let known = self.told.map_or(self.from, |told| told.limit);
        let wanted = self.from.saturating_add(window).min(known.saturating_add(room));
        let limit = wanted.max(self.from.saturating_add(ROOM_MIN)).max(known);
        self.tell(Grant { taken: self.from, limit })
    }

    /// The same when all that comes is taken over at once: the guest keeps nothing, and `window` counts from the last byte.
    pub(super) fn grant_all(&mut self, window: u64, room: u64) -> Option<Grant> {
        let known = self.told.map_or(self.from, |told| told.limit);
        let wanted = self.received().saturating_add(window).min(known.saturating_add(room));
        self.tell(Grant { taken: self.received(), limit: wanted.max(known) })
    }

    fn tell(&mut self, grant: Grant) -> Option<Grant> {
        let changed = self.told.replace(grant) != Some(grant);
        changed.then_some(grant)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: OutputStream = OutputStream::Stdout;

    fn granted(room: u64) -> Output {
        let mut output = Output::default();
        output.grant(room, room).unwrap();
        output
    }

    #[test]
    fn only_what_comes_next_and_was_allowed_is_received() {
        let mut output = granted(8000);
        output.receive(0, b"abc").unwrap();
        for offset in [0, 2, 4, u64::MAX] {
            assert!(matches!(output.receive(offset, b"x"), Err(Broken::Offset { .. })), "{offset}");
        }
        output.receive(3, &[0; 7997]).unwrap();
        assert!(output.receive(8000, b"x").is_err(), "beyond the limit");
        assert!(output.end(7999).is_err());
        output.end(8000).unwrap();
        assert!(output.end(8000).is_err(), "twice");
        assert!(output.is_complete());
        output.take(STREAM, 8000).unwrap();
        output.grant(8000, 8000);
        assert!(output.receive(8000, b"x").is_err(), "behind its end");
    }

    #[test]
    fn a_client_comes_where_another_was() {
        let mut output = granted(8000);
        output.receive(0, b"0123456789").unwrap();
        output.take(STREAM, 4).unwrap();
        assert_eq!(
            output.check_attach(STREAM, Some(3)),
            Err(SessionError::NotKept { stream: STREAM, asked: 3, kept: 4 })
        );
        assert!(matches!(output.check_attach(STREAM, Some(11)), Err(SessionError::Ahead { there: 10, .. })));
        output.attach(Some(7));
        assert_eq!(output.next(100), Some((7, "789".into())));
        output.attach(None);
        assert_eq!(output.next(2), Some((4, "45".into())));
        assert_eq!(output.next(100), Some((6, "6789".into())));
        assert_eq!(output.next(100), None);
    }

    /// A client may have more than the guest sends again at first.
    #[test]
    fn a_client_that_is_ahead_is_told_what_it_lacks() {
        let mut output = Output::found(OutputState { taken: 100, written: 300, ended: true }).unwrap();
        assert_eq!(output.grant(1 << 20, 1 << 20).unwrap().taken, 100);
        output.check_attach(STREAM, Some(250)).unwrap();
        assert!(output.check_attach(STREAM, Some(301)).is_err());
        output.attach(Some(250));
        output.take(STREAM, 250).unwrap();
        assert_eq!((output.from(), output.from), (250, 100), "it has not come");
        output.receive(100, &[1; 120]).unwrap();
        assert_eq!(output.next(1000), None);
        output.receive(220, &[2; 80]).unwrap();
        assert_eq!(output.next(1000), Some((250, vec![2; 50].into())));
        assert!(output.is_told());
        assert!(Output::found(OutputState { taken: 2, written: 1, ended: false }).is_err());
    }

    proptest! {
        /// Whatever comes in whatever pieces, and is taken now and then: each byte is told once, in order, and no more is
        /// kept than was reserved.
        #[test]
        fn nothing_is_lost_or_doubled(
            steps in proptest::collection::vec((1..3000_usize, 1..5000_usize, 0..4000_u64, 1..20_000_u64), 1..60),
        ) {
            let byte = |at: u64| (at % 251) as u8;
            let mut output = Output::default();
            let (mut written, mut told) = (0_u64, 0_u64);
            for (wanted, most, take, window) in steps {
                let before = output.told;
                if let (Some(old), Some(new)) = (before, output.grant(window, window)) {
                    prop_assert!(new.limit >= old.limit && new.taken >= old.taken);
                }
                let limit = output.told.unwrap().limit;
                let end = limit.min(written + wanted as u64);
                let bytes: Vec<u8> = (written..end).map(byte).collect();
                output.receive(written, &bytes).unwrap();
                written = end;
                prop_assert!(output.kept.len() as u64 <= output.reserved());
                if let Some((offset, bytes)) = output.next(most) {
                    prop_assert_eq!(offset, told);
                    prop_assert!(bytes.len() <= most);
                    prop_assert!(bytes.iter().zip(told..).all(|(found, at)| *found == byte(at)));
                    told += bytes.len() as u64;
                }
                output.take(STREAM, told.saturating_sub(take)).unwrap();
            }
            while let Some((offset, bytes)) = output.next(777) {
                prop_assert_eq!(offset, told);
                told += bytes.len() as u64;
            }
            prop_assert_eq!(told, written);
        }
    }
}
