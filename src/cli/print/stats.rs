//! What sandboxes take: a table that is drawn anew on a terminal, lines elsewhere, or JSON.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

use sandpen::api::{SandboxStats, Stats, StatsRates};
use sandpen_types::state::Status;
use sandpen_types::visible::{Charset, visible};
use serde::Serialize;

use super::super::{stdio, terminal};
use super::{CliError, amount, bytes_wanted, is_wanted, line, short_name};

/// Between columns.
const GAP: usize = 2;
/// A name is not cut to fewer characters for the sake of a column…
const NAME_MIN: usize = 20;
/// …nor to fewer for one of the first four, which matter most.
const NAME_LEAST: usize = 8;
/// The size of a terminal that does not say.
const SIZE_DEFAULT: (usize, usize) = (24, 80);

/// What a column shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Cpu,
    Memory,
    GuestCpu,
    GuestMemory,
    Up,
    Logged,
    GuestDisk,
    Disk,
    LogRate,
    Tasks,
}

impl Column {
    /// In the order in which they are shown, behind the name.
    const SHOWN: [Self; 10] = [
        Self::Cpu,
        Self::Memory,
        Self::GuestCpu,
        Self::GuestMemory,
        Self::Disk,
        Self::GuestDisk,
        Self::Logged,
        Self::LogRate,
        Self::Tasks,
        Self::Up,
    ];
    /// Those that matter more come first: where there is no room, the last ones go.
    const BY_IMPORTANCE: [Self; 10] = [
        Self::Cpu,
        Self::Memory,
        Self::GuestCpu,
        Self::GuestMemory,
        Self::Up,
        Self::Logged,
        Self::GuestDisk,
        Self::Disk,
        Self::LogRate,
        Self::Tasks,
    ];

    fn heading(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Memory => "MEMORY",
            Self::GuestCpu => "GUEST CPU",
            Self::GuestMemory => "GUEST MEMORY",
            Self::Disk => "DISK",
            Self::GuestDisk => "GUEST /",
            Self::Logged => "LOGGED",
            Self::LogRate => "LOG/S",
            Self::Tasks => "TASKS",
            Self::Up => "UP",
        }
    }

    /// What it has at least: so that it does not move with each number.
    fn width_min(self) -> usize {
        match self {
            Self::Cpu | Self::Memory | Self::Logged => 6,
            Self::GuestCpu => 9,
            Self::GuestMemory => 12,
            Self::GuestDisk => 11,
            Self::Disk | Self::LogRate | Self::Tasks => 5,
            Self::Up => 4,
        }
    }

    fn cell(self, stats: &SandboxStats, rates: &StatsRates) -> String {
        let of = |used: u64, all: u64| format!("{}/{}", amount(used), amount(all));
        let text = match self {
            Self::Cpu => rates.host_cpu_permille.map(percent),
            Self::Memory => stats.host.map(|host| amount(host.memory_bytes)),
            Self::GuestCpu => rates.guest_cpu_permille.map(percent),
            Self::GuestMemory => stats.guest.map(|guest| of(guest.memory_used_bytes, guest.memory_total_bytes)),
            Self::Disk => stats.disk_bytes.map(amount),
            // None of its own.
            Self::GuestDisk => stats
                .guest
                .filter(|guest| guest.disk_total_bytes > 0)
                .map(|guest| of(guest.disk_used_bytes, guest.disk_total_bytes)),
            Self::Logged => Some(amount(stats.log_bytes)),
            Self::LogRate => rates.log_bytes_per_second.map(amount),
            Self::Tasks => stats.guest.map(|guest| guest.tasks.to_string()),
            Self::Up if stats.state != Status::Running => Some(visible(&stats.state.to_string())),
            Self::Up => stats.uptime_ms.map(|ms| uptime(Duration::from_millis(ms))),
        };
        text.unwrap_or_else(|| "-".to_owned())
    }
}

fn percent(permille: u64) -> String {
    format!("{}.{}%", permille / 10, permille % 10)
}

/// In its largest unit.
fn uptime(up: Duration) -> String {
    match up.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86400),
    }
}

/// A sandbox's line of JSON.
#[derive(Serialize)]
struct Entry<'a> {
    at_us: u64,
    #[serde(flatten)]
    stats: &'a SandboxStats,
    #[serde(flatten)]
    rates: StatsRates,
}

