//! A machine without a workload.

use super::*;

fn idle(change: impl FnOnce(&mut Begin)) -> Host {
    let mut host = Host::boot();
    let mut begin = Begin::from(Host::start_message(&[]));
    change(&mut begin);
    host.send(&HostMessage::Idle(Box::new(begin)));
    host
}

#[test]
fn sessions_run_beside_what_stands_for_a_workload() {
    let mut host = idle(|begin| {
        begin.start.env = vec![(Bytes::from(b"A".to_vec()), Bytes::from(b"b".to_vec()))];
        begin.start.workdir = Some(Bytes::from(b"/tmp".to_vec()));
    });
    assert_eq!(host.receive(), GuestMessage::Started);
    let mut link = host.link(1);
    let (end, stdout, _) = link.run(1, script("echo $A; pwd; cat /proc/$PPID/task/$PPID/children; exit 3"));
    let stdout = String::from_utf8(stdout).unwrap();
    assert!(end == code(3) && stdout.starts_with("b\n/tmp\n"), "{stdout}");
    let idle = stdout.lines().nth(2).unwrap().split_whitespace().next().unwrap().to_owned();
    assert_eq!(fs::read_to_string(format!("/proc/{idle}/comm")).unwrap(), "sandpen-idle\n");
    // Pipes and nothing else of PID 1's.
    assert_eq!(fs::read_dir(format!("/proc/{idle}/fd")).unwrap().count(), 3);
    let status = fs::read_to_string(format!("/proc/{idle}/status")).unwrap();
    // As root of a guest has it, and root of a container may not (CAP_SYS_RESOURCE).
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    if u64::from_str_radix(capabilities, 16).unwrap() & 1 << 24 != 0 {
        assert_eq!(fs::read_to_string(format!("/proc/{idle}/cmdline")).unwrap(), "sandpen-idle\0");
    }
    assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
    // The C library has some of its own.
    assert!(status.contains("SigCgt:\t") && status.contains("00004000\n"), "SIGTERM alone: {status}");
    host.send(&HostMessage::Query { nonce: 1 });
    assert_eq!(host.receive(), UNDERSTANDS);
    assert_eq!(host.receive(), GuestMessage::Status { nonce: 1, state: GuestState::Running });
    host.send(&HostMessage::Signal(15));
    assert_eq!(host.exit(), ExitReport { end: WorkloadEnd::Code(0), stdout_bytes: 0, stderr_bytes: 0 });
    host.finish();
}

#[test]
fn other_signals_end_it_as_they_end_any_process() {
    let mut host = idle(|begin| begin.start.stdin = true);
    assert_eq!(host.receive(), GuestMessage::Started);
    host.send(&HostMessage::Signal(9));
    assert_eq!(host.exit().end, WorkloadEnd::Signal(9));
    host.finish();
}

#[test]
fn it_has_the_user_that_is_asked_for() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let mut host = idle(|begin| begin.settings.user = Some("65533:65532".into()));
    assert_eq!(host.receive(), GuestMessage::Started);
    let mut link = host.link(1);
    let (end, stdout, _) =
        link.run(1, script("id -u; id -g; kill -15 $(cat /proc/$PPID/task/$PPID/children | cut -d' ' -f1)"));
    assert_eq!((end, stdout), (code(0), b"65533\n65532\n".to_vec()));
    assert_eq!(host.exit().end, WorkloadEnd::Code(0));
    host.finish();
    let mut host = idle(|begin| begin.settings.user = Some("no-such-user-here".into()));
    let GuestMessage::NotStarted(failure) = host.receive() else { panic!("it was started") };
    assert_eq!(failure.code, StartFailureCode::NotExecutable);
    host.finish();
}
