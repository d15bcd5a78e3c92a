//! Many sandboxes at once over one image, against as many over the disk of one root directory, in turn: how long each
//! takes to start, and what all of them take of the host's disk and memory.

use std::path::Path;
use std::time::Instant;

use futures::StreamExt as _;
use sandpen::actors::spec::{Resources, RootDevice, Rootfs, SandboxName};
use sandpen::api::CreateSandbox;
use sandpen::client::Client;

use super::load::mib;
use super::pss::pss_kib;
use super::report::{Report, median};
use super::setup::{Setup, disk_bytes, settle};
use super::{Result, number, start};

/// Memory of one microVM in MiB.
const MEMORY_MIB: u32 = 128;
const COLUMNS: [&str; 6] = [
    "s a start, median",
    "s a start, p95",
    "s until all run",
    "MiB more on disk",
    "MiB PSS of VMMs",
    "MiB less of memory available",
];

/// Rounds of both.
pub fn measure(setup: &Setup, tree: &Path) -> Result<()> {
    let (client, count) = (setup.client()?, number("FLEET", 100));
    let image = Rootfs::Image(sandpen::actors::spec::ImageRoot::new(start::NAME.parse()?));
    let sides = [("sandpen, an image", image), ("sandpen, --root image", Rootfs::Overlayfs(vec![tree.to_owned()]))];
    let case = format!("{count} at once");
    let mut report = Report::new("images-fleet", &COLUMNS);
    for run in 0..=number("RUNS", 3) {
        for (who, root) in &sides {
            // The first round makes the templates, with few, and does not count.
            let size = if run == 0 { 2 } else { count };
            let figures = setup.runtime.block_on(one(setup, &client, root, size, run))?;
            println!("{size} of {who}: {:.2} s until all run", figures[2]);
            if run > 0 {
                report.add(&case, who, figures);
            }
        }
    }
    Ok(report.publish()?)
}

async fn one(setup: &Setup, client: &Client, root: &Rootfs, count: usize, run: usize) -> Result<Vec<f64>> {
    let spec = |number: usize| -> Result<CreateSandbox> {
        let name = SandboxName::new(format!("fleet-{run}-{number}"))?;
        let command = vec!["sleep".into(), "100000".into()];
        let mut spec = CreateSandbox::new(name, root.clone(), command);
        spec.resources = Resources { cpus: 1, memory_mib: MEMORY_MIB };
        if matches!(root, Rootfs::Overlayfs(_)) {
            spec.root_device = RootDevice::Disk;
        }
        Ok(spec)
    };
    let specs = (0..count).map(spec).collect::<Result<Vec<_>>>()?;
    let disk = || -> Result<u64> { Ok(disk_bytes(&setup.state())? + disk_bytes(&setup.data())?) };
    settle()?;
    let (disk_before, memory_before, begun) = (disk()?, available_mib()?, Instant::now());
    let start = |spec| async move {
        let begun = Instant::now();
        client.start_sandbox(spec).await.map(|sandbox| (begun.elapsed().as_secs_f64(), sandbox.microvm_pid))
    };
    let started: Vec<_> = futures::stream::iter(&specs).map(start).buffer_unordered(count).collect().await;
    let all = begun.elapsed().as_secs_f64();
    let started = started.into_iter().collect::<std::result::Result<Vec<_>, _>>()?;
    let mut times: Vec<_> = started.iter().map(|(time, _)| *time).collect();
    times.sort_by(f64::total_cmp);
    let p95 = times.get(times.len() * 95 / 100).copied().unwrap_or(f64::NAN);
    settle()?;
    let disk = disk()?.saturating_sub(disk_before);
    let memory = memory_before - available_mib()?;
    let pss = started.iter().filter_map(|(_, pid)| *pid).map(pss_kib).sum::<Result<f64>>()?;
    let removed = futures::stream::iter(&specs).map(|spec| client.remove(&spec.key, true)).buffer_unordered(8);
    let removed: Vec<_> = removed.collect().await;
    removed.into_iter().collect::<std::result::Result<(), _>>()?;
    Ok(vec![median(&times), p95, all, mib(disk), pss / 1024.0, memory])
}

/// What the kernel could give to programs: free, or a cache that it can do without (`MemAvailable`, proc(5)).
fn available_mib() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).ok_or("no MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}
