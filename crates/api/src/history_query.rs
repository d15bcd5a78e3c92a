//! The query of `GET …/history`, as clients write it and the daemon reads it.

use std::fmt;

use sandpen_types::history::{HistoryCursor, HistoryPage};

/// Which transitions are wanted. `Display` is the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryQuery(pub HistoryPage);

/// A page that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryQueryError {
    /// Two places.
    #[error("after and before exclude each other")]
    Both,
    /// Nothing, or too much.
    #[error("limit={0:?} is not 1 to {max}", max = HistoryPage::MAX)]
    Limit(String),
    /// A place that is none.
    #[error("{key}={text:?} is not the number of a transition")]
    Number {
        /// Which key.
        key: &'static str,
        /// What it says.
        text: String,
    },
}

impl HistoryQuery {
    /// What the keys `after`, `before` and `limit` say together: by default as many as there may be, from the oldest on.
    ///
    /// # Errors
    /// They exclude each other, or make no sense.
    pub fn read(after: Option<&str>, before: Option<&str>, limit: Option<&str>) -> Result<Self, HistoryQueryError> {
        let number =
            |key, text: &str| text.parse::<u64>().map_err(|_| HistoryQueryError::Number { key, text: text.to_owned() });
        let cursor = match (after, before) {
            (Some(_), Some(_)) => return Err(HistoryQueryError::Both),
            (None, None) => HistoryPage::OLDEST.cursor,
            (Some(after), None) => HistoryCursor::After(number("after", after)?),
            (None, Some(before)) => HistoryCursor::Before(number("before", before)?),
        };
        let limit = match limit {
            None => HistoryPage::MAX,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=HistoryPage::MAX).contains(limit))
                .ok_or_else(|| HistoryQueryError::Limit(text.to_owned()))?,
        };
        Ok(Self(HistoryPage { cursor, limit }))
    }
}

impl fmt::Display for HistoryQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.cursor {
            HistoryCursor::After(seq) => write!(f, "after={seq}")?,
            HistoryCursor::Before(seq) => write!(f, "before={seq}")?,
        }
        write!(f, "&limit={}", self.0.limit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn queries_are_those_of_version_1() {
        for (page, expected) in [
            (HistoryPage::OLDEST, "after=0&limit=1000"),
            (HistoryPage::after(7), "after=7&limit=1000"),
            (HistoryPage::latest(50), "before=18446744073709551615&limit=50"),
        ] {
            assert_eq!(HistoryQuery(page).to_string(), expected);
        }
        assert_eq!(HistoryQuery::read(None, None, None), Ok(HistoryQuery(HistoryPage::OLDEST)));
    }

    #[test]
    fn pages_that_cannot_be_are_refused() {
        assert_eq!(HistoryQuery::read(Some("1"), Some("2"), None), Err(HistoryQueryError::Both));
        for limit in ["0", "1001", "4294967296", "-1", "", "x"] {
            let error = HistoryQuery::read(None, None, Some(limit)).unwrap_err();
            assert_eq!(error.to_string(), format!("limit={limit:?} is not 1 to 1000"));
        }
        for number in ["-1", "18446744073709551616", "1.5", "", "x"] {
            let error = HistoryQuery::read(None, Some(number), None).unwrap_err();
            assert_eq!(error.to_string(), format!("before={number:?} is not the number of a transition"));
            assert!(HistoryQuery::read(Some(number), None, None).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_page_is_read_as_it_is_written(is_after: bool, seq: u64, limit in 1..=HistoryPage::MAX) {
            let cursor = if is_after { HistoryCursor::After(seq) } else { HistoryCursor::Before(seq) };
            let page = HistoryPage { cursor, limit };
            let query = HistoryQuery(page).to_string();
            let key = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
            prop_assert_eq!(HistoryQuery::read(key("after"), key("before"), key("limit")), Ok(HistoryQuery(page)));
        }
    }
}
