//! Where reading a sandbox's log begins.

/// Where reading begins. A *position* counts the bytes of the whole log since the first start, over rotations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogStart {
    /// At the oldest kept byte.
    #[default]
    Oldest,
    /// At the first byte of the latest start.
    LatestGeneration,
    /// At the first byte of this start, counted from 1, or the oldest kept one after it.
    Generation(u64),
    /// At this position.
    Position(u64),
    /// This many lines before the end.
    Tail(usize),
    /// The same, but not before the first byte of a start, or the oldest kept one after it.
    TailOf {
        /// How many lines.
        lines: usize,
        /// The start, counted from 1.
        generation: u64,
    },
}
