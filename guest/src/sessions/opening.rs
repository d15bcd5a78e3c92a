//! A session that the host has begun to describe.
//!
//! ```text
//!   Open ──▶ opening ──bytes of Spec──▶ whole
//!              └── another Open, Resume, Forget: forgotten
//! ```

use sandpen_guest::protocol::session::{RunSession, SPEC_MAX, SessionStart, SessionStream};

/// As much of the description as has come; at most [`SPEC_MAX`] bytes.
#[derive(Debug)]
pub struct Opening {
    pub id: u64,
    len: usize,
    bytes: Vec<u8>,
    /// How much room the host has for its outputs already.
    rooms: Vec<(SessionStream, u64)>,
}

/// A session that is to begin.
#[derive(Debug)]
pub struct Whole {
    pub id: u64,
    pub session: RunSession,
    /// How much room the host has for its outputs.
    pub rooms: Vec<(SessionStream, u64)>,
}

/// What bytes of a description do.
#[derive(Debug, PartialEq, Eq)]
pub enum Fed {
    /// More are to come.
    More,
    /// There is a gap before them.
    Gap,
    /// It is whole.
    Whole(SessionStart),
    /// It is none.
    Malformed,
}

impl Opening {
    /// A description of so many bytes; `None` where it is none.
    pub fn new(id: u64, len: u32) -> Option<Self> {
        let len = usize::try_from(len).ok().filter(|len| (1..=SPEC_MAX).contains(len))?;
        (id != 0).then(|| Self { id, len, bytes: Vec::new(), rooms: Vec::new() })
    }

    /// The host has room for an output; says whether that can be.
    pub fn make_room(&mut self, stream: SessionStream, taken: u64, limit: u64) -> bool {
        self.rooms.retain(|(of, _)| *of != stream);
        self.rooms.push((stream, limit));
        taken == 0 && matches!(stream, SessionStream::Stdout | SessionStream::Stderr)
    }

    /// With what the description says.
    pub fn whole(self, session: RunSession) -> Whole {
        Whole { id: self.id, session, rooms: self.rooms }
    }

    /// Takes what was not there yet.
    pub fn feed(&mut self, offset: u64, bytes: &[u8]) -> Fed {
        let Some(known) = (self.bytes.len() as u64).checked_sub(offset) else { return Fed::Gap };
        let fresh = usize::try_from(known).ok().and_then(|known| bytes.get(known..)).unwrap_or_default();
        if fresh.len() > self.len - self.bytes.len() {
            return Fed::Malformed;
        }
        if self.bytes.is_empty() {
            self.bytes.reserve_exact(self.len);
        }
        self.bytes.extend_from_slice(fresh);
        if self.bytes.len() < self.len {
            return Fed::More;
        }
        match postcard::take_from_bytes(&self.bytes) {
            Ok((start, [])) => Fed::Whole(start),
            Ok(_) | Err(_) => Fed::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sandpen_guest::protocol::session::{SessionNotes, SessionProgram};

    use super::*;

    #[test]
    fn a_description_comes_in_parts_each_once() {
        let start = SessionStart::Run(RunSession {
            program: SessionProgram::Shell,
            env: vec![],
            user: Some("web".into()),
            workdir: None,
            terminal: None,
            stdin: true,
            limit: None,
            notes: SessionNotes { label: "x".into(), asked_at: Duration::ZERO, detached: false },
        });
        let bytes = postcard::to_stdvec(&start).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        let opening = || Opening::new(1, len).unwrap();
        assert_eq!(opening().feed(0, &bytes), Fed::Whole(start));
        let mut parts = opening();
        assert_eq!(parts.feed(1, &bytes[1..]), Fed::Gap);
        assert_eq!(parts.feed(0, &bytes[..4]), Fed::More);
        assert_eq!(parts.feed(0, &bytes[..3]), Fed::More);
        assert!(matches!(parts.feed(2, &bytes[2..]), Fed::Whole(_)));
        assert_eq!(opening().feed(0, &[&bytes[..], b"x"].concat()), Fed::Malformed);
        assert_eq!(opening().feed(0, &vec![0xFF; bytes.len()]), Fed::Malformed);
        assert_eq!(Opening::new(1, len + 1).unwrap().feed(0, &[&bytes[..], b"x"].concat()), Fed::Malformed);
        for (id, len) in [(1, 0), (0, 5), (1, u32::MAX), (1, u32::try_from(SPEC_MAX).unwrap() + 1)] {
            assert!(Opening::new(id, len).is_none());
        }
    }
}
