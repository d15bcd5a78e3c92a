//! All actors with real processes under real waiters, and a second set of actors that takes over.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]
#![cfg(feature = "testing")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter, System};
use chrono::Utc;
use sandpen_actors::database::{BeginStart, Database, GetSandbox};
use sandpen_actors::runtime::hosting::host_on;
use sandpen_actors::runtime::intensity::RestartIntensity;
use sandpen_actors::supervisor::{
    KillSandbox, OpenGuest, Reconcile, Shutdown, StartSandbox, StopSandbox, Supervisor, SupervisorConfig, WaitSandbox,
};
use sandpen_actors::telemetry::faults::Faults;
use sandpen_actors::testing::process_driver::ProcessDriver;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{ByteString, Rootfs, SandboxKey, SandboxName, SandboxSpec};
use sandpen_types::state::{ExitStatus, SandboxState};
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::driver::Drivers;
use sandpen_vmm::waiter::{ProcessSpec, StdioSpec, WaitedVmm, WaiterSpec};
use sqlx::SqlitePool;

async fn supervisor(dir: &Path, log_arbiter: &Arbiter) -> Addr<Supervisor> {
    let state_dir = StateDir::new(dir.to_owned());
    let database = Database::open(&state_dir.database()).await.unwrap();
    let database = host_on(&Arbiter::current(), move || database, |_| {});
    let state_id = format!("test-{}", dir.file_name().unwrap().to_string_lossy());
    let config = SupervisorConfig {
        uids: None,
        drivers: Drivers::default().with(Arc::new(ProcessDriver::new(state_dir.bin()))),
        state_dir,
        // Of its own: a reconcile ends every process of its state directory that no row leads to.
        state_id,
        database: database.into(),
        control_arbiter: Arbiter::current(),
        log_arbiters: vec![log_arbiter.handle()],
        supervisor_pid: std::process::id(),
        open_files_limit: 1024,
        reserve: None,
        faults: Faults::default(),
        timings: sandpen_vmm::start_timings::LatestTimings::default(),
        intensity: RestartIntensity::default(),
    };
    host_on(&Arbiter::current(), move || Supervisor::new(config), |_| {})
}

fn spec(dir: &Path, name: &str, script: &str) -> SandboxSpec {
    let command: Vec<ByteString> = vec!["sh".into(), "-c".into(), script.into()];
    SandboxSpec::new(SandboxName::new(name).unwrap(), Rootfs::Native(dir.to_owned()), command)
}

fn key(name: &str) -> SandboxKey {
    SandboxKey::new(SandboxName::new(name).unwrap())
}

async fn start(supervisor: &Addr<Supervisor>, spec: SandboxSpec) -> SandboxRow {
    supervisor.send(StartSandbox::anew(spec.try_into().unwrap())).await.unwrap().unwrap()
}

async fn wait(supervisor: &Addr<Supervisor>, name: &str) -> SandboxRow {
    let ended = supervisor.send(WaitSandbox { key: key(name) });
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("it ends").unwrap().unwrap()
}

fn log(dir: &Path, name: &str) -> String {
    String::from_utf8(std::fs::read(dir.join(format!("logs/default/{name}.log"))).unwrap()).unwrap()
}

fn nothing_runs(dir: &Path) -> bool {
    std::fs::read_dir(dir.join("run/default")).is_ok_and(|mut entries| entries.next().is_none())
}

#[test]
fn output_exit_stdin_and_kill() {
    System::new().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let arbiter = Arbiter::new();
        let supervisor = supervisor(dir.path(), &arbiter).await;
        start(&supervisor, spec(dir.path(), "a", "echo out; echo err >&2; exit 42")).await;
        assert_eq!(wait(&supervisor, "a").await.state, SandboxState::Stopped { exit: ExitStatus::Code(42) });
        let text = log(dir.path(), "a");
        assert!(text == "out\nerr\n" || text == "err\nout\n", "{text:?}");

        let mut reads = spec(dir.path(), "reads", "cat; echo end");
        reads.stdin = true;
        start(&supervisor, reads).await;
        let guest = supervisor.send(OpenGuest { key: key("reads"), or_helper: false }).await.unwrap().unwrap();
        guest.write_stdin(b"hello ".to_vec()).await.unwrap();
        guest.close_stdin().await.unwrap();
        assert_eq!(wait(&supervisor, "reads").await.state, SandboxState::Stopped { exit: ExitStatus::Code(0) });
        assert_eq!(log(dir.path(), "reads"), "hello end\n");

        start(&supervisor, spec(dir.path(), "killed", "exec sleep 1000")).await;
        let row = supervisor.send(KillSandbox { key: key("killed"), signal: 9 }).await.unwrap().unwrap();
        assert_eq!(row.state, SandboxState::Stopped { exit: ExitStatus::Signal(9) });
        assert!(nothing_runs(dir.path()));
        arbiter.stop();
        arbiter.join().unwrap();
    });
}

