//! Which reconciliation is the first one, that decides for the orchestrator before.
//!
//! ```text
//!   Due ─▶ UnderWay ─┬ it is answered ─────────────────────▶ Done
//!    ▲               │
//!    └───────────────┴ an error, or its supervisor has failed: it is asked for again
//! ```

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum FirstLook {
    #[default]
    Due,
    UnderWay,
    Done,
}

/// What a reconciliation may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Decide for the orchestrator before.
    pub(super) is_first: bool,
    /// Take what nobody can be using: it is before the first start. Later a disk may just be in the making.
    pub(super) is_alone: bool,
}

impl FirstLook {
    /// A reconciliation begins; `is_empty`: there is no child.
    pub(super) fn begin(&mut self, is_empty: bool) -> Turn {
        let is_first = *self == Self::Due;
        if is_first {
            *self = Self::UnderWay;
        }
        Turn { is_first, is_alone: is_first && is_empty }
    }

    /// The first one is over.
    pub(super) fn end(&mut self, is_done: bool) {
        *self = if is_done { Self::Done } else { Self::Due };
    }

    /// As the next supervisor has it.
    pub(super) fn inherited(self) -> Self {
        if self == Self::UnderWay { Self::Due } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_the_first_until_it_is_done() {
        let turn = |is_first, is_alone| Turn { is_first, is_alone };
        let mut look = FirstLook::default();
        assert_eq!(look.begin(true), turn(true, true));
        assert_eq!(look.begin(true), turn(false, false), "another one meanwhile");
        look = look.inherited();
        assert_eq!(look.begin(false), turn(true, false), "what was adopted is there");
        look.end(false);
        assert_eq!(look.begin(true), turn(true, true));
        look.end(true);
        assert_eq!(look.inherited().begin(true), turn(false, false));
    }
}
