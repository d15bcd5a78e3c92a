//! What this machine takes and has: read when the host asks, never otherwise.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use nix::sys::statvfs::statvfs;
use nix::sys::sysinfo::sysinfo;
use sandpen_guest::protocol::Usage;

use crate::log::log;

const MEMORY: &str = "/proc/meminfo";
const PROCESSORS: &str = "/proc/stat";
/// More than what is looked for in either; it stands at the beginning.
const READ_BYTES: usize = 4096;

/// Reads it.
#[derive(Debug, Default)]
pub struct UsageReader {
    /// Held open: the workload may mount anything over /proc.
    memory: Option<File>,
    processors: Option<File>,
}

impl UsageReader {
    /// Opens what it will read. What the kernel does not tell is 0 ever after.
    pub fn open() -> Self {
        let open = |path: &str| File::open(path).map_err(|error| log!("{path}: {error}")).ok();
        Self { memory: open(MEMORY), processors: open(PROCESSORS) }
    }

    /// How it is now. `own_disk`: whether the root is written to a disk of the machine's own. Another one is the host's
    /// business, which may wait for a file server that is gone.
    pub fn read(&self, own_disk: bool) -> Usage {
        let (memory_total, memory_available) = memory(&text(self.memory.as_ref()));
        let (cpu_busy, cpu_total) = processors(&text(self.processors.as_ref()));
        let disk = own_disk.then(|| statvfs("/").ok()).flatten();
        let (disk_total, disk_free) = disk.map_or((0, 0), |disk| {
            let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
            (bytes(disk.blocks()), bytes(disk.blocks_free()))
        });
        Usage {
            cpu_busy,
            cpu_total,
            memory_total,
            memory_available,
            disk_total,
            disk_free,
            tasks: sysinfo().map_or(0, |info| u32::from(info.process_count())),
        }
    }
}

fn text(file: Option<&File>) -> String {
    let mut bytes = [0; READ_BYTES];
    let read = file.and_then(|file| file.read_at(&mut bytes, 0).ok()).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

/// All of the memory, and what could be had of it at once, in bytes.
fn memory(text: &str) -> (u64, u64) {
    let kibibytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0).saturating_mul(1024)
    };
    (kibibytes("MemTotal"), kibibytes("MemAvailable"))
}

/// Ticks in which something was done, and all, since the machine began (proc(5)): user, nice, system, idle, iowait, irq,
/// softirq, steal; what guests of this machine took is in user already.
fn processors(text: &str) -> (u64, u64) {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "));
    let ticks: Vec<u64> =
        line.unwrap_or_default().split_ascii_whitespace().take(8).map(|number| number.parse().unwrap_or(0)).collect();
    let total = ticks.iter().fold(0_u64, |sum, ticks| sum.saturating_add(*ticks));
    let idle = ticks.iter().skip(3).take(2).fold(0_u64, |sum, ticks| sum.saturating_add(*ticks));
    // What the host gave to others was none of this machine's doing.
    let stolen = ticks.get(7).copied().unwrap_or(0);
    (total.saturating_sub(idle).saturating_sub(stolen), total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        assert_eq!(memory("MemTotal:         100 kB\nMemFree: 1 kB\nMemAvailable:   40 kB\n"), (102_400, 40_960));
        for odd in ["", "MemTotal", "MemTotal: x kB\nMemAvailable:\n", "xMemTotal: 5 kB"] {
            assert_eq!(memory(odd), (0, 0), "{odd}");
        }
        assert_eq!(memory(&format!("MemTotal: {} kB\n", u64::MAX)), (u64::MAX, 0));
        let stat = "cpu  10 1 5 100 20 2 3 7 4 4\ncpu0 10 1 5 100 20 2 3 7 4 4\nctxt 5\n";
        assert_eq!(processors(stat), (21, 148));
        assert_eq!(processors("cpu 1 2"), (3, 3));
        for odd in ["", "cpu0 1 2 3", "cpu ", "cpu a b c d"] {
            assert_eq!(processors(odd), (0, 0), "{odd}");
        }
        assert_eq!(processors(&format!("cpu {0} {0} 0 {0} {0} 0 0 {0}", u64::MAX)).1, u64::MAX);
    }

    #[test]
    fn this_machine_has_all_of_it() {
        let usage = UsageReader::open().read(true);
        assert!(usage.memory_total > 0 && usage.memory_available <= usage.memory_total, "{usage:?}");
        assert!(usage.cpu_busy > 0 && usage.cpu_busy <= usage.cpu_total, "{usage:?}");
        assert!(usage.disk_total > 0 && usage.disk_free <= usage.disk_total && usage.tasks > 0, "{usage:?}");
        let nothing = UsageReader::default().read(true);
        assert_eq!((nothing.memory_total, nothing.cpu_total), (0, 0));
    }
}
