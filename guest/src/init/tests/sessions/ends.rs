//! How sessions end.

use super::*;

#[test]
fn codes_and_signals_come_back() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    assert_eq!(link.run(1, script("exit 255")).0, code(255));
    assert_eq!(link.run(2, script("kill -15 $$")).0, killed_by(15));
    // The whole group hears it.
    for (id, signal) in [(3, 15), (4, 9), (5, 40)] {
        link.open(id, script("sleep 1000; echo never"));
        link.started(id);
        link.tell(id, SessionCommand::Signal(signal));
        let (end, stdout, _) = link.end(id);
        assert_eq!((end, stdout), (killed_by(u8::try_from(signal).unwrap()), vec![]));
    }
    // Too late.
    link.open(6, script("exit 1"));
    link.until(|link| link.seen[&6].end.is_some());
    link.tell(6, SessionCommand::Signal(9));
    assert_eq!(link.end(6).0, code(1));
    host.done();
}

#[test]
fn whose_time_is_up_is_killed_with_its_group() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let limit = Some(Duration::from_millis(300));
    let (end, stdout, _) = link.run(1, RunSession { limit, ..script("echo begun; sleep 1000 & sleep 1000") });
    assert_eq!((end, stdout), (SessionEnd::TimedOut, b"begun\n".to_vec()));
    // Longer than all time.
    assert_eq!(link.run(2, RunSession { limit: Some(Duration::MAX), ..script("exit 2") }).0, code(2));
    host.done();
}

#[test]
fn what_is_hung_up_may_say_a_last_word_and_else_is_killed() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    link.open(1, script("trap 'echo last; exit 3' HUP; echo ready; while :; do sleep 0.05; done"));
    link.open(2, script("trap '' HUP; echo ready; while :; do sleep 0.05; done"));
    let terminal = Some(TerminalSize { rows: 5, cols: 50 });
    link.open(
        3,
        RunSession { terminal, ..fed("trap '' HUP; (trap '' HUP; exec sleep 1000) & echo ready; exec sleep 1000") },
    );
    for id in [1, 2, 3] {
        link.sees(id, "ready");
        link.tell(id, SessionCommand::HangUp);
        link.tell(id, SessionCommand::HangUp);
    }
    let begun = Instant::now();
    let (end, stdout, _) = link.end(1);
    assert_eq!((end, stdout), (code(3), b"ready\nlast\n".to_vec()));
    assert_eq!(link.end(2).0, killed_by(9));
    assert!(begun.elapsed() >= Duration::from_secs(1), "it had some time");
    assert_eq!(link.end(3).0, killed_by(9));
    host.done();
}

#[test]
fn who_is_forgotten_is_killed() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let dir = tempdir();
    let fifo = dir.0.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Its end shows as that of whoever holds the pipe.
    link.open(1, script(&format!("exec 3>{}; echo up >&3; sleep 1000", fifo.display())));
    let mut held = File::open(&fifo).unwrap();
    let mut text = [0; 3];
    held.read_exact(&mut text).unwrap();
    link.tell(1, SessionCommand::Forget);
    assert_eq!(held.read(&mut text).unwrap(), 0, "its processes are gone");
    let link = host.link(2);
    assert!(link.seen.is_empty());
    host.done();
}

#[test]
fn a_process_left_behind_holds_up_no_end_and_lives() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let dir = tempdir();
    let log = dir.0.join("log");
    let ended = dir.0.join("ended");
    // More than a pipe takes, written when nobody wants it any more.
    let left = format!(
        "(while [ ! -e {0} ]; do sleep 0.05; done; yes | head -c 500000; echo $? >{1}.new; mv {1}.new {1}) &",
        ended.display(),
        log.display()
    );
    let (end, stdout, _) = link.run(1, script(&format!("{left} echo said; exit 3")));
    assert_eq!((end, stdout), (code(3), b"said\n".to_vec()));
    // The same of a terminal, whose group hears a hang-up.
    let terminal = Some(TerminalSize { rows: 5, cols: 50 });
    let (end, stdout, _) =
        link.run(2, RunSession { terminal, ..script("(trap '' HUP; while echo on; do sleep 0.1; done) & exit 4") });
    assert_eq!(end, code(4));
    assert!(stdout.len() < 1000);
    fs::write(&ended, "").unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !log.exists() {
        assert!(Instant::now() < deadline, "it waits for a reader");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(fs::read_to_string(&log).unwrap(), "0\n");
    // What goes on for ever is no end either.
    let (end, _, _) = link.run(3, script("yes & sleep 0.2; echo $! >&2; exit 5"));
    assert_eq!(end, code(5));
    host.done();
}