#[test]
fn what_no_row_leads_to_is_cleaned_up_at_the_start() {
    System::new().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let arbiter = Arbiter::new();
        let first = supervisor(dir.path(), &arbiter).await;
        start(&first, spec(dir.path(), "ended", "true")).await;
        wait(&first, "ended").await;
        start(&first, spec(dir.path(), "removes-itself", "echo x")).await;
        wait(&first, "removes-itself").await;
        first.send(Shutdown { grace: None }).await.unwrap();

        // As if it had died after the last state was durable, before the clean-up: with the waiter
        // still there, with a live process, with nothing but the directory.
        let state_dir = StateDir::new(dir.path().to_owned());
        let mut left = Vec::new();
        for (name, script) in [("ended", "true"), ("unknown", "exec sleep 1000")] {
            let waiter = WaiterSpec {
                namespaces: None,
                tags: vec![],
                fifos: vec![],
                processes: vec![ProcessSpec {
                    role: "vmm".into(),
                    program: "/bin/sh".into(),
                    args: vec!["-c".into(), script.into()],
                    env: vec![],
                    clear_env: true,
                    stdin: StdioSpec::Null,
                    stdout: StdioSpec::Null,
                    stderr: StdioSpec::Null,
                    descriptors: Vec::new(),
                }],
                vmm_log: dir.path().join("vmm.log"),
                vmm_log_limit: 4096,
                leases: Vec::new(),
            };
            left.push(
                WaitedVmm::launch(
                    &state_dir.runtime(&key(name)),
                    &state_dir.bin(),
                    waiter,
                    &sandpen_vmm::start_timings::StartTimings::default(),
                )
                .await
                .unwrap(),
            );
        }
        std::fs::create_dir(state_dir.runtime(&key("empty"))).unwrap();
        let database = Database::open(&state_dir.database()).await.unwrap();
        let database = host_on(&Arbiter::current(), move || database, |_| {});
        let half_made = spec(dir.path(), "half-made", "true");
        let (driver, requested_at) = ("process".into(), Utc::now());
        let begin = BeginStart {
            spec: Arc::new(half_made),
            supervisor_pid: 1,
            driver,
            boot_id: None,
            again: None,
            requested_at,
        };
        database.send(begin).await.unwrap().unwrap();
        // Rows that only earlier versions or a death at the wrong moment leave behind.
        let file = SqlitePool::connect(&format!("sqlite://{}", state_dir.database().display())).await.unwrap();
        for left in [
            r#"UPDATE sandboxes SET status = 'CREATED', state = '{"status":"CREATED"}' WHERE name = 'half-made'"#,
            "UPDATE sandboxes SET spec = json_set(spec, '$.remove_on_end', json('true')) WHERE name = 'removes-itself'",
        ] {
            assert_eq!(sqlx::query(left).execute(&file).await.unwrap().rows_affected(), 1);
        }
        file.close().await;

        let second = supervisor(dir.path(), &arbiter).await;
        let report = second.send(Reconcile).await.unwrap().unwrap();
        assert_eq!(report.adopted, []);
        assert!(nothing_runs(dir.path()));
        for vmm in left {
            assert!(vmm.has_ended().unwrap());
        }
        start(&second, spec(dir.path(), "ended", "exit 3")).await;
        assert_eq!(wait(&second, "ended").await.state, SandboxState::Stopped { exit: ExitStatus::Code(3) });
        assert_eq!(database.send(GetSandbox(key("half-made"))).await.unwrap().unwrap(), None);
        assert_eq!(database.send(GetSandbox(key("removes-itself"))).await.unwrap().unwrap(), None);
        assert!(!dir.path().join("logs/default/removes-itself.log").exists());
        arbiter.stop();
        arbiter.join().unwrap();
    });
}

#[test]
fn the_next_supervisor_goes_on_without_a_gap() {
    System::new().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let lines = 20_000;
        let script = format!("seq 1 {lines}; sleep 0.3; seq 1 {lines}; exit 7");
        let pid = {
            let arbiter = Arbiter::new();
            let first = supervisor(dir.path(), &arbiter).await;
            let pid = start(&first, spec(dir.path(), "counts", &script)).await.microvm_pid;
            start(&first, spec(dir.path(), "stays", "exec sleep 1000")).await;
            first.send(Shutdown { grace: None }).await.unwrap();
            arbiter.stop();
            arbiter.join().unwrap();
            pid
        };
        let arbiter = Arbiter::new();
        let second = supervisor(dir.path(), &arbiter).await;
        let report = second.send(Reconcile).await.unwrap().unwrap();
        assert_eq!(report.adopted.len(), 2);
        let row = wait(&second, "counts").await;
        assert_eq!(row.state, SandboxState::Stopped { exit: ExitStatus::Code(7) });
        assert!(pid.is_some());
        let once: String = (1..=lines).map(|line| format!("{line}\n")).collect();
        assert_eq!(log(dir.path(), "counts"), once.repeat(2));
        let stop = StopSandbox { key: key("stays"), grace: Duration::from_secs(10), signal: None };
        let row = second.send(stop).await.unwrap().unwrap();
        assert_eq!(row.state, SandboxState::Stopped { exit: ExitStatus::Signal(15) });
        assert!(nothing_runs(dir.path()));
        arbiter.stop();
        arbiter.join().unwrap();
    });
}
