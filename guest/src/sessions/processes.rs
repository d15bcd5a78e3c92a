//! The machine's processes, as `/proc` has them: one JSON object a line, see `ProcessEntry` of sandpen's types.
//!
//! Runs in a process of its own, as root: only that sees all of everybody's, and what `/proc` says of a process may have
//! to be waited for.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::time::Duration;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf, write};

use crate::users;

/// Most bytes of a command.
const COMMAND_MAX: usize = 4096;
/// `PF_KTHREAD` of the kernel's flags of a process.
const KERNEL_THREAD: u64 = 0x0020_0000;
/// Bytes that are written at once.
const PIECE: usize = 16 << 10;

/// Writes the list to standard output; gives the exit code.
pub fn list() -> u8 {
    u8::from(try_list().is_err())
}

fn try_list() -> io::Result<()> {
    let machine = Machine::look();
    let own = std::process::id();
    // In the order of their numbers.
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut text = String::new();
    for pid in pids.filter(|pid| *pid != own) {
        // One that has ended meanwhile is none.
        if let Some(line) = machine.line(pid) {
            text.push_str(&line);
        }
        if text.len() >= PIECE {
            write_all(text.as_bytes())?;
            text.clear();
        }
    }
    write_all(text.as_bytes())
}

/// By descriptor: another thread of a test's process may have had the standard library's lock when this one was made.
fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(io::stdout(), bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// What all processes have in common.
struct Machine {
    names: Vec<(u32, String)>,
    /// Since it began.
    age: Duration,
    ticks_a_second: u64,
    page: u64,
}

impl Machine {
    fn look() -> Self {
        let number = |variable, usual: u64| {
            sysconf(variable).ok().flatten().and_then(|number| u64::try_from(number).ok()).unwrap_or(usual).max(1)
        };
        Self {
            names: users::names(),
            age: clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from),
            ticks_a_second: number(SysconfVar::CLK_TCK, 100),
            page: number(SysconfVar::PAGE_SIZE, 4096),
        }
    }

    fn line(&self, pid: u32) -> Option<String> {
        let file = |name: &str, most: usize| {
            let mut bytes = Vec::new();
            let file = fs::File::open(format!("/proc/{pid}/{name}")).ok()?;
            file.take(most as u64).read_to_end(&mut bytes).ok()?;
            Some(bytes)
        };
        let status = file("status", 8192)?;
        // What is beyond the limit is looked at for nothing but trailing ends.
        self.entry(pid, &file("stat", 4096)?, &status, &file("cmdline", COMMAND_MAX)?)
    }

    /// `None` for what is no process of the user's.
    fn entry(&self, pid: u32, stat: &[u8], status: &[u8], cmdline: &[u8]) -> Option<String> {
        let stat = Stat::parse(stat)?;
        if stat.flags & KERNEL_THREAD != 0 {
            return None;
        }
        let uid = effective_uid(status)?;
        let user = self.names.iter().find(|(known, _)| *known == uid).map(|(_, name)| name.as_str());
        let milliseconds = |ticks: u64| ticks.saturating_mul(1000) / self.ticks_a_second;
        let age = u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX).saturating_sub(milliseconds(stat.start));
        let mut line = format!("{{\"pid\":{pid},\"ppid\":{},\"user\":", stat.parent);
        quote(&mut line, &user.map_or_else(|| uid.to_string(), str::to_owned));
        let (cpu, memory) = (milliseconds(stat.ticks), stat.pages.saturating_mul(self.page));
        let _ = write!(line, ",\"cpu_ms\":{cpu},\"memory\":{memory},\"state\":");
        quote(&mut line, stat.state);
        let _ = write!(line, ",\"age_ms\":{age},\"command\":");
        quote(&mut line, &command(cmdline, stat.name));
        line.push_str("}\n");
        Some(line)
    }
}

