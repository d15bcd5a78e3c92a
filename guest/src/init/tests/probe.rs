//! Commands beside the workload.

use super::*;

impl Host {
    fn probe(&mut self, id: u64, command: &[&str], limit: Duration) {
        let command = command.iter().map(|part| Bytes::from(part.as_bytes())).collect();
        self.send(&HostMessage::Probe(protocol::Probe { id, command, limit }));
    }

    fn probe_end(&mut self) -> (u64, ProbeEnd, Vec<u8>) {
        match self.receive() {
            GuestMessage::ProbeEnded { id, end, output } => (id, end, output.into_vec()),
            other => panic!("{other:?} instead of ProbeEnded"),
        }
    }

    /// A workload that runs until it is killed.
    fn idle(&mut self, change: impl FnOnce(&mut Start)) {
        self.start(&["sleep", "1000"], change);
        assert_eq!(self.receive(), GuestMessage::Started);
    }

    fn kill(mut self) {
        self.send(&HostMessage::Signal(9));
        assert_eq!(self.exit().end, WorkloadEnd::Signal(9));
        self.finish();
    }
}

const LONG: Duration = Duration::from_secs(100);

#[test]
fn a_command_runs_beside_the_workload_in_its_surroundings() {
    let mut host = Host::boot();
    host.idle(|start| {
        start.env = vec![(Bytes::from(b"A".to_vec()), Bytes::from(b"b".to_vec()))];
        start.workdir = Some(Bytes::from(b"/tmp".to_vec()));
    });
    host.probe(7, &["sh", "-c", "echo $A; pwd >&2; exit 3"], LONG);
    assert_eq!(host.probe_end(), (7, ProbeEnd::Ended(WorkloadEnd::Code(3)), b"b\n/tmp\n".to_vec()));
    host.probe(8, &["sh", "-c", "kill -15 $$"], LONG);
    assert_eq!(host.probe_end(), (8, ProbeEnd::Ended(WorkloadEnd::Signal(15)), vec![]));
    host.kill();
}

#[test]
fn only_the_end_of_its_output_comes_back() {
    let mut host = Host::boot();
    host.idle(|_| {});
    host.probe(1, &["sh", "-c", "yes 0123456789 | head -c 1000000; echo end"], LONG);
    let (_, end, output) = host.probe_end();
    assert_eq!((end, output.len()), (ProbeEnd::Ended(WorkloadEnd::Code(0)), PROBE_OUTPUT_MAX));
    assert!(output.ends_with(b"end\n"));
    host.kill();
}

#[test]
fn a_command_that_hangs_is_killed_with_what_it_started() {
    let mut host = Host::boot();
    host.idle(|_| {});
    host.probe(1, &["sh", "-c", "echo begun; sleep 1000 & sleep 1000"], Duration::from_millis(300));
    assert_eq!(host.probe_end(), (1, ProbeEnd::TimedOut, b"begun\n".to_vec()));
    // A process that it leaves behind holds up nothing.
    host.probe(2, &["sh", "-c", "sleep 1000 & echo left"], LONG);
    assert_eq!(host.probe_end(), (2, ProbeEnd::Ended(WorkloadEnd::Code(0)), b"left\n".to_vec()));
    host.kill();
}

#[test]
fn a_command_that_cannot_be_executed_says_why() {
    let mut host = Host::boot();
    host.idle(|_| {});
    for (command, code) in [(&["no-such-program"][..], 127), (&["/"], 126), (&[], 126)] {
        host.probe(1, command, LONG);
        match host.probe_end() {
            (1, ProbeEnd::NotStarted(failure), _) => assert_eq!(failure.code.code(), code, "{failure:?}"),
            other => panic!("{other:?}"),
        }
    }
    host.kill();
}

#[test]
fn a_new_command_replaces_one_that_runs_and_the_workloads_end_ends_both() {
    let mut host = Host::boot();
    host.probe(1, &["true"], LONG);
    host.start(&["sh", "-c", "read x; exit 5"], |start| start.stdin = true);
    assert_eq!(host.receive(), GuestMessage::Started, "nothing runs before the workload");
    host.probe(2, &["sleep", "1000"], LONG);
    host.probe(3, &["echo", "three"], LONG);
    assert_eq!(host.probe_end(), (3, ProbeEnd::Ended(WorkloadEnd::Code(0)), b"three\n".to_vec()));
    host.probe(4, &["sleep", "1000"], LONG);
    host.stdin.write_all(&encode(&StdinMessage::Bytes(Bytes::from(b"go\n".to_vec()))).unwrap()).unwrap();
    assert_eq!(host.exit().end, WorkloadEnd::Code(5));
    host.probe(5, &["true"], LONG);
    host.finish();
}

#[test]
fn a_command_has_the_workloads_user_whatever_is_said_of_it_since() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let mut host = Host::boot();
    let begin = |host: &mut Host, user: &str| {
        let mut start = Host::start_message(&["sleep", "1000"]);
        start.env = vec![(Bytes::from(b"HOME".to_vec()), Bytes::from(b"/".to_vec()))];
        let settings = protocol::Settings { user: Some(user.to_owned()), ..protocol::Settings::default() };
        host.send(&HostMessage::Begin(Box::new(Begin { start, settings })));
        host.receive()
    };
    assert_eq!(begin(&mut host, "65533:65532"), GuestMessage::Started);
    host.probe(1, &["sh", "-c", "id -u; id -g; id -G"], LONG);
    assert_eq!(host.probe_end().2, b"65533\n65532\n65532\n");
    host.kill();
    let mut host = Host::boot();
    let GuestMessage::NotStarted(failure) = begin(&mut host, "no-such-user-here") else { panic!("it was started") };
    assert!(failure.message.contains("there is no user \"no-such-user-here\""), "{}", failure.message);
    host.finish();
}
