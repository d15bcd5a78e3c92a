//! What the processes of a microVM take of the host, from `/proc`. Looked at when somebody asks, never otherwise.
//!
//! Which processes, the waiter's record in the runtime directory says, with their start times: a pid that means another
//! process by now is passed over, also when that changes while it is looked at.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};
use sandpen_types::stats::HostUsage;
use sandpen_waiter::process_identity::{ProcessIdentity, boot_id, parse_start_time};

use crate::process_owner::ProcessOwner;
use crate::waiter::recorded_processes;

/// What the processes that are on record in a runtime directory take together; `None` where none of them runs. Blocking,
/// for a millisecond or two.
pub fn of_runtime_dir(runtime_dir: &Path) -> Option<HostUsage> {
    let recorded = recorded_processes(runtime_dir)?;
    let boot = boot_id().ok()?;
    let of_this_boot = recorded.iter().filter(|process| process.boot_id == boot);
    let each = of_this_boot.filter_map(of_process);
    each.reduce(|all, one| HostUsage {
        cpu: all.cpu.saturating_add(one.cpu),
        memory: all.memory.saturating_add(one.memory),
        processes: all.processes.saturating_add(1),
    })
}

/// Of one process, if it still is the one that is meant.
fn of_process(process: &ProcessIdentity) -> Option<HostUsage> {
    let is_meant = |stat: &[u8]| parse_start_time(stat) == Some(process.start_time);
    let read_stat = || fs::read(format!("/proc/{}/stat", process.pid)).ok().filter(|stat| is_meant(stat));
    read_stat()?;
    if !ProcessOwner::of(process.pid).ok()?.is_ours() {
        return None;
    }
    let shared = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)).ok().and_then(|text| share(&text));
    // Last: what is still true here was true of all that was read before.
    let stat = Stat::parse(&read_stat()?)?;
    let ticks = Duration::from_secs(stat.ticks) / u32::try_from(clock_ticks_per_second()).ok()?;
    let resident = || stat.resident_pages.saturating_mul(page_size() as u64);
    Some(HostUsage { cpu: ticks, memory: shared.unwrap_or_else(resident), processes: 1 })
}

/// What is of interest in a `stat` line (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// Fields 14 and 15, user and system time.
    ticks: u64,
    /// Field 24.
    resident_pages: u64,
}

impl Stat {
    /// The program's name is its own choice: fields are counted from the last parenthesis.
    fn parse(stat: &[u8]) -> Option<Self> {
        let name_end = stat.iter().rposition(|byte| *byte == b')')?;
        let fields: Vec<&str> = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?.split_ascii_whitespace().collect();
        // The first one after the name is field 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self { ticks: number(14)?.saturating_add(number(15)?), resident_pages: number(24)? })
    }
}

/// The proportional set size of a `smaps_rollup`, in bytes.
fn share(text: &str) -> Option<u64> {
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    kibibytes.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] =
        b"17 (a) b (c) S 1 17 17 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 5 0 777 1000000 300 18446744073709551615 1 1";

    #[test]
    fn the_kernels_words_are_read_whatever_a_program_is_called() {
        assert_eq!(Stat::parse(LINE), Some(Stat { ticks: 400, resident_pages: 300 }));
        assert_eq!(parse_start_time(LINE), Some(777));
        for broken in
            [&b""[..], b"17 (x", b"17 (x)", b"17 (x) S 1 2 3", b"17 (x) S a b c d e f g h i j k l m n o p q r s t u v"]
        {
            assert_eq!(Stat::parse(broken), None, "{}", String::from_utf8_lossy(broken));
        }
        let rollup = "5500-7ffd ---p 00000000 00:00 0    [rollup]\nRss:    2000 kB\nPss:    1500 kB\nPss_Dirty: 9 kB\n";
        assert_eq!(share(rollup), Some(1500 << 10));
        for broken in ["", "Pss:", "Pss: x kB", "Pss: 5", "Rss: 5 kB"] {
            assert_eq!(share(broken), None, "{broken}");
        }
    }

    #[test]
    fn only_the_process_that_is_meant_counts() {
        let own = ProcessIdentity::of(std::process::id()).unwrap();
        let usage = of_process(&own).unwrap();
        assert!(usage.memory > 0 && usage.processes == 1, "{usage:?}");
        let other = ProcessIdentity { start_time: own.start_time + 1, ..own };
        assert_eq!(of_process(&other), None, "its pid is somebody else's by now");
        let nobody = ProcessIdentity { boot_id: String::new(), pid: i32::MAX.unsigned_abs(), start_time: 1 };
        assert_eq!(of_process(&nobody), None);
        assert_eq!(of_runtime_dir(Path::new("/nothing/here")), None);
    }
}