/// What is of interest in `/proc/PID/stat` (proc(5)).
struct Stat<'a> {
    name: &'a [u8],
    state: &'a str,
    parent: u32,
    flags: u64,
    ticks: u64,
    start: u64,
    pages: u64,
}

impl<'a> Stat<'a> {
    /// The name may have anything in it, parentheses too.
    fn parse(stat: &'a [u8]) -> Option<Self> {
        let open = stat.iter().position(|byte| *byte == b'(')?;
        let close = stat.iter().rposition(|byte| *byte == b')')?;
        let name = stat.get(open + 1..close)?;
        // Numbered from 3 on.
        let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let numbers: Vec<i64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
        let number = |field: usize| numbers.get(field - 4).map(|number| u64::try_from(*number).unwrap_or(0));
        Some(Self {
            name,
            state: state.get(..1)?,
            parent: u32::try_from(number(4)?).unwrap_or(0),
            flags: number(9)?,
            ticks: number(14)?.saturating_add(number(15)?),
            start: number(22)?,
            pages: number(24)?,
        })
    }
}

/// Of the line `Uid:` the second number.
fn effective_uid(status: &[u8]) -> Option<u32> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Arguments with spaces between them, or the name in brackets.
fn command(cmdline: &[u8], name: &[u8]) -> String {
    let end = cmdline.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut command = match &cmdline[..end] {
        [] => format!("[{}]", String::from_utf8_lossy(name)),
        arguments => String::from_utf8_lossy(arguments).replace('\0', " "),
    };
    command.truncate(command.floor_char_boundary(COMMAND_MAX));
    command
}

/// A JSON string.
fn quote(line: &mut String, text: &str) {
    line.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            '\0'..='\x1F' => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            _ => line.push(c),
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let names = vec![(0, "root".to_owned()), (33, "w\"eb".to_owned()), (33, "second".to_owned())];
        Machine { names, age: Duration::from_secs(100), ticks_a_second: 100, page: 4096 }
    }

    const REST: &str = "S 1 7 7 0 -1 4194560 1 0 0 0 12 30 0 0 20 0 1 0 2500 99999 3 18446744073709551615 1 1";
    const STATUS: &[u8] = b"Name:\tx\nUid:\t0\t33\t0\t0\nGid:\t0\n";

    #[test]
    fn a_process_is_one_line() {
        let stat = format!("42 (a) (b) {REST}");
        let line = machine().entry(42, stat.as_bytes(), STATUS, b"sh\0-c\0say \"\\\x01\n\xFF\"\0\0").unwrap();
        assert_eq!(
            line,
            "{\"pid\":42,\"ppid\":1,\"user\":\"w\\\"eb\",\"cpu_ms\":420,\"memory\":12288,\"state\":\"S\",\
             \"age_ms\":75000,\"command\":\"sh -c say \\\"\\\\\\u0001\\u000a\u{FFFD}\\\"\"}\n"
        );
        let line = machine().entry(42, stat.as_bytes(), b"Uid:\t5\t5", b"").unwrap();
        assert!(line.contains("\"user\":\"5\"") && line.ends_with("\"command\":\"[a) (b]\"}\n"), "{line}");
        let kernel = stat.replace("4194560", "69238880");
        assert_eq!(machine().entry(42, kernel.as_bytes(), STATUS, b""), None);
        for odd in ["", "1 (x", "1 x) S 1", "1 (x) S", "1 (x) S 1 1 1 1 1 1", ")("] {
            assert_eq!(machine().entry(1, odd.as_bytes(), STATUS, b""), None, "{odd}");
        }
    }

    #[test]
    fn a_command_is_cut_between_characters() {
        assert_eq!(command(&[b'x'; 5000], b"").len(), COMMAND_MAX);
        let cut = command(&[0xFF; 5000], b"");
        assert_eq!(cut.len(), COMMAND_MAX / 3 * 3);
        assert_eq!(command(&[0; 10], b"name"), "[name]");
    }
}
