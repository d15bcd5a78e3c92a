//! What the golden files hold.

use sandpen_types::spec::{HealthFailure, Labels};

use super::*;

pub(super) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_700_000_000 + seconds) + TimeDelta::microseconds(123_456)
}

pub(super) fn key(name: &str) -> SandboxKey {
    SandboxKey { config: ConfigName::new("shop").unwrap(), name: SandboxName::new(name).unwrap() }
}

pub(super) fn minimal() -> SandboxSpec {
    SandboxSpec::new(key("small"), Rootfs::Native("/srv".into()), vec!["true".into()])
}

/// No field has its default, but for those that came later.
pub(super) fn full() -> SandboxSpec {
    let odd = ByteString::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(vec![0xff, b'a']));
    SandboxSpec {
        key: key("web"),
        rootfs: Rootfs::Overlayfs(vec!["/srv/top".into(), "/srv/a:b".into()]),
        driver: DriverChoice::Named("qemu".into()),
        resources: Resources { cpus: 2, memory_mib: 512 },
        command: vec!["/srv/web".into(), "\"quoted\" ü\n".into(), odd.clone()],
        env: vec![("MODE".into(), "test".into()), ("ODD".into(), odd.clone())],
        workdir: Some("/srv".into()),
        stdin: true,
        timeout: Some(Duration::from_millis(90_500)),
        restart: RestartPolicy::OnFailure { max: Some(5) },
        restart_backoff: RestartBackoff {
            initial: Duration::from_millis(200),
            max: Duration::from_secs(30),
            healthy_after: Duration::from_secs(20),
        },
        health: Some(HealthCheck {
            command: vec!["/bin/check".into(), odd.clone()],
            interval: Duration::from_secs(10),
            timeout: Duration::from_millis(1500),
            retries: 4,
            start_period: Duration::from_mins(1),
            on_failure: HealthFailure::Crash,
        }),
        log: LogLimits { max_bytes: 8192, keep: 3, backlog: LogBacklog::Drop },
        remove_on_end: true,
        remove_delay: Duration::from_secs(7),
        config_last_modified: Some(at(-5)),
        network: Network::Published,
        ports: vec![
            PublishedPort { address: Some(Ipv4Addr::LOCALHOST), host: 8080, guest: 80 },
            PublishedPort { address: None, host: 0, guest: 443 },
        ],
        terminal: TerminalSize::new(24, 80),
        volumes: vec![Volume::of_host("/srv/data", "/data", true), Volume::of_host("/srv/out", odd, false)],
        rlimits: vec!["nofile=1024:4096".parse().unwrap(), "core=0:unlimited".parse().unwrap()],
        disk: Disk { bytes: Some(1 << 30), name: Some(DiskName::new("work").unwrap()) },
        root_device: RootDevice::Disk,
        kernel: Some("/boot/vmlinux".into()),
        stop_signal: Some("RTMIN+3".parse().unwrap()),
        hostname: Some("web.internal".parse().unwrap()),
        user: Some("web:logs".parse().unwrap()),
        read_only: true,
        tmpfs: vec!["/tmp".parse().unwrap(), "/mem:size=64M,mode=0750,uid=7,gid=8,noexec".parse().unwrap()],
        shm_bytes: Some(8 << 20),
        extra_hosts: vec!["db:10.0.0.7".parse().unwrap(), "db:::1".parse().unwrap()],
        sysctls: vec!["net.core.somaxconn=4096".parse().unwrap()],
        labels: Labels::from([("team".parse().unwrap(), "a b".to_owned())]),
        idle: false,
        idle_timeout: None,
        helper_of: None,
        kernel_sha256: Some([7; 32].into()),
    }
}

pub(super) fn row(spec: SandboxSpec, state: SandboxState) -> SandboxRow {
    SandboxRow {
        id: 3,
        spec: spec.into(),
        state,
        seq: 9,
        generation: 4,
        restarts: 2,
        restarts_in_a_row: 1,
        keeps_disk: false,
        stopped_by: None,
        health: None,
        boot_id: Some("b".into()),
        driver: None,
        microvm_pid: None,
        supervisor_pid: 17,
        created_at: at(0),
        started_at: None,
        ended_at: None,
        updated_at: at(1),
    }
}

pub(super) fn failures() -> Vec<FailureReason> {
    let text = || "why\nnot".to_owned();
    vec![
        FailureReason::SpawnFailed { message: text() },
        FailureReason::WorkloadNotStarted { message: text() },
        FailureReason::VmmLost { status: ExitStatus::Signal(31) },
        FailureReason::VmmLost { status: ExitStatus::Unknown },
        FailureReason::OutOfMemory,
        FailureReason::CompanionLost { process: "virtiofsd".into() },
        FailureReason::BootTimedOut { limit: Duration::from_mins(1) },
        FailureReason::TimedOut { limit: Duration::from_millis(1500) },
        FailureReason::Unhealthy { failures: 3, output: text() },
        FailureReason::ProtocolBroken { message: text() },
        FailureReason::Lost,
        FailureReason::Internal { message: text() },
    ]
}

pub(super) fn states() -> Vec<SandboxState> {
    let stopping = |cause, exit| SandboxState::Stopping { cause, exit };
    let mut states = vec![
        SandboxState::Created,
        SandboxState::Starting,
        SandboxState::Running,
        stopping(StopCause::WorkloadEnded, Some(ExitStatus::Code(3))),
        stopping(StopCause::Requested, None),
        stopping(StopCause::OrchestratorEnds, None),
        stopping(StopCause::Killed { signal: 9 }, Some(ExitStatus::Signal(9))),
        stopping(StopCause::Faulted { reason: FailureReason::Lost }, None),
        SandboxState::Stopped { exit: ExitStatus::Code(0) },
        SandboxState::Stopped { exit: ExitStatus::Signal(15) },
        SandboxState::Stopped { exit: ExitStatus::Unknown },
        SandboxState::Backoff { until: at(60) },
    ];
    states.extend(failures().into_iter().map(|reason| SandboxState::Failed { reason, exit: None }));
    states.push(SandboxState::Failed {
        reason: FailureReason::TimedOut { limit: Duration::from_secs(1) },
        exit: Some(ExitStatus::Code(143)),
    });
    states
}