#[test]
fn before_and_after_the_workload_no_session_begins() {
    let mut host = Host::boot();
    let mut link = host.link(1);
    link.describe(1, script("echo never"));
    link.until(|link| link.refused == [(1, SessionRefusal::NotRunning)]);
    host.start(&["no-such-program"], |_| {});
    assert!(matches!(host.receive(), GuestMessage::NotStarted(_)));
    link.describe(2, script("echo never"));
    link.until(|link| link.is_closing && link.refused.contains(&(2, SessionRefusal::Closing)));
    host.finish();
}

#[test]
fn the_workloads_end_hangs_up_all_and_waits_for_what_they_say() {
    let mut host = Host::with_workload();
    let mut link = host.link(1);
    link.open(1, script("trap 'sleep 0.3; echo last; exit 3' HUP; echo ready; while :; do sleep 0.05; done"));
    link.open(2, script("trap '' HUP; echo ready; while :; do sleep 0.05; done"));
    link.open(3, script("echo over; exit 7"));
    link.until(|link| link.seen[&3].end.is_some());
    for id in [1, 2] {
        link.sees(id, "ready");
    }
    host.end_workload();
    link.until(|link| link.is_closing);
    link.describe(4, script("echo never"));
    link.until(|link| link.refused == [(4, SessionRefusal::Closing)]);
    let (end, stdout, _) = link.end(1);
    assert_eq!((end, stdout), (code(3), b"ready\nlast\n".to_vec()));
    let (end, stdout, _) = link.end(2);
    assert_eq!((end, stdout), (killed_by(9), b"ready\n".to_vec()));
    host.send(&HostMessage::Query { nonce: 1 });
    assert_eq!(host.receive(), UNDERSTANDS);
    assert_eq!(host.receive(), GuestMessage::Status { nonce: 1, state: GuestState::Running }, "one is not forgotten");
    assert_eq!(link.end(3), (code(7), b"over\n".to_vec(), vec![]));
    assert_eq!(host.exit(), ExitReport { end: WorkloadEnd::Code(5), stdout_bytes: 0, stderr_bytes: 0 });
    host.finish();
}

/// A session that has ended, and of which the host takes nothing.
fn untaken() -> (Host, Link) {
    let host = Host::with_workload();
    let mut link = host.link(1);
    link.tenths = Some(0);
    link.open(1, script("echo said; exit 1"));
    link.until(|link| link.seen[&1].end.is_some());
    (host, link)
}

#[test]
fn a_host_that_takes_nothing_holds_up_the_end_not_for_ever() {
    let (mut host, mut link) = untaken();
    link.open(2, script("exec sleep 1000"));
    link.started(2);
    let begun = Instant::now();
    host.end_workload();
    assert_eq!(host.exit().end, WorkloadEnd::Code(5));
    assert!(begun.elapsed() >= DRAIN_QUIET, "it was waited for");
    // Another one still gets all of it.
    let mut link = Link::join(link.port, 2, BTreeMap::new());
    assert_eq!(link.seen.len(), 2);
    link.take(1);
    assert_eq!(link.end(1), (code(1), b"said\n".to_vec(), vec![]));
    assert_eq!(link.end(2).0, killed_by(1));
    link.until(|link| link.is_closing);
    host.finish();
}

/// A daemon that comes after another one's death hears of the workload's end first.
#[test]
fn what_sessions_said_at_last_is_taken_before_the_machine_ends() {
    let (mut host, link) = untaken();
    host.end_workload();
    assert_eq!(host.exit().end, WorkloadEnd::Code(5));
    host.send(&HostMessage::AcknowledgeExit);
    let mut link = Link::join(link.port, 2, BTreeMap::new());
    link.take(1);
    assert_eq!(link.end(1), (code(1), b"said\n".to_vec(), vec![]));
    host.finish();
}
