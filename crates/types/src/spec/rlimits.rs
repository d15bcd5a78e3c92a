//! Limits of the workload's process, as `setrlimit(2)` has them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::SpecError;

/// What is limited; the name is that of the `RLIMIT_` constant. The order is that of the constants'
/// numbers in Linux's asm-generic/resource.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RlimitName {
    /// Processor time in seconds.
    Cpu,
    /// Size of a file that is written.
    Fsize,
    /// Data segment: heap and private mappings.
    Data,
    /// Stack of the main thread.
    Stack,
    /// Size of a core dump.
    Core,
    /// Resident memory; Linux does not enforce it.
    Rss,
    /// Processes of the user; does not hold for root.
    Nproc,
    /// Open files: one more than the highest descriptor.
    Nofile,
    /// Locked memory.
    Memlock,
    /// Address space.
    As,
    /// File locks; Linux does not enforce it.
    Locks,
    /// Queued signals.
    Sigpending,
    /// Bytes in POSIX message queues.
    Msgqueue,
    /// Ceiling of the nice value, as 20 - nice.
    Nice,
    /// Ceiling of the real-time priority.
    Rtprio,
    /// Real-time processor time without a blocking system call, in microseconds.
    Rttime,
}

impl RlimitName {
    /// Every one, by its number.
    pub const ALL: [Self; 16] = [
        Self::Cpu,
        Self::Fsize,
        Self::Data,
        Self::Stack,
        Self::Core,
        Self::Rss,
        Self::Nproc,
        Self::Nofile,
        Self::Memlock,
        Self::As,
        Self::Locks,
        Self::Sigpending,
        Self::Msgqueue,
        Self::Nice,
        Self::Rtprio,
        Self::Rttime,
    ];

    /// The word for it on the command line and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Fsize => "fsize",
            Self::Data => "data",
            Self::Stack => "stack",
            Self::Core => "core",
            Self::Rss => "rss",
            Self::Nproc => "nproc",
            Self::Nofile => "nofile",
            Self::Memlock => "memlock",
            Self::As => "as",
            Self::Locks => "locks",
            Self::Sigpending => "sigpending",
            Self::Msgqueue => "msgqueue",
            Self::Nice => "nice",
            Self::Rtprio => "rtprio",
            Self::Rttime => "rttime",
        }
    }

    /// The number of the `RLIMIT_` constant.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

/// A limit's value: a number, or none at all (`unlimited`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RlimitValue(u64);

impl RlimitValue {
    /// No limit (`RLIM_INFINITY`), larger than every other one.
    pub const UNLIMITED: Self = Self(u64::MAX);

    /// A number; `u64::MAX` is [`RlimitValue::UNLIMITED`].
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number that the kernel takes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

const UNLIMITED: &str = "unlimited";

impl fmt::Display for RlimitValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::UNLIMITED { f.write_str(UNLIMITED) } else { self.0.fmt(f) }
    }
}

impl Serialize for RlimitValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == Self::UNLIMITED { serializer.serialize_str(UNLIMITED) } else { serializer.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for RlimitValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Value {
            Number(u64),
            Word(String),
        }
        match Value::deserialize(deserializer) {
            Ok(Value::Number(number)) => Ok(Self(number)),
            Ok(Value::Word(word)) if word == UNLIMITED => Ok(Self::UNLIMITED),
            _ => Err(serde::de::Error::custom("a limit is a number from 0 or \"unlimited\"")),
        }
    }
}

/// Most open files that Linux lets a process have on 64-bit machines (the largest `fs.nr_open`).
pub const NOFILE_MAX: u64 = 0x7fff_ffc0;

/// One limit. As text `NAME=SOFT[:HARD]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// What is limited.
    pub name: RlimitName,
    /// What holds at first; the workload may raise it up to `hard`.
    pub soft: RlimitValue,
    /// Never less than `soft`.
    pub hard: RlimitValue,
}

impl fmt::Display for Rlimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}:{}", self.name.as_str(), self.soft, self.hard)
    }
}

impl FromStr for Rlimit {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let refused = |reason: &str| SpecError::Rlimit { text: text.to_owned(), reason: reason.to_owned() };
        let (name, values) = text.split_once('=').ok_or_else(|| refused("it is not of the form NAME=SOFT[:HARD]"))?;
        let name = RlimitName::ALL.into_iter().find(|known| known.as_str() == name).ok_or_else(|| {
            let names = RlimitName::ALL.map(RlimitName::as_str).join(" ");
            refused(&format!("there is no such limit; there are {names}"))
        })?;
        let value = |text: &str| {
            // `parse` would take a sign.
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            match text {
                UNLIMITED => Some(RlimitValue::UNLIMITED),
                _ if digits => text.parse().ok().map(RlimitValue),
                _ => None,
            }
            .ok_or_else(|| refused("a value is a number from 0 or \"unlimited\""))
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let limit = Self { name, soft: value(soft)?, hard: value(hard)? };
        limit.check().map(|()| limit)
    }
}

