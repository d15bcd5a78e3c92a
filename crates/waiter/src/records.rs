//! What the waiter writes down for whoever comes later.
//!
//! ```text
//! processes       "sandpen-processes 1\nboot ID\nROLE PID START_TIME\n…end\n", the waiter first
//! exit            "sandpen-exit 1\nvmm code N|signal N|unknown\nat MICROSECONDS\n[lost ROLE\n]end\n" + padding
//! ```

/// Bytes of the exit record with its padding, more than any content needs.
pub const EXIT_RECORD_BYTES: usize = 256;

/// The `processes` record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessesRecord {
    /// The boot that pids and start times are of.
    pub boot_id: String,
    /// Role, pid, start time; the waiter first.
    pub processes: Vec<(String, u32, u64)>,
}

impl ProcessesRecord {
    /// The record's bytes.
    pub fn to_text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("sandpen-processes 1\nboot {}\n", self.boot_id);
        for (role, pid, start_time) in &self.processes {
            let _ = writeln!(text, "{role} {pid} {start_time}");
        }
        text + "end\n"
    }

    /// Reads them again; `None` where they are not whole.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix("\nend\n")?.lines();
        if lines.next()? != "sandpen-processes 1" {
            return None;
        }
        let boot_id = lines.next()?.strip_prefix("boot ")?.to_owned();
        let process = |line: &str| {
            let mut words = line.split(' ');
            let process = (words.next()?.to_owned(), words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            words.next().is_none().then_some(process)
        };
        let processes = lines.map(process).collect::<Option<Vec<_>>>()?;
        Some(Self { boot_id, processes })
    }
}

/// How a VMM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordedEnd {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// Its parent was gone, and nobody else is told.
    Unknown,
}

/// The `exit` record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitRecord {
    /// How.
    pub end: RecordedEnd,
    /// When: microseconds since 1970.
    pub at_micros: i64,
    /// The companion whose death ended the VMM.
    pub lost: Option<String>,
}

impl ExitRecord {
    /// Always [`EXIT_RECORD_BYTES`] long.
    pub fn to_text(&self) -> String {
        let end = match self.end {
            RecordedEnd::Code(code) => format!("code {code}"),
            RecordedEnd::Signal(signal) => format!("signal {signal}"),
            RecordedEnd::Unknown => "unknown".to_owned(),
        };
        let lost = self.lost.as_ref().map_or_else(String::new, |role| format!("lost {role}\n"));
        let text = format!("sandpen-exit 1\nvmm {end}\nat {}\n{lost}end\n", self.at_micros);
        format!("{text:<EXIT_RECORD_BYTES$}")
    }

    /// Reads them again; `None` where they are not whole.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.trim_end_matches(' ').strip_suffix("\nend\n")?.lines();
        if lines.next()? != "sandpen-exit 1" {
            return None;
        }
        let end = match lines.next()?.split_once(' ')? {
            ("vmm", "unknown") => RecordedEnd::Unknown,
            ("vmm", known) => match known.split_once(' ')? {
                ("code", code) => RecordedEnd::Code(code.parse().ok()?),
                ("signal", signal) => RecordedEnd::Signal(signal.parse().ok()?),
                _ => return None,
            },
            _ => return None,
        };
        let at_micros = lines.next()?.strip_prefix("at ")?.parse().ok()?;
        let lost = match lines.next() {
            Some(line) => Some(line.strip_prefix("lost ")?.to_owned()),
            None => None,
        };
        lines.next().is_none().then_some(Self { end, at_micros, lost })
    }
}