/// The lines of a table, the heading first, none of more than `width` characters.
fn table(rows: &[(SandboxStats, StatsRates)], width: usize) -> Vec<String> {
    let names: Vec<String> = rows
        .iter()
        .map(|(stats, _)| visible(&short_name(&stats.config_file, &stats.name)).replace('\n', "\\n"))
        .collect();
    let cells = |column: Column| rows.iter().map(move |(stats, rates)| column.cell(stats, rates));
    let length = |text: &str| text.chars().count();
    let width_of = |column: Column| {
        let widest = cells(column).map(|cell| length(&cell)).max().unwrap_or(0);
        widest.max(column.width_min()).max(length(column.heading()))
    };
    let longest_name = names.iter().map(|name| length(name)).max().unwrap_or(0).max(length("NAME"));
    let mut columns = Vec::new();
    let mut used = 0;
    for (rank, column) in Column::BY_IMPORTANCE.into_iter().enumerate() {
        let name = longest_name.min(if rank < 4 { NAME_LEAST } else { NAME_MIN });
        let with = used + GAP + width_of(column);
        if name + with > width {
            break;
        }
        used = with;
        columns.push(column);
    }
    let name_width = longest_name.min(width.saturating_sub(used)).max(1);
    let shown: Vec<Column> = Column::SHOWN.into_iter().filter(|column| columns.contains(column)).collect();
    let cut = |text: &str, width: usize| match length(text) > width {
        true => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    };
    let join = |name: &str, cells: &mut dyn Iterator<Item = String>| {
        let mut line = format!("{:name_width$}", cut(name, name_width));
        for (cell, column) in cells.zip(&shown) {
            let _ = write!(line, "{:GAP$}{cell:>1$}", "", width_of(*column)); // a String takes everything
        }
        cut(line.trim_end(), width)
    };
    let heading = join("NAME", &mut shown.iter().map(|column| column.heading().to_owned()));
    let lines = names
        .iter()
        .zip(rows)
        .map(|(name, (stats, rates))| join(name, &mut shown.iter().map(|column| column.cell(stats, rates))));
    std::iter::once(heading).chain(lines).collect()
}

/// Shows one sample after the other.
pub struct StatsPrinter {
    json: bool,
    /// Whether it is drawn anew over what is there.
    draws: bool,
    before: Option<Stats>,
    rows: Vec<(SandboxStats, StatsRates)>,
    /// The characters of each line that is on the terminal.
    drawn: Vec<usize>,
    has_heading: bool,
}

impl StatsPrinter {
    /// For samples that follow each other, or for the difference of two.
    pub fn new(json: bool, streams: bool) -> Self {
        let draws = streams && !json && io::stdout().is_terminal();
        Self { json, draws, before: None, rows: Vec::new(), drawn: Vec::new(), has_heading: false }
    }

