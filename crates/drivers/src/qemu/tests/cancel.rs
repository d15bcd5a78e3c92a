//! Starts that are given up, at every moment: nothing of them is left.

use std::time::Instant;

use sandpen_types::spec::RootDevice;

use super::*;

/// When a start is given up: from before its first step to after it is made.
const MOMENTS: [u64; 14] = [0, 2, 5, 10, 20, 40, 60, 90, 130, 200, 350, 700, 1500, 4000];
/// How long that may take on a busy machine. Alone it takes some hundredths of a second.
const SOON: Duration = Duration::from_secs(5);

/// A start of a sandbox of this name: no other test has its cgroup.
fn start_of(host: &Host, name: &str) -> Launch {
    let launch = host.shell("sleep 1000");
    let mut spec = SandboxSpec::clone(&launch.spec);
    spec.key.name = SandboxName::new(name).unwrap();
    let runtime_dir = host.config.state_dir.runtime(&spec.key);
    Launch { spec: Arc::new(spec), runtime_dir, cancel: tokio_util::sync::CancellationToken::new(), ..launch }
}

fn with_image(mut launch: Launch) -> Launch {
    let mut spec = SandboxSpec::clone(&launch.spec);
    spec.rootfs = Rootfs::Overlayfs(spec.rootfs.paths().into_iter().map(Path::to_owned).collect());
    spec.root_device = RootDevice::Disk;
    launch.spec = Arc::new(spec);
    launch
}

/// What there is of a start: processes, drafts, its runtime directory, its cgroup.
fn remains(host: &Host, launch: &Launch) -> Vec<String> {
    let base = host.directory.path();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let command_line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
        let cwd = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if pid != std::process::id() && (command_line.contains(base.to_str().unwrap()) || cwd.starts_with(base)) {
            found.push(format!("process {pid}: {command_line}"));
        }
    }
    let mut directories = vec![base.join("state/cache"), base.join("state/disks")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let is_building = directory.ends_with("building");
            if is_building || entry.file_name().to_string_lossy().starts_with('.') {
                found.push(entry.path().display().to_string());
            } else if entry.path().is_dir() {
                directories.push(entry.path());
            }
        }
    }
    let cgroups = crate::confine::cgroup::plan(launch, 0).map(|plan| plan.paths()).unwrap_or_default();
    let places = cgroups.into_iter().chain([launch.runtime_dir.clone()]);
    found.extend(places.filter(|path| path.exists()).map(|path| path.display().to_string()));
    found
}

/// Cancels a start after so many milliseconds; whether it was made nevertheless, and how long its end took.
async fn cancel_after(host: &Host, driver: &QemuDriver, launch: &Launch, moment: u64) -> (bool, Duration) {
    let launch = Launch { cancel: tokio_util::sync::CancellationToken::new(), ..launch.clone() };
    let start = tokio::spawn(driver.launch(launch.clone()));
    tokio::time::sleep(Duration::from_millis(moment)).await;
    launch.cancel.cancel();
    let cancelled = Instant::now();
    let made = tokio::time::timeout(DEADLINE, start).await.expect("it goes on").unwrap();
    let took = cancelled.elapsed();
    let is_made = match made {
        Ok(vmm) => {
            vmm.process.signal_vmm(SIGKILL).unwrap();
            vmm.process.release().await.unwrap();
            true
        }
        Err(DriverError::Cancelled) => {
            let left = remains(host, &launch);
            assert!(left.is_empty(), "given up after {moment} ms, it has left {left:#?}");
            false
        }
        Err(error) => panic!("after {moment} ms: {}", error.chain()),
    };
    (is_made, took)
}

#[tokio::test]
async fn a_start_that_is_cancelled_at_any_moment_leaves_nothing() {
    let Some(host) = Host::real() else { return };
    for launch in [start_of(&host, "cancelled"), with_image(start_of(&host, "cancelled-image"))] {
        let driver = host.driver();
        // The second time with all at hand, a template too.
        for _ in 0..2 {
            let mut slowest = Duration::ZERO;
            let mut given_up = 0;
            for moment in MOMENTS {
                let (is_made, took) = cancel_after(&host, &driver, &launch, moment).await;
                slowest = slowest.max(took);
                given_up += u32::from(!is_made);
            }
            eprintln!("{given_up} of {} given up, the slowest within {slowest:?}", MOMENTS.len());
            assert!(slowest < SOON, "giving up took {slowest:?}");
            assert!(given_up >= 3, "only {given_up} were given up");
            // It can be started as ever.
            let mut vmm = driver.launch(launch.clone()).await.unwrap();
            assert_eq!(next(&mut vmm).await, VmmEvent::WorkloadStarted, "{}", host.vmm_log());
            vmm.process.signal_vmm(SIGKILL).unwrap();
            vmm.process.release().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_start_that_is_dropped_at_any_moment_leaves_nothing() {
    let Some(host) = Host::real() else { return };
    let driver = host.driver();
    let launch = start_of(&host, "dropped");
    for moment in MOMENTS {
        let start = tokio::spawn(driver.launch(launch.clone()));
        tokio::time::sleep(Duration::from_millis(moment)).await;
        start.abort();
        if let Ok(Ok(vmm)) = start.await {
            vmm.process.signal_vmm(SIGKILL).unwrap();
            vmm.process.release().await.unwrap();
        }
        // Who comes next waits for what is being cleared away.
        assert!(matches!(driver.adopt(launch.clone()).await, Err(DriverError::Gone)), "after {moment} ms");
        let end = Instant::now() + DEADLINE;
        loop {
            let left = remains(&host, &launch);
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "dropped after {moment} ms, it has left {left:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Two want one template: one leaves, and the other one gets it.
#[tokio::test]
async fn a_template_is_built_for_who_still_wants_it() {
    let Some(host) = Host::real() else { return };
    if crate::acceleration::acceleration().accelerator != crate::acceleration::Accelerator::Tcg {
        return skip(Reason::KvmWorks, "machines are restored under emulation only");
    }
    let driver = host.driver();
    let first = with_image(start_of(&host, "leaves"));
    let second = with_image(start_of(&host, "stays"));
    let starts = [&first, &second].map(|launch| tokio::spawn(driver.launch(launch.clone())));
    let building = host.config.state_dir.cache().join("building");
    let end = Instant::now() + DEADLINE;
    while std::fs::read_dir(&building).map_or(0, Iterator::count) == 0 {
        assert!(Instant::now() < end, "no template is built");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.cancel.cancel();
    let [left, stays] = starts;
    let left = tokio::time::timeout(SOON, left).await.expect("it waits for the template").unwrap();
    assert!(matches!(left, Err(DriverError::Cancelled)), "{left:?}");
    assert!(!first.runtime_dir.exists());
    let mut vmm = stays.await.unwrap().unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::WorkloadStarted, "{}", host.vmm_log());
    vmm.process.signal_vmm(SIGKILL).unwrap();
    vmm.process.release().await.unwrap();
    assert_eq!(driver.templates.failures(), 0);
    let templates = host.config.state_dir.cache().join("templates");
    while !std::fs::read_dir(&templates).is_ok_and(|mut entries| {
        entries.all(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("template-"))
    }) {
        assert!(Instant::now() < end, "the template is not on disk");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
