//! Version 1 on the wire, byte for byte. A line of a file below `golden/` is what a daemon or a client of this
//! version writes and reads; fields may be added at the end of an object, and nothing else may change.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::BytesMut;
use chrono::{DateTime, TimeDelta, Utc};
use sandpen_types::confinement::ProcessConfinement;
use sandpen_types::disk_usage::{PrunedItem, Reclaim, UsageItem, UsageKind};
use sandpen_types::event::{EventKind, StoredEvent};
use sandpen_types::fault::Fault;
use sandpen_types::health::{HealthState, HealthStatus};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::reconcile::LeftoverKind;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{
    ByteString, CheckedSpec, ConfigName, Disk, DiskName, DriverChoice, HealthCheck, LogBacklog, LogLimits, Network,
    PublishedPort, Resources, RestartBackoff, RestartPolicy, RootDevice, Rootfs, SandboxKey, SandboxName, SandboxSpec,
    SpecError, TerminalSize, Volume,
};
use sandpen_types::state::{ExitStatus, FailureReason, SandboxState, Status, StopCause, StoppedBy};
use sandpen_types::state_dir::StateDir;
use sandpen_types::stats::{GuestUsage, HostUsage, SandboxUsage, UsageSample};
use sandpen_types::transition;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame::{End, Frame};
use super::*;
use values::*;

mod files;
mod images;
mod sessions;
mod values;

/// Asserts that the values are written as the lines of the file, and that each line is read as its value.
fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(file: &str, lines: &str, values: &[T]) {
    let written: Vec<String> = values.iter().map(|value| serde_json::to_string(value).unwrap()).collect();
    assert_eq!(written.len(), lines.lines().count(), "{file}: {written:#?}");
    for ((value, written), line) in values.iter().zip(&written).zip(lines.lines()) {
        assert_eq!(written, line, "{file}");
        assert_eq!(&serde_json::from_str::<T>(line).unwrap(), value, "{file}");
    }
}

macro_rules! golden {
    ($file:literal, $values:expr) => {
        golden($file, include_str!(concat!("golden/", $file)), $values)
    };
}

#[test]
fn a_specification() {
    golden!("specification.jsonl", &[CreateSandbox::from(minimal()), full().into()]);
    let least = r#"{"key":{"config":"shop","name":"small"},"rootfs":{"native":"/srv"},"command":["true"]}"#;
    let read: CreateSandbox = serde_json::from_str(least).unwrap();
    assert_eq!(read, CreateSandbox::new(key("small"), Rootfs::Native("/srv".into()), vec!["true".into()]));
    assert_eq!(CheckedSpec::try_from(read).as_deref(), Ok(&minimal()));
    // A project's clients leave out what a struct of theirs has not.
    let partly = r#"{"command":["true"],"rootfs":{"native":"/srv"},"key":{"name":"small","config":"shop"},
        "health":{"command":["true"]},"log":{"max_bytes":10485760,"keep":5},"disk":{},
        "volumes":[{"host":"/a","guest":"/b"}],"ports":[{"host":1,"guest":2}],"network":"on"}"#;
    let read: CreateSandbox = serde_json::from_str(partly).unwrap();
    assert_eq!(
        CheckedSpec::try_from(read).as_deref(),
        Ok(&SandboxSpec {
            health: Some(HealthCheck::new(vec!["true".into()])),
            volumes: vec![Volume::of_host("/a", "/b", false)],
            ports: vec![PublishedPort { address: None, host: 1, guest: 2 }],
            network: Network::On,
            ..minimal()
        })
    );
    // The database keeps the same fields in the same form, of its own, and which kernel was found.
    let found = SandboxSpec { kernel_sha256: None, ..full() };
    for (line, spec) in include_str!("golden/specification.jsonl").lines().zip([minimal(), found]) {
        assert_eq!(serde_json::to_string(&spec).unwrap(), line);
        assert_eq!(serde_json::from_str::<SandboxSpec>(line).unwrap(), spec);
    }
    let kept = serde_json::to_value(full()).unwrap();
    assert_eq!(kept["kernel_sha256"], "07".repeat(32));
    assert_eq!(serde_json::from_value::<SandboxSpec>(kept).unwrap(), full());
    let empty = CreateSandbox { command: Vec::new(), ..minimal().into() };
    assert_eq!(CheckedSpec::try_from(empty), Err(SpecError::NoCommand));
}

