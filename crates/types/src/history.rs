//! Pages of a sandbox's history. Its transitions count 1, 2, 3 …; the oldest ones go.

/// Where a page lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryCursor {
    /// The first ones with a larger number.
    After(u64),
    /// The last ones with a smaller number.
    Before(u64),
}

/// Which transitions are asked for. They come oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryPage {
    /// Where.
    pub cursor: HistoryCursor,
    /// At most so many, 1 to [`HistoryPage::MAX`].
    pub limit: u32,
}

impl HistoryPage {
    /// Most transitions of a page: some 500 KiB of JSON.
    pub const MAX: u32 = 1000;

    /// The oldest that are kept.
    pub const OLDEST: Self = Self::after(0);

    /// What follows this number.
    pub const fn after(seq: u64) -> Self {
        Self { cursor: HistoryCursor::After(seq), limit: Self::MAX }
    }

    /// The latest ones.
    pub const fn latest(limit: u32) -> Self {
        Self { cursor: HistoryCursor::Before(u64::MAX), limit }
    }
}

impl Default for HistoryPage {
    fn default() -> Self {
        Self::OLDEST
    }
}
