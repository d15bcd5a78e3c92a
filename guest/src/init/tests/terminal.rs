//! Workloads on a terminal.

use super::*;

const SIZE: TerminalSize = TerminalSize { rows: 33, cols: 77 };

/// A host whose guest has begun to run `script` on a terminal.
fn on_terminal(script: &str) -> Host {
    let mut host = Host::boot();
    host.start(&["sh", "-c", script], |start| {
        start.stdin = true;
        start.terminal = Some(SIZE);
    });
    assert_eq!(host.receive(), GuestMessage::Started);
    host
}

impl Host {
    fn type_bytes(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(4000) {
            self.stdin.write_all(&encode(&StdinMessage::Bytes(Bytes::from(piece))).unwrap()).unwrap();
        }
    }

    fn type_end(&mut self) {
        self.stdin.write_all(&encode(&StdinMessage::End).unwrap()).unwrap();
    }

    /// Reads output up to and with `wanted`.
    fn see(&mut self, wanted: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(wanted.as_bytes()) {
            let mut byte = [0];
            self.stdout.read_exact(&mut byte).expect(wanted);
            seen.push(byte[0]);
        }
        String::from_utf8(seen).unwrap()
    }
}

#[test]
fn the_workload_has_it_on_all_streams_and_controls_it() {
    let script = "for fd in 0 1 2; do [ -t $fd ] || echo no $fd; done; stty size; echo $TERM; echo err >&2; \
                  echo tty >/dev/tty; ls /proc/self/fd; cut -d' ' -f6,8 /proc/$$/stat; echo $$; exit 7";
    let mut host = on_terminal(script);
    let report = host.exit();
    let (output, stderr) = host.finish();
    assert_eq!(stderr, "");
    assert_eq!((report.end, report.stdout_bytes, report.stderr_bytes), (WorkloadEnd::Code(7), output.len() as u64, 0));
    let lines: Vec<_> = output.split("\r\n").collect();
    assert_eq!(lines[..4], ["33 77", "xterm", "err", "tty"], "{output:?}");
    assert_eq!(lines[4].split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "{output:?}");
    let (session, group) = lines[5].split_once(' ').unwrap();
    assert_eq!((session, group == "-1"), (lines[6], false), "{output:?}");
}

#[test]
fn a_new_size_is_told_and_an_early_one_remembered() {
    let mut host = Host::boot();
    host.send(&HostMessage::Resize(TerminalSize { rows: 5, cols: 6 }));
    host.start(&["sh", "-c", "trap 'stty size; exit 3' WINCH; stty size; while :; do sleep 0.05; done"], |start| {
        start.terminal = Some(SIZE);
    });
    assert_eq!(host.receive(), GuestMessage::Started);
    host.see("5 6\r\n");
    host.send(&HostMessage::Resize(TerminalSize { rows: 65535, cols: 1 }));
    host.see("65535 1\r\n");
    assert_eq!(host.exit().end, WorkloadEnd::Code(3));
    host.send(&HostMessage::Resize(SIZE)); // too late: ignored
    host.finish();
}

#[test]
fn a_size_without_a_terminal_changes_nothing() {
    let mut host = Host::boot();
    host.start(&["sh", "-c", "read x; echo $x"], |start| start.stdin = true);
    assert_eq!(host.receive(), GuestMessage::Started);
    host.send(&HostMessage::Resize(SIZE));
    host.type_bytes(b"still here\n");
    assert_eq!(host.exit().end, WorkloadEnd::Code(0));
    assert_eq!(host.finish().0, "still here\n");
}

#[test]
fn control_characters_reach_the_foreground_group() {
    let mut host = on_terminal("trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done");
    host.see("ready\r\n");
    host.type_bytes(b"\x03");
    host.see("caught\r\n");
    assert_eq!(host.exit().end, WorkloadEnd::Code(5));
    host.finish();
}

#[test]
fn the_end_of_the_input_is_typed_and_more_may_follow() {
    let mut host = on_terminal("stty -echo; echo ready; cat; echo one; cat; echo two; cat; echo three");
    host.see("ready\r\n");
    host.type_bytes(b"line\n");
    host.type_end();
    assert_eq!(host.see("one\r\n"), "line\r\none\r\n");
    host.type_bytes(b"unfinished");
    host.type_end();
    assert_eq!(host.see("two\r\n"), "unfinishedtwo\r\n");
    host.type_end();
    host.see("three\r\n");
    assert_eq!(host.exit().end, WorkloadEnd::Code(0));
    host.finish();
}

#[test]
fn all_that_was_written_is_carried_and_counted() {
    let mut host = on_terminal("stty -opost; yes 0123456789abcdef | head -c 300000; exit 4");
    let mut output = vec![0; 300_000];
    host.stdout.read_exact(&mut output).unwrap();
    assert!(output.chunks(17).all(|line| b"0123456789abcdef\n".starts_with(line)));
    let report = host.exit();
    assert_eq!((report.end, report.stdout_bytes), (WorkloadEnd::Code(4), 300_000));
    host.finish();
}

#[test]
fn a_terminal_that_is_closed_and_opened_again_is_no_end() {
    let mut host = on_terminal("exec </dev/null >/dev/null 2>&1; sleep 0.3; echo again >/dev/tty; exit 6");
    assert_eq!(host.see("again\r\n"), "again\r\n");
    assert_eq!(host.exit(), ExitReport { end: WorkloadEnd::Code(6), stdout_bytes: 7, stderr_bytes: 0 });
    host.finish();
}

#[test]
fn a_workload_that_does_not_read_its_terminal_holds_up_nothing() {
    let mut host = on_terminal("stty raw -echo; echo ready; exec sleep 1000");
    host.see("ready\n");
    let mut stdin = host.stdin.try_clone().unwrap();
    let typist = std::thread::spawn(move || {
        let frame = encode(&StdinMessage::Bytes(Bytes::from(vec![b'x'; 4000]))).unwrap();
        // Ends when the guest is gone.
        while stdin.write_all(&frame).is_ok() {}
    });
    for nonce in 0..50 {
        host.send(&HostMessage::Query { nonce });
        assert_eq!(host.receive(), UNDERSTANDS);
        assert_eq!(host.receive(), GuestMessage::Status { nonce, state: GuestState::Running });
    }
    host.send(&HostMessage::Resize(SIZE));
    host.send(&HostMessage::Signal(15));
    assert_eq!(host.exit().end, WorkloadEnd::Signal(15));
    host.send(&HostMessage::AcknowledgeExit);
    host.finish_quietly();
    typist.join().unwrap();
}

#[test]
fn background_jobs_on_the_terminal_do_not_hold_up_the_end() {
    let mut host = on_terminal("(trap '' HUP; sleep 1000) & echo said; exit 3");
    let begun = Instant::now();
    let report = host.exit();
    assert_eq!(report, ExitReport { end: WorkloadEnd::Code(3), stdout_bytes: 6, stderr_bytes: 0 });
    assert!(begun.elapsed() < DRAIN_QUIET, "killed, not waited for");
    host.finish();
}
