//! Amounts as users write them: bytes, memory and times, each with its unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why an amount cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No number of bytes.
    #[error("{0:?} is not a size; give a number with K, M or G, for example 256M")]
    Size(String),
    /// Memory comes in whole MiB.
    #[error("{0:?} is not a whole number of MiB")]
    NotMebibytes(String),
    /// More memory than can be asked for.
    #[error("{0:?} is more memory than any host has")]
    TooMuchMemory(String),
    /// A time of nothing.
    #[error("{0:?} is no time at all")]
    NoTime(String),
    /// No time.
    #[error("{0:?} is not a duration; give one with its unit, for example 30s, 5m or 1h30m")]
    Duration(String),
}

/// A number of KiB, written as `256M`, `64KiB` or `1G`: powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize {
    kibibytes: u64,
}

impl ByteSize {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        // No more KiB are taken than this can hold.
        self.kibibytes << 10
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refused = || UnitError::Size(text.to_owned());
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match &text[digits.len()..] {
            "K" | "k" | "KiB" => 0,
            "M" | "m" | "MiB" => 10,
            "G" | "g" | "GiB" => 20,
            _ => return Err(refused()),
        };
        let number: u64 = digits.parse().map_err(|_| refused())?;
        let kibibytes = number.checked_mul(1 << shift).filter(|kibibytes| *kibibytes <= u64::MAX >> 10);
        kibibytes.map(|kibibytes| Self { kibibytes }).ok_or_else(refused)
    }
}

impl fmt::Display for ByteSize {
    /// In the largest unit that it is a whole number of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole =
            |unit: u64| (self.kibibytes != 0 && self.kibibytes.is_multiple_of(unit)).then_some(self.kibibytes / unit);
        match (whole(1 << 20), whole(1 << 10)) {
            (Some(number), _) => write!(f, "{number}G"),
            (None, Some(number)) => write!(f, "{number}M"),
            (None, None) => write!(f, "{}K", self.kibibytes),
        }
    }
}

/// An amount of memory in MiB, written as a [`ByteSize`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemorySize {
    mebibytes: u32,
}

impl MemorySize {
    /// So many MiB.
    pub const fn from_mebibytes(mebibytes: u32) -> Self {
        Self { mebibytes }
    }

    /// In MiB.
    pub const fn mebibytes(self) -> u32 {
        self.mebibytes
    }
}

impl FromStr for MemorySize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bytes = text.parse::<ByteSize>()?.bytes();
        if !bytes.is_multiple_of(1 << 20) {
            return Err(UnitError::NotMebibytes(text.to_owned()));
        }
        let mebibytes = u32::try_from(bytes >> 20).map_err(|_| UnitError::TooMuchMemory(text.to_owned()))?;
        Ok(Self { mebibytes })
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ByteSize { kibibytes: u64::from(self.mebibytes) << 10 }.fmt(f)
    }
}

/// A time that is not nothing, written as `30s`, `5m` or `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan(Duration);

impl TimeSpan {
    /// The time itself.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for TimeSpan {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match humantime::parse_duration(text) {
            Ok(Duration::ZERO) => Err(UnitError::NoTime(text.to_owned())),
            Ok(duration) => Ok(Self(duration)),
            Err(_) => Err(UnitError::Duration(text.to_owned())),
        }
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> Option<u64> {
        text.parse().ok().map(ByteSize::bytes)
    }

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(bytes("10M"), Some(10 << 20));
        assert_eq!(bytes("64KiB"), Some(64 << 10));
        assert_eq!(bytes("18014398509481983K"), Some(u64::MAX >> 10 << 10));
        assert_eq!("1G".parse().map(MemorySize::mebibytes), Ok(1024));
        for text in ["", "M", "1", "-1M", "1.5G", "1T", "99999999999999999999M", "18014398509481985K", "ä", "1ä"] {
            assert!(bytes(text).is_none(), "{text}");
        }
        assert!(matches!("1K".parse::<MemorySize>(), Err(UnitError::NotMebibytes(_))));
        assert!(matches!("99999999G".parse::<MemorySize>(), Err(UnitError::TooMuchMemory(_))));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!("1m30s".parse().map(TimeSpan::duration), Ok(Duration::from_secs(90)));
        assert!(matches!("0s".parse::<TimeSpan>(), Err(UnitError::NoTime(_))));
        for text in ["", "30", "-1s", "soon", "99999999999999999999999s"] {
            assert!(matches!(text.parse::<TimeSpan>(), Err(UnitError::Duration(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_size_is_read_as_it_is_written(kibibytes in 0..=u64::MAX >> 10, shift in 0..40_u32, mebibytes: u32) {
            let size = ByteSize { kibibytes: kibibytes >> shift << shift };
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            let memory = MemorySize::from_mebibytes(mebibytes);
            prop_assert_eq!(memory.to_string().parse(), Ok(memory));
        }

        #[test]
        fn a_time_is_read_as_it_is_written(seconds in 0..1_u64 << 40, shift in 0..40_u32, nanos in 0..1_000_000_000_u32) {
            let time = TimeSpan(Duration::new(seconds >> shift, nanos.max(1)));
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9]{0,22}[ -~]{0,4}") {
            if let Ok(size) = text.parse::<ByteSize>() {
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
            if let Ok(time) = text.parse::<TimeSpan>() {
                prop_assert_eq!(time.to_string().parse(), Ok(time));
            }
        }
    }
}