#[test]
fn a_sandbox_in_every_state() {
    let dir = StateDir::new("/state".into());
    let mut sandboxes: Vec<_> = states().into_iter().map(|state| Sandbox::new(&row(minimal(), state), &dir)).collect();
    let live = SandboxRow {
        stopped_by: Some(StoppedBy::Shutdown),
        health: Some(HealthState { status: HealthStatus::Failing, failures: 2, output: "exit code 1".into() }),
        driver: Some("qemu".into()),
        microvm_pid: Some(4711),
        started_at: Some(at(2)),
        ended_at: Some(at(3)),
        ..row(full(), SandboxState::Running)
    };
    sandboxes.push(Sandbox {
        confinement: Some(BTreeMap::from([(
            "vmm".to_owned(),
            serde_json::from_str(include_str!("golden/confinement.jsonl").lines().next().unwrap()).unwrap(),
        )])),
        log_dropped: Some(DroppedBytes { stdout: 5, stderr: 0 }),
        timings: Some(timings()),
        ..Sandbox::new(&live, &dir)
    });
    let layers = |disk| SandboxSpec { rootfs: Rootfs::Overlayfs(vec!["/a".into()]), disk, ..minimal() };
    let unnamed = row(layers(Disk::default()), SandboxState::Created);
    sandboxes.push(Sandbox::new(&unnamed, &dir));
    let named = Disk { bytes: None, name: Some(DiskName::new("d").unwrap()) };
    let spec = SandboxSpec { restart: RestartPolicy::OnFailure { max: None }, ..layers(named) };
    sandboxes.push(Sandbox::new(
        &SandboxRow { stopped_by: Some(StoppedBy::Request), ..row(spec, SandboxState::Created) },
        &dir,
    ));
    golden!("sandboxes.jsonl", &sandboxes);
}

fn timings() -> Timings {
    let step = |step: &str, by: &str, at_us, took_us| StepTime { step: step.into(), by: by.into(), at_us, took_us };
    let steps = vec![step("requested", "sandpen", 0, 0), step("guest_ready", "guest", 2_400_000, 2_400_000)];
    Timings { adopted: false, began_us: 987_654_321, steps }
}

#[test]
fn what_processes_gave_up() {
    let lines = include_str!("golden/confinement.jsonl");
    let read: Vec<ProcessConfinement> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    golden!("confinement.jsonl", &read);
    assert_eq!(read.len(), 2);
}

#[test]
fn transitions() {
    let records = states().into_iter().zip(1..).map(|(state, seq)| transition::Transition {
        sandbox: 3,
        seq,
        generation: 2,
        event: "WorkloadStarted".into(),
        microvm_pid: state.is_live().then_some(4711),
        driver: (seq % 2 == 0).then(|| "qemu".to_owned()),
        state,
        at: at(seq.cast_signed()),
        supervisor_pid: 17,
        restarts: 1,
        restarts_in_a_row: 1,
        stopped_by: None,
        boot_id: None,
    });
    golden!("transitions.jsonl", &records.map(|record| Transition::from(&record)).collect::<Vec<_>>());
}

fn kinds() -> Vec<EventKind> {
    let text = || "why\nnot".to_owned();
    let mut kinds: Vec<_> = states()
        .into_iter()
        .map(|state| EventKind::Transition {
            transition: 4,
            generation: 2,
            event: "WorkloadStarted".into(),
            reason: state.failure().map(ToString::to_string),
            state,
            microvm_pid: Some(4711),
            driver: None,
            restarts: 1,
        })
        .collect();
    let healths = [HealthStatus::Starting, HealthStatus::Healthy, HealthStatus::Failing];
    kinds.extend(healths.map(|status| EventKind::HealthChanged { status, failures: 2, output: "exit code 1".into() }));
    kinds.extend([
        EventKind::Removed { generation: 2 },
        EventKind::VmmSuspended { pid: 7 },
        EventKind::OrchestratorStarted { pid: 7, version: "0.1.0".into() },
        EventKind::OrchestratorStopped { pid: 7, sandboxes_ended: true },
        EventKind::Reconciled { adopted: 1, resolved: 2, removed: 3 },
        EventKind::ActorRestarted { actor: "monitor".into(), reason: text() },
        EventKind::LogFailed { message: text() },
        EventKind::LogDropped { stdout: 5, stderr: 6 },
        EventKind::LogRecovered {},
        EventKind::FaultEnded { fault: Fault::DiskFull, lasted_ms: 1500 },
        EventKind::ClockJumped { by_ms: -1500 },
    ]);
    kinds.extend(Fault::ALL.map(|fault| EventKind::FaultBegan { fault, message: text() }));
    kinds.push(EventKind::FilesLimitMet {});
    kinds.push(EventKind::OutOfMemory { generation: 2, process: "tail".to_owned() });
    kinds.push(EventKind::Renamed { from: "shop/web".to_owned(), to: "shop/other".to_owned() });
    kinds
}

