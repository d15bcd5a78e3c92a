//! From the crash of a microVM to the next one's workload: what the restart itself costs, without a
//! pause. A bare-metal guest of libkrun, whose VMM is killed, again and again.
//!
//! `make bench-restart`, or `cargo bench --bench restart`. Environment: `CRASHES` (200 by
//! default), `OUT` (a directory for JSON and SVG). Needs `/dev/kvm` and a C compiler. The program is its own VMM: it
//! starts itself again for that.

#[path = "../tests/support/guests.rs"]
#[allow(clippy::expect_used, reason = "made for tests")]
mod guests;
#[path = "support/report.rs"]
mod report;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use report::Report;
use sandpen::actors::driver::Drivers;
use sandpen::actors::event::EventKind;
use sandpen::actors::row::SandboxRow;
use sandpen::actors::spec::{
    ByteString, DriverChoice, Resources, RestartBackoff, RestartPolicy, Rootfs, SandboxName, SandboxSpec,
};
use sandpen::actors::state::SandboxState;
use sandpen::actors::state_dir::StateDir;
use sandpen::driver::krun::{BARE_NAME, KrunConfig, KrunDriver};
use sandpen::{EventsOptions, Handle, Sandpen};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Memory of one microVM in MiB, the least that a specification may have.
const MEMORY_MIB: u32 = 96;
/// Longest wait for a restart, after which the run has failed.
const LIMIT: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    sandpen::run_helper_if_asked();
    if std::env::var_os("CARGO_BENCH").is_none() && !std::env::args().any(|argument| argument == "--bench") {
        println!("bench restart: skipped (use `make bench-restart`)");
        return Ok(());
    }
    if !guests::kvm() {
        return Ok(());
    }
    let crashes = std::env::var("CRASHES").ok().and_then(|value| value.parse().ok()).unwrap_or(200);
    let dir = tempfile::tempdir()?;
    let image = guests::build(dir.path(), "idle");
    let state = dir.path().join("state");
    let state_dir = StateDir::new(state.clone());
    let krun = KrunDriver::bare(KrunConfig::new(state_dir, dir.path()));
    let drivers = Drivers::default().with(Arc::new(krun));
    let sandpen = Sandpen::builder().state_dir(&state).data_dir(dir.path()).drivers(drivers).start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(async {
        let handle = sandpen.handle();
        let times = measure(&handle, dir.path(), image.into(), crashes).await?;
        // Bare guests know no SIGTERM: no grace.
        sandpen.shutdown(Some(Duration::ZERO)).await?;
        Ok::<_, Box<dyn Error>>(times)
    })?;
    let last = figures.len().checked_sub(1).ok_or("no crashes")?;
    let at = |share: usize| figures[(figures.len() * share / 100).min(last)].as_secs_f64() * 1e3;
    let mut report = Report::new("restart", &["p50 ms", "p99 ms", "most ms"]);
    report.add(&format!("{crashes} crashes"), "sandpen", vec![at(50), at(99), at(100)]);
    Ok(report.publish()?)
}

/// Sorted times from the SIGKILL of a VMM process until the next start is RUNNING in the database and
/// somebody who follows the events knows.
async fn measure(handle: &Handle, rootfs: &Path, image: ByteString, crashes: usize) -> Result<Vec<Duration>> {
    let spec = SandboxSpec {
        driver: DriverChoice::Named(BARE_NAME.to_owned()),
        resources: Resources { cpus: 1, memory_mib: MEMORY_MIB },
        restart: RestartPolicy::Always,
        restart_backoff: RestartBackoff { initial: Duration::ZERO, ..RestartBackoff::default() },
        ..SandboxSpec::new(SandboxName::new("crashes")?, Rootfs::Native(rootfs.to_owned()), vec![image])
    };
    let key = spec.key.clone();
    let SandboxRow { mut generation, microvm_pid, .. } = handle.start_sandbox(spec).await?;
    let mut pid = microvm_pid.ok_or("the first start has no process")?;
    let mut events =
        handle.events(EventsOptions { follow: true, sandbox: Some(key.clone()), ..Default::default() }).await?;
    let mut times = Vec::with_capacity(crashes);
    for _ in 0..crashes {
        let begun = Instant::now();
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
        let again = async {
            loop {
                let event = events.next().await?.ok_or("the events ended")?;
                if let Some(EventKind::Transition { generation: now, state, microvm_pid, .. }) = event.known_kind()
                    && state == SandboxState::Running
                    && now > generation
                {
                    return Ok::<_, Box<dyn Error>>((now, microvm_pid));
                }
            }
        };
        let (now, next) = tokio::time::timeout(LIMIT, again).await??;
        times.push(begun.elapsed());
        generation = now;
        pid = next.ok_or("a start has no process")?;
    }
    handle.kill(&key, Signal::SIGKILL as i32).await?;
    times.sort_unstable();
    Ok(times)
}