impl Rlimit {
    fn check(&self) -> Result<(), SpecError> {
        let refused = |reason: String| Err(SpecError::Rlimit { text: self.to_string(), reason });
        if self.soft > self.hard {
            return refused("the soft limit is above the hard one".to_owned());
        }
        if self.name == RlimitName::Nofile && self.hard.get() > NOFILE_MAX {
            return refused(format!("Linux allows at most {NOFILE_MAX} open files"));
        }
        Ok(())
    }
}

/// Checks each limit, and that there is one of a name.
pub(super) fn check(limits: &[Rlimit]) -> Result<(), SpecError> {
    for (number, limit) in limits.iter().enumerate() {
        limit.check()?;
        if limits[..number].iter().any(|other| other.name == limit.name) {
            let reason = format!("{} is limited twice", limit.name.as_str());
            return Err(SpecError::Rlimit { text: limit.to_string(), reason });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![0..5000_u64, any::<u64>(), Just(u64::MAX)]
    }

    proptest! {
        #[test]
        fn a_limit_is_read_as_it_is_written(name in 0..16_usize, a in value(), b in value()) {
            let (soft, hard) = (RlimitValue(a.min(b)), RlimitValue(a.max(b)));
            let limit = Rlimit { name: RlimitName::ALL[name], soft, hard };
            let read = limit.to_string().parse::<Rlimit>();
            if limit.name == RlimitName::Nofile && hard.get() > NOFILE_MAX {
                prop_assert!(read.is_err());
            } else {
                prop_assert_eq!(read, Ok(limit));
            }
            let json = serde_json::to_string(&limit).unwrap();
            prop_assert_eq!(serde_json::from_str::<Rlimit>(&json).unwrap(), limit);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(nofile|core|as|x)?=?[0-9:unlimited+ -]{0,24}") {
            if let Ok(limit) = text.parse::<Rlimit>() {
                prop_assert!(limit.soft <= limit.hard);
                prop_assert_eq!(limit.to_string().parse::<Rlimit>(), Ok(limit));
            }
        }
    }

    #[test]
    fn names_and_numbers_are_linuxs() {
        for (number, name) in (0..).zip(RlimitName::ALL) {
            assert_eq!(name.number(), number);
            assert_eq!(serde_json::to_value(name).unwrap(), name.as_str());
        }
        assert_eq!((RlimitName::Nofile.number(), RlimitName::Rttime.number()), (7, 15));
    }

    #[test]
    fn one_value_is_both() {
        let limit: Rlimit = "core=0".parse().unwrap();
        assert_eq!((limit.soft.get(), limit.hard.get()), (0, 0));
        let limit: Rlimit = "stack=8388608:unlimited".parse().unwrap();
        assert_eq!((limit.soft.get(), limit.hard), (8 << 20, RlimitValue::UNLIMITED));
        assert_eq!(limit.to_string(), "stack=8388608:unlimited");
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for text in [
            "",
            "=",
            "nofile",
            "nofile=",
            "nofile=:",
            "nofile=1:",
            "nofile=:1",
            "nofile=2:1",
            "nofile=unlimited:1",
            "nofile=unlimited",
            "nofile=2147483585",
            "NOFILE=1",
            "files=1",
            "core=-1",
            "core=+1",
            "core= 1",
            "core=1k",
            "core=18446744073709551616",
            "core=1:2:3",
            "core=Unlimited",
            "core=1 ",
        ] {
            assert!(matches!(text.parse::<Rlimit>(), Err(SpecError::Rlimit { .. })), "{text:?}");
        }
        let twice = ["core=1", "cpu=1", "core=2"].map(|text| text.parse().unwrap());
        assert!(check(&twice[..2]).is_ok() && check(&twice).is_err());
        for json in [
            r#"{"name":"core","soft":1}"#,
            r#"{"name":"core","soft":null,"hard":1}"#,
            r#"{"name":"core","soft":"1","hard":1}"#,
        ] {
            assert!(serde_json::from_str::<Rlimit>(json).is_err(), "{json}");
        }
    }
}
