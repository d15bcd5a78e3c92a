//! How much memory a process has, by its share of each page.

use std::error::Error;

/// Proportional set size of a process in KiB: `Pss:` in /proc/PID/smaps_rollup (proc(5)).
pub fn pss_kib(pid: u32) -> Result<f64, Box<dyn Error>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
