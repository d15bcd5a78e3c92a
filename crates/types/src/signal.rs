//! Signals as users write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The names of Linux's signals from 1 on, without `SIG`; the same on x86-64 and aarch64.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// Why a signal cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// A number that no signal has.
    #[error("signal {0} does not exist")]
    Number(i32),
    /// A name that no signal has.
    #[error("there is no signal {0:?}; give a name such as TERM or RTMIN+3, or a number from 1 to 64")]
    Name(String),
}

/// The real-time signals: their first is 34, as the C libraries keep two for themselves (signal(7)).
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=Signal::MAX;

/// A signal's number, 1 to 64. Read from `TERM`, `SIGTERM`, `15`, `RTMIN+3` or `RTMAX-1`; a number in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Signal(i32);

impl Signal {
    /// The largest number: `SIGRTMAX` of Linux on every architecture that we run on.
    pub const MAX: i32 = 64;

    /// A signal by its number.
    ///
    /// # Errors
    /// [`SignalError::Number`] outside of 1 to 64.
    pub fn new(number: i32) -> Result<Self, SignalError> {
        if (1..=Self::MAX).contains(&number) { Ok(Self(number)) } else { Err(SignalError::Number(number)) }
    }

    /// Its number.
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = SignalError;

    fn from_str(text: &str) -> Result<Self, SignalError> {
        if let Ok(number) = text.parse::<i32>() {
            return Self::new(number);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(number) = real_time(name) {
            return Ok(Self(number));
        }
        let found = (1..).zip(NAMES).find(|(_, known)| *known == name);
        found.map(|(number, _)| Self(number)).ok_or_else(|| SignalError::Name(text.to_owned()))
    }
}

/// `RTMIN`, `RTMIN+N`, `RTMAX` or `RTMAX-N`.
fn real_time(name: &str) -> Option<i32> {
    let distance = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => REAL_TIME.start() + distance(rest, '+')?,
        (_, Some(rest)) => REAL_TIME.end() - distance(rest, '-')?,
        _ => return None,
    };
    REAL_TIME.contains(&number).then_some(number)
}

impl TryFrom<i32> for Signal {
    type Error = SignalError;

    fn try_from(number: i32) -> Result<Self, SignalError> {
        Self::new(number)
    }
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> Self {
        signal.0
    }
}

impl fmt::Display for Signal {
    /// Its name, or the number of one that has none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = usize::try_from(self.0 - 1).ok().and_then(|place| NAMES.get(place));
        match name {
            Some(name) => f.pad(name),
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["KILL", "SIGKILL", "kill", "9", "SigKill"] {
            assert_eq!(text.parse(), Ok(Signal(9)), "{text}");
        }
        for text in ["", "0", "65", "-9", "SIG", "NOPE", "9999999999", "SIGSIGKILL", " KILL"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
        for number in 1..=Signal::MAX {
            assert_eq!(Signal(number).to_string().parse(), Ok(Signal(number)));
        }
        for (text, number) in [("RTMIN", 34), ("sigrtmin+3", 37), ("RTMAX", 64), ("RTMAX-30", 34), ("SIGRTMIN+30", 64)]
        {
            assert_eq!(text.parse(), Ok(Signal(number)), "{text}");
        }
        for text in ["RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMAX-31", "RTMIN+", "RTMIN3", "RTMIN+-1", "RT"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
        assert_eq!(serde_json::from_str::<Signal>("37").unwrap(), Signal(37));
        assert!(serde_json::from_str::<Signal>("0").is_err() && serde_json::from_str::<Signal>("\"TERM\"").is_err());
        assert_eq!(Signal(15).to_string(), "TERM");
        assert_eq!(Signal(34).to_string(), "34");
    }
}