#[test]
fn events_of_every_kind() {
    let entries: Vec<_> = kinds()
        .into_iter()
        .zip(1..)
        .map(|(event, seq)| {
            let json = serde_json::to_value(&event).unwrap();
            let (kind, detail) = (json["kind"].as_str().unwrap().to_owned(), json["detail"].clone());
            let sandbox = (seq % 2 == 0).then(|| key("web"));
            let entry = EventEntry::from(StoredEvent { seq, at: at(seq.cast_signed()), sandbox, kind, detail });
            assert_eq!(entry.known_kind(), Some(event));
            entry
        })
        .collect();
    golden!("events.jsonl", &entries);
    let lines = include_str!("golden/events.jsonl").lines();
    for (line, entry) in lines.zip(&entries) {
        assert_eq!(serde_json::from_str::<EventLine>(line).unwrap(), EventLine::Event(entry.clone()));
    }
    let error = r#"{"error":{"code":"shutting_down","message":"m","chain":[]}}"#;
    assert!(matches!(serde_json::from_str(error).unwrap(), EventLine::Error(_)));
    assert!(
        serde_json::from_str::<EventEntry>(
            r#"{"seq":1,"at":"2026-01-31T12:00:00Z","config_file":null,"name":null,"kind":"later","detail":{"a":[1]}}"#
        )
        .unwrap()
        .known_kind()
        .is_none()
    );
}

#[test]
fn short_requests_and_answers() {
    golden!(
        "stop.jsonl",
        &[
            StopRequest { grace_ms: 1500, signal: None },
            StopRequest { grace_ms: 1500, signal: Some("INT".parse().unwrap()) }
        ]
    );
    assert_eq!(serde_json::from_str::<StopRequest>("{}").unwrap(), StopRequest { grace_ms: 10_000, signal: None });
    golden!("kill.jsonl", &[KillRequest { signal: 9 }]);
    golden!("shutdown.jsonl", &[ShutdownRequest { stop_sandboxes: true, grace_ms: 1500 }]);
    assert_eq!(
        serde_json::from_str::<ShutdownRequest>("{}").unwrap(),
        ShutdownRequest { stop_sandboxes: false, grace_ms: 10_000 }
    );
    golden!("shutdown_answer.jsonl", &[ShutdownReply { pid: 17 }]);
    golden!("stdin_answer.jsonl", &[StdinReply { bytes: 6 }]);
    golden!("resize.jsonl", &[TerminalSize::new(24, 80).unwrap(), TerminalSize::new(1, 65535).unwrap()]);
    let version =
        Version { name: NAME.into(), version: "0.1.0".into(), api: API_VERSION, pid: 17, state_dir: "/s".into() };
    golden!("version.jsonl", &[version]);
    let disk = |used_by| DiskEntry { name: DiskName::new("work").unwrap(), bytes: 1 << 30, used_bytes: 4096, used_by };
    golden!("disks.jsonl", &[vec![disk(None), disk(Some("shop/web".into()))]]);
    let error =
        ErrorDetail { code: ErrorCode::Internal.into(), message: "m".into(), chain: vec!["a".into(), "b".into()] };
    golden!("readiness.jsonl", &[Readiness::Serving { pid: 17 }, Readiness::Failed(error)]);
}

