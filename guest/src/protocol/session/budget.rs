//! How much memory a guest gives to the windows of its sessions' streams.

/// Streams of a session that have a window.
const STREAMS: usize = 3;
/// Smallest window of a stream: one write of a program's stdio buffer.
const WINDOW_MIN: usize = 4 << 10;
/// Largest window of a stream: more makes nothing faster.
const WINDOW_MAX: usize = 1 << 20;
/// Largest budget.
const BUDGET_MAX: usize = 8 << 20;

/// The bytes that all windows of a guest share: 1/32 of its memory, at most 8 MiB. The more sessions there are, the smaller
/// the window of each stream; what is in a window that has become too large is sent, and not filled up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget(usize);

impl Budget {
    /// For a machine of so much memory, in bytes.
    pub fn of_memory(memory: u64) -> Self {
        Self(usize::try_from(memory / 32).unwrap_or(BUDGET_MAX).min(BUDGET_MAX))
    }

    /// The largest one.
    pub fn largest() -> Self {
        Self(BUDGET_MAX)
    }

    /// All of it, in bytes.
    pub fn bytes(self) -> usize {
        self.0
    }

    /// The window of a stream for which there is nothing left: the smallest one. What was in windows when there were fewer
    /// sessions may be all there is.
    pub fn smallest_window(self) -> usize {
        WINDOW_MIN
    }

    /// The window of each stream, in bytes, while there are so many sessions.
    pub fn window(self, sessions: usize) -> usize {
        (self.0 / (STREAMS * sessions.max(1))).clamp(WINDOW_MIN, WINDOW_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_shrink_with_the_number_of_sessions() {
        let small = Budget::of_memory(96 << 20);
        assert_eq!(small.window(1), 1 << 20);
        assert_eq!(small.window(16), 64 << 10);
        assert_eq!(small.window(256), 4 << 10);
        assert_eq!((small.bytes(), small.smallest_window()), (3 << 20, 4 << 10));
        assert_eq!(Budget::of_memory(u64::MAX), Budget::largest());
        assert_eq!(Budget::largest().window(64), (8 << 20) / 192);
        assert_eq!(Budget::of_memory(0).window(0), WINDOW_MIN);
    }
}