    /// Takes a sample, and shows what was done since the one before; false when nobody reads any more.
    pub fn sample(&mut self, stats: Stats) -> Result<bool, CliError> {
        let before = self.before.take();
        let elapsed = before.as_ref().map_or(0, |before| stats.at_us.saturating_sub(before.at_us));
        let rates = |after: &SandboxStats| {
            let same = |other: &&SandboxStats| (&other.config_file, &other.name) == (&after.config_file, &after.name);
            let other = before.as_ref().and_then(|before| before.sandboxes.iter().find(same));
            other.map_or_else(StatsRates::default, |other| {
                StatsRates::between(other, after, Duration::from_micros(elapsed))
            })
        };
        self.rows = stats.sandboxes.iter().map(|after| (after.clone(), rates(after))).collect();
        let at_us = stats.at_us;
        let is_first = before.is_none();
        self.before = Some(stats);
        if self.draws {
            return self.redraw();
        }
        // Rates are all that is of interest to whoever reads one after the other.
        if is_first {
            return Ok(true);
        }
        if self.json {
            for (stats, rates) in &self.rows {
                if !line(&Entry { at_us, stats, rates: *rates }, true, |_| String::new())? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        let width = if io::stdout().is_terminal() { terminal_size().1 } else { usize::MAX };
        let lines = table(&self.rows, width);
        let skipped = usize::from(self.has_heading);
        self.has_heading = true;
        let text: String = lines.iter().skip(skipped).map(|line| format!("{line}\n")).collect();
        bytes_wanted(text.as_bytes())
    }

    /// Draws the last sample over what is there, in the terminal's size of now; false when nobody reads any more.
    pub fn redraw(&mut self) -> Result<bool, CliError> {
        if !self.draws || self.before.is_none() {
            return Ok(true);
        }
        let (height, width) = terminal_size();
        let mut lines = table(&self.rows, width);
        // One line stays free for the cursor.
        let room = height.saturating_sub(1).max(1);
        if lines.len() > room {
            let left_out = lines.len() - room + 1;
            lines.truncate(room - 1);
            lines.push(format!("… and {left_out} more").chars().take(width).collect());
        }
        // A terminal that has become narrower has broken what was there into more lines.
        let before: usize = self.drawn.iter().map(|chars| chars.div_ceil(width.max(1)).max(1)).sum();
        let mut text = String::new();
        if before > 0 {
            let _ = write!(text, "\x1b[{}A", before.min(height.saturating_sub(1).max(1)));
        }
        text.push_str("\r\x1b[J");
        let is_ascii = terminal::charset(&io::stdout()) == Some(Charset::Ascii);
        for line in &lines {
            text.push_str(&if is_ascii { line.replace('…', "~") } else { line.clone() });
            text.push_str("\r\n");
        }
        self.drawn = lines.iter().map(|line| line.chars().count()).collect();
        // Names are of a few characters, and all else is numbers: nothing of a guest's is in it.
        let mut stdout = stdio::stdout();
        is_wanted(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
    }
}

/// Rows and columns of the terminal that is written to.
fn terminal_size() -> (usize, usize) {
    terminal::size_of(&io::stdout()).filter(|(rows, cols)| *rows > 0 && *cols > 0).unwrap_or(SIZE_DEFAULT)
}

#[cfg(test)]
mod tests {
    use sandpen::api::{GuestStats, HostStats};

    use super::*;

    fn row(name: &str, config: &str) -> (SandboxStats, StatsRates) {
        let stats = SandboxStats {
            name: name.to_owned(),
            config_file: config.to_owned(),
            generation: 1,
            state: Status::Running.into(),
            uptime_ms: Some(3_700_000),
            cpus: 2,
            host: Some(HostStats { cpu_us: 1, memory_bytes: 300 << 20, processes: 3 }),
            guest: Some(GuestStats {
                cpu_busy_ticks: 1,
                cpu_total_ticks: 2,
                memory_used_bytes: 45 << 20,
                memory_total_bytes: 232 << 20,
                disk_used_bytes: 1300 << 20,
                disk_total_bytes: 4 << 30,
                tasks: 71,
            }),
            disk_bytes: Some(17 << 20),
            log_bytes: 5000,
        };
        let rates = StatsRates {
            host_cpu_permille: Some(1043),
            guest_cpu_permille: Some(998),
            log_bytes_per_second: Some(1536),
        };
        (stats, rates)
    }

    fn rows() -> Vec<(SandboxStats, StatsRates)> {
        let (busy, rates) = row("busy", "default");
        let silent = SandboxStats { name: "silent".into(), guest: None, disk_bytes: None, ..busy.clone() };
        let ended = SandboxStats {
            name: "a-name-that-is-rather-long-for-a-sandbox".into(),
            config_file: "other".into(),
            state: Status::Stopped.into(),
            uptime_ms: None,
            host: None,
            guest: None,
            ..busy.clone()
        };
        let silent_rates = StatsRates { guest_cpu_permille: None, log_bytes_per_second: Some(0), ..rates };
        vec![(busy, rates), (silent, silent_rates), (ended, StatsRates::default())]
    }

    #[test]
    fn at_200_columns_all_is_shown() {
        let expected = [
            "NAME                                               CPU  MEMORY  GUEST CPU  GUEST MEMORY   DISK      GUEST /  LOGGED  LOG/S  TASKS       UP",
            "busy                                            104.3%    300M      99.8%      45M/232M    17M    1.3G/4.0G    4.9K   1.5K     71       1h",
            "silent                                          104.3%    300M          -             -      -            -    4.9K     0B      -       1h",
            "other/a-name-that-is-rather-long-for-a-sandbox       -       -          -             -    17M            -    4.9K      -      -  STOPPED",
        ];
        assert_eq!(table(&rows(), 200), expected);
    }

    #[test]
    fn at_80_columns_the_less_important_is_left_out() {
        let expected = [
            "NAME                       CPU  MEMORY  GUEST CPU  GUEST MEMORY  LOGGED       UP",
            "busy                    104.3%    300M      99.8%      45M/232M    4.9K       1h",
            "silent                  104.3%    300M          -             -    4.9K       1h",
            "other/a-name-that-is-…       -       -          -             -    4.9K  STOPPED",
        ];
        assert_eq!(table(&rows(), 80), expected);
        let expected = [
            "NAME       CPU  MEMORY  GUEST CPU  GUEST MEMORY      GUEST /  LOGGED    UP",
            "busy    104.3%    300M      99.8%      45M/232M    1.3G/4.0G    4.9K    1h",
            "silent  104.3%    300M          -             -            -    4.9K    1h",
        ];
        assert_eq!(table(&rows()[..2], 80), expected);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in 1..220 {
            let lines = table(&rows(), width);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}: {lines:#?}");
            assert!(lines.len() == 4);
        }
        assert_eq!(table(&[], 80).len(), 1, "a heading alone");
    }

    #[test]
    fn a_name_that_is_none_cannot_speak_to_the_terminal() {
        let odd = row("a\u{1b}[2J\nb", "default");
        let lines = table(&[odd], 200);
        assert!(lines.iter().all(|line| !line.contains(['\u{1b}', '\n'])), "{lines:?}");
    }
}
