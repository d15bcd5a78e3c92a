//! The streams of the workload.

use super::*;

#[test]
fn background_processes_do_not_hold_up_the_end() {
    let mut host = Host::boot();
    let begun = Instant::now();
    let report = host.run(&["sh", "-c", "sleep 1000 & echo said; exit 3"], |_| {});
    assert_eq!(report, ExitReport { end: WorkloadEnd::Code(3), stdout_bytes: 5, stderr_bytes: 0 });
    assert!(begun.elapsed() < DRAIN_QUIET, "killed, not waited for");
    host.finish();
}

#[test]
fn a_pipe_that_nobody_can_close_does_not_hold_up_the_end_for_ever() {
    let mut host = Host::boot();
    // A session of its own escapes kill_all, which outside of a machine means the process group only.
    let report = host.run(&["sh", "-c", "setsid sh -c 'echo said; sleep 5' & sleep 0.5; exit 3"], |_| {});
    assert_eq!(report, ExitReport { end: WorkloadEnd::Code(3), stdout_bytes: 5, stderr_bytes: 0 });
    host.finish();
}

#[test]
fn standard_input_is_fed_and_ends() {
    let mut host = Host::boot();
    host.start(&["cat"], |start| start.stdin = true);
    assert_eq!(host.receive(), GuestMessage::Started);
    let text = "line\n".repeat(40_000);
    let mut stdin = host.stdin.try_clone().unwrap();
    let mut stdout = host.stdout.try_clone().unwrap();
    let bytes = text.clone().into_bytes();
    let writer = std::thread::spawn(move || {
        for piece in bytes.chunks(4000) {
            stdin.write_all(&encode(&StdinMessage::Bytes(Bytes::from(piece))).unwrap()).unwrap();
        }
        stdin.write_all(&encode(&StdinMessage::End).unwrap()).unwrap();
    });
    let mut output = vec![0; text.len()];
    stdout.read_exact(&mut output).unwrap();
    writer.join().unwrap();
    assert!(output == text.into_bytes());
    assert_eq!(host.exit().end, WorkloadEnd::Code(0));
    host.finish();
}

#[test]
fn without_standard_input_the_workload_reads_its_end() {
    let mut host = Host::boot();
    assert_eq!(host.run(&["cat"], |_| {}).end, WorkloadEnd::Code(0));
    host.finish();
}

#[test]
fn a_full_output_holds_up_nothing_else() {
    let mut host = Host::boot();
    host.start(&["sh", "-c", "(sleep 0.2; echo still >&2; read line; echo $line >&2) & exec yes"], |start| {
        start.stdin = true;
    });
    assert_eq!(host.receive(), GuestMessage::Started);
    let mut text = [0; 6];
    host.stderr.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"still\n");
    host.send(&HostMessage::Query { nonce: 5 });
    assert_eq!(host.receive(), UNDERSTANDS);
    assert_eq!(host.receive(), GuestMessage::Status { nonce: 5, state: GuestState::Running });
    host.send(&HostMessage::Signal(15));
    let mut stdout = host.stdout.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).unwrap();
        output.len() as u64
    });
    let report = host.exit();
    assert_eq!(report.end, WorkloadEnd::Signal(15));
    host.send(&HostMessage::AcknowledgeExit);
    assert_eq!(reader.join().unwrap(), report.stdout_bytes);
    host.finish_quietly();
}