#[test]
fn a_reconciliation() {
    let kinds = [
        LeftoverKind::Process,
        LeftoverKind::RuntimeDir,
        LeftoverKind::Mount,
        LeftoverKind::Disk,
        LeftoverKind::Row,
        LeftoverKind::Cgroup,
    ];
    let leftovers = kinds.into_iter().enumerate().map(|(number, kind)| LeftoverEntry {
        kind,
        what: "/run/x".into(),
        sandbox: (number % 2 == 0).then(|| "shop/web".to_owned()),
        error: (number % 3 == 0).then(|| "why\nnot".to_owned()),
    });
    let reply = ReconcileReply {
        adopted: vec!["shop/a".into()],
        resolved: vec!["shop/b".into()],
        leftovers: leftovers.collect(),
    };
    golden!("reconciliation.jsonl", &[reply]);
}

#[test]
fn metrics() {
    let metric = |kind, labels: &[(&str, &str)]| Metric {
        name: "sandpen_sandboxes".into(),
        kind,
        help: "What it is.".into(),
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        value: 3,
    };
    golden!("metrics.jsonl", &[metric(MetricKind::Gauge, &[("state", "RUNNING")]), metric(MetricKind::Counter, &[])]);
}

#[test]
fn frames() {
    let (stdout, stderr) = (OutputStream::Stdout, OutputStream::Stderr);
    let bytes = |stream| Frame::Bytes { stream, at: at(0), position: 258, bytes: "ab\n".into() };
    let end = |complete, error| Frame::End(End { complete, error });
    let frames = [
        bytes(stdout),
        bytes(stderr),
        Frame::Gap { position: 7, bytes: 515 },
        Frame::Dropped { stream: stdout, position: 7, bytes: 515 },
        Frame::Dropped { stream: stderr, position: u64::MAX, bytes: 1 },
        end(true, None),
        end(
            false,
            Some(ErrorDetail { code: ErrorCode::Internal.into(), message: "m".into(), chain: vec!["c".into()] }),
        ),
    ];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut lines = String::new();
    for frame in &frames {
        let mut wire = BytesMut::new();
        frame.encode(&mut wire);
        lines = lines + &hex(&wire) + "\n";
        assert_eq!(Frame::decode(&mut wire).unwrap().as_ref(), Some(frame));
    }
    assert_eq!(lines, include_str!("golden/frames.hex"));
}

#[test]
fn what_takes_room_and_what_was_removed() {
    let item =
        |kind, what: &str, sandbox, bytes, reclaim| UsageItem { kind, what: what.into(), sandbox, bytes, reclaim };
    let items = [
        item(UsageKind::Logs, "shop/web", Some(key("web")), 4096, Reclaim::WithSandbox),
        item(UsageKind::Templates, "/state/cache/template-1", None, 8192, Reclaim::Always),
        item(UsageKind::Database, "/state/sandpen.db", None, 1, Reclaim::Never),
    ];
    golden!("disk_usage.jsonl", &[DiskUsage::new(&items, true)]);
    let only = Some(vec!["shop/web".to_owned()]);
    golden!(
        "prune.jsonl",
        &[
            PruneRequest::default(),
            PruneRequest { sandboxes: true, dry_run: true, only: None },
            PruneRequest { sandboxes: true, dry_run: false, only },
        ]
    );
    let [first, second, _] = items;
    let removed = vec![
        PrunedItem { item: first, error: None },
        PrunedItem { item: second, error: Some("it is a directory".into()) },
    ];
    golden!("prune_answer.jsonl", &[PruneReply::from(removed)]);
}

#[test]
fn what_sandboxes_take() {
    let running = SandboxUsage {
        key: key("web"),
        generation: 3,
        state: Status::Running,
        uptime: Some(Duration::from_millis(1500)),
        cpus: 2,
        host: Some(HostUsage { cpu: Duration::from_micros(7), memory: 4096, processes: 3 }),
        guest: Some(GuestUsage {
            cpu_busy: 1,
            cpu_total: 2,
            memory_total: 4,
            memory_used: 3,
            disk_total: 6,
            disk_used: 5,
            tasks: 7,
        }),
        disk_bytes: Some(8192),
        log_bytes: 9,
    };
    let ended = SandboxUsage {
        key: key("old"),
        state: Status::Stopped,
        uptime: None,
        host: None,
        guest: None,
        disk_bytes: None,
        ..running.clone()
    };
    let sample = UsageSample { at: Duration::from_micros(987_654_321), sandboxes: vec![ended, running] };
    golden!("stats.jsonl", &[Stats::from(sample)]);
}
