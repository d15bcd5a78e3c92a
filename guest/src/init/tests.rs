//! The whole loop with real workloads, in a forked process as in a machine: sockets and pipes stand
//! for the ports, and this machine's `/` for the guest's.
#![allow(unsafe_code)] // fork

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, pipe2};
use sandpen_guest::protocol::{
    FrameReader, Garbage, Network, PROBE_OUTPUT_MAX, Rlimit, RootfsSource, Start, StdinMessage, encode,
};

use super::*;

mod caches;
mod probe;
mod sessions;
mod streams;
mod terminal;

/// The name of a file that stands for the kernel's switch.
const SWITCH: &str = "drop_caches";

struct Host {
    control: UnixStream,
    /// The port of sessions.
    sessions: UnixStream,
    reader: FrameReader<GuestMessage>,
    stdin: File,
    stdout: File,
    stderr: File,
    files: File,
    /// Where the kernel's switch for its caches is.
    dir: TempDir,
    guest: Pid,
}

impl Host {
    fn boot() -> Self {
        Self::boot_with(|_| Ok(None))
    }

    fn boot_with(prepare: Prepare) -> Self {
        let (control, guest_control) = UnixStream::pair().unwrap();
        guest_control.set_nonblocking(true).unwrap();
        let (sessions, guest_sessions) = UnixStream::pair().unwrap();
        guest_sessions.set_nonblocking(true).unwrap();
        for socket in [&control, &sessions] {
            socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        }
        let pipe = || pipe2(OFlag::O_CLOEXEC).unwrap();
        let (guest_stdin, stdin) = pipe();
        let (stdout, guest_stdout) = pipe();
        let (stderr, guest_stderr) = pipe();
        let (guest_files, files) = pipe();
        let dir = tempdir();
        fs::write(dir.0.join(SWITCH), "").unwrap();
        for fd in [&guest_stdin, &guest_stdout, &guest_stderr, &guest_files] {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        // SAFETY: the child runs only the session and ends without returning.
        let guest = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                let ours = [guest_control.as_raw_fd(), guest_stdin.as_raw_fd(), guest_sessions.as_raw_fd()]
                    .into_iter()
                    .chain([guest_stdout.as_raw_fd(), guest_stderr.as_raw_fd(), guest_files.as_raw_fd()])
                    .collect::<Vec<_>>();
                for fd in (3..200).filter(|fd| !ours.contains(fd)) {
                    // SAFETY: what other tests of this process have open is theirs alone; no owner
                    // of a descriptor that is closed here is ever dropped in this process.
                    unsafe { libc::close(fd) };
                }
                let ports = Ports {
                    control: guest_control.into(),
                    stdin: guest_stdin,
                    stdout: guest_stdout,
                    stderr: guest_stderr,
                    files: guest_files,
                    sessions: guest_sessions.into(),
                };
                let served =
                    Init::new(ports, &dir.0.join(SWITCH), OutOfMemory::default(), prepare).and_then(Init::serve);
                // SAFETY: ends the process.
                unsafe { libc::_exit(i32::from(served.is_err())) }
            }
        };
        let mut host = Self {
            control,
            sessions,
            reader: FrameReader::new(Garbage::Refuse),
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
            files: files.into(),
            dir,
            guest,
        };
        assert_eq!(host.receive(), GuestMessage::Ready { version: PROTOCOL_VERSION });
        assert_eq!(host.receive(), UNDERSTANDS);
        host
    }

    fn send(&mut self, message: &HostMessage) {
        self.control.write_all(&encode(message).unwrap()).unwrap();
    }

    fn receive(&mut self) -> GuestMessage {
        loop {
            if let Some(message) = self.reader.next().unwrap() {
                return message;
            }
            let mut chunk = [0; 4096];
            let len = self.control.read(&mut chunk).expect("the guest answers in time");
            assert_ne!(len, 0, "the guest closed its port");
            assert_eq!(self.reader.push(&chunk[..len]), len);
        }
    }

    fn start_message(command: &[&str]) -> Start {
        Start {
            command: command.iter().map(|arg| Bytes::from(arg.as_bytes())).collect(),
            env: vec![],
            workdir: None,
            hostname: "test".into(),
            stdin: false,
            rootfs: RootfsSource::Current,
            wall_clock: Duration::ZERO,
            entropy: [[0; 32]; 2],
            power_off: PowerOff::Reset,
            terminal: None,
            volumes: Vec::new(),
            rlimits: vec![],
            network: Network::Loopback,
            resolv_conf: None,
        }
    }

    fn start(&mut self, command: &[&str], change: impl FnOnce(&mut Start)) {
        let mut start = Self::start_message(command);
        change(&mut start);
        self.send(&HostMessage::Start(Box::new(start)));
    }

    /// Starts, expects that to work, and waits for the end.
    fn run(&mut self, command: &[&str], change: impl FnOnce(&mut Start)) -> ExitReport {
        self.start(command, change);
        assert_eq!(self.receive(), GuestMessage::Started);
        self.exit()
    }

    fn exit(&mut self) -> ExitReport {
        match self.receive() {
            GuestMessage::Exit(report) => report,
            other => panic!("{other:?} instead of Exit"),
        }
    }

    fn failure(&mut self, command: &[&str], change: impl FnOnce(&mut Start)) -> (i32, String) {
        self.start(command, change);
        match self.receive() {
            GuestMessage::NotStarted(failure) => (failure.code.code(), failure.message),
            other => panic!("{other:?} instead of NotStarted"),
        }
    }

    /// Acknowledges, expects the guest to be satisfied, and gives all output.
    fn finish(mut self) -> (String, String) {
        self.send(&HostMessage::AcknowledgeExit);
        assert_eq!(waitpid(self.guest, None).unwrap(), WaitStatus::Exited(self.guest, 0));
        let mut texts = (String::new(), String::new());
        self.stdout.read_to_string(&mut texts.0).unwrap();
        self.stderr.read_to_string(&mut texts.1).unwrap();
        texts
    }
}

#[test]
fn output_and_exit_code_come_through() {
    let mut host = Host::boot();
    let report = host.run(&["sh", "-c", "echo out; echo error >&2; exit 42"], |_| {});
    assert_eq!(report, ExitReport { end: WorkloadEnd::Code(42), stdout_bytes: 4, stderr_bytes: 6 });
    assert_eq!(host.finish(), ("out\n".into(), "error\n".into()));
}

#[test]
fn the_environment_is_exact() {
    let mut host = Host::boot();
    host.run(&["env"], |start| start.env = vec![(Bytes::from(b"A".to_vec()), Bytes::from(b"b=c \xFF".to_vec()))]);
    let mut output = Vec::new();
    host.send(&HostMessage::AcknowledgeExit);
    host.stdout.read_to_end(&mut output).unwrap();
    let expected = [b"A=b=c \xFF\nPATH=", super::workload::DEFAULT_PATH.as_bytes(), b"\nHOME=/root\n"].concat();
    assert_eq!(output, expected);
    host.finish_quietly();
}

#[test]
fn the_program_is_looked_up_in_its_own_path() {
    let dir = tempdir();
    let path = dir.0.join("only-here");
    fs::write(&path, "#!/bin/sh\necho found $0 $1\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let value = Bytes::from(format!("/nowhere:{}", dir.0.display()).into_bytes());
    let mut host = Host::boot();
    host.run(&["only-here", "x"], |start| start.env = vec![(Bytes::from(b"PATH".to_vec()), value)]);
    assert_eq!(host.finish().0, format!("found {} x\n", path.display()));
}

#[test]
fn the_workload_gets_its_streams_its_session_and_nothing_else() {
    let mut host = Host::boot();
    let script = "ls /proc/self/fd; grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; cut -d' ' -f5,6 /proc/$$/stat; echo $$; umask";
    host.run(&["sh", "-c", script], |_| {});
    let output = host.finish().0;
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..4], ["0", "1", "2", "3"], "3 is the directory that ls reads");
    // Signals 32 and 33 belong to the C library, which keeps its hands off them.
    let ours = |line: &str| u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap() & !(0b11 << 31);
    assert_eq!((ours(lines[4]), ours(lines[5])), (0, 0), "{output}");
    assert_eq!(lines[7], format!("{0} {0}", lines[8]), "leads its group and session");
    assert_eq!(lines[9], "0022");
}

#[test]
fn limits_hold_for_the_workload() {
    const CORE: u32 = 4;
    const NOFILE: u32 = 7;
    let limit = |resource, soft, hard| Rlimit { resource, soft, hard };
    let mut host = Host::boot();
    host.run(&["sh", "-c", "ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hc"], |start| {
        start.rlimits = vec![limit(NOFILE, 64, 128), limit(CORE, 0, 512)];
    });
    assert_eq!(host.finish().0, "64\n128\n0\n1\n", "cores count in blocks of 512 bytes");
    let mut host = Host::boot();
    let (code, message) = host.failure(&["true"], |start| {
        start.rlimits = vec![limit(CORE, 0, 0), limit(NOFILE, 1, u64::MAX)];
    });
    host.finish();
    assert!(code == 126 && message.contains("nofile") && message.contains("fs.nr_open"), "{message}");
    let mut host = Host::boot();
    let (code, message) = host.failure(&["true"], |start| start.rlimits = vec![limit(CORE, 2, 1)]);
    host.finish();
    assert!(code == 126 && message.contains("core"), "{message}");
}

#[test]
fn what_cannot_be_executed_is_explained() {
    let dir = tempdir();
    let file = |name: &str, content: &str, mode| {
        let path = dir.0.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain", "#!/bin/sh\n", 0o644);
    let no_interpreter = file("no-interpreter", "#!/no/such/shell\n", 0o755);
    let no_format = file("no-format", "echo hello\n", 0o755);
    let cases: [(&[&str], i32, &str); 7] = [
        (&["no-such-program"], 127, "not found in the workload's PATH"),
        (&["/no/such/program"], 127, "no such file in the rootfs"),
        (&[&no_interpreter], 127, "interpreter or dynamic loader"),
        (&[&plain], 126, "chmod +x"),
        (&["/tmp"], 126, "is a directory"),
        (&[&no_format], 126, "not a program for this machine"),
        (&[], 126, "empty"),
    ];
    for (command, code, words) in cases {
        let mut host = Host::boot();
        let (given, message) = host.failure(command, |_| {});
        assert_eq!(given, code, "{command:?}: {message}");
        assert!(message.contains(words), "{message}");
        host.finish();
    }
    // What is in the way of the working directory.
    let mut host = Host::boot();
    let workdir = format!("{plain}/below");
    let (code, message) =
        host.failure(&["true"], |start| start.workdir = Some(Bytes::from(workdir.clone().into_bytes())));
    assert_eq!((code, message), (126, format!("changing into the working directory {workdir}: Not a directory")));
    host.finish();
}

#[test]
fn a_missing_working_directory_is_made() {
    let dir = tempdir();
    let workdir = dir.0.join("new/dir");
    let mut host = Host::boot_with(|begin| {
        workload::make_workdir(&begin.start);
        Ok(None)
    });
    host.run(&["pwd"], |start| start.workdir = Some(Bytes::from(workdir.to_str().unwrap().as_bytes().to_vec())));
    assert_eq!(host.finish().0, format!("{}\n", workdir.display()));
}

#[test]
fn a_machine_that_cannot_be_prepared_is_reported() {
    let mut host = Host::boot_with(|_| {
        Err(crate::rootfs::RootfsError::Mount { what: "the root".into(), target: "/", source: Errno::ENODEV }.into())
    });
    let (code, message) = host.failure(&["true"], |_| {});
    assert_eq!((code, message.as_str()), (126, "preparing the guest: mounting the root on /: ENODEV: No such device"));
    host.finish();
}

#[test]
fn signals_reach_the_workload() {
    for signal in [15, 9, 40] {
        let mut host = Host::boot();
        host.start(&["sleep", "1000"], |_| {});
        assert_eq!(host.receive(), GuestMessage::Started);
        host.send(&HostMessage::Signal(signal));
        assert_eq!(host.exit().end, WorkloadEnd::Signal(u8::try_from(signal).unwrap()));
        host.finish();
    }
}

#[test]
fn a_stop_before_the_start_wins() {
    let mut host = Host::boot();
    host.send(&HostMessage::Signal(28)); // SIGWINCH ends nothing
    host.send(&HostMessage::Signal(15));
    let (code, message) = host.failure(&["echo", "never"], |_| {});
    assert_eq!(code, 126);
    assert!(message.contains("signal 15"), "{message}");
    assert_eq!(host.finish().0, "");
}

#[test]
fn a_new_host_asks_and_hears_the_end_again() {
    let mut host = Host::boot();
    let report = host.run(&["sh", "-c", "echo hello; exit 9"], |_| {});
    // The old host died in the middle of a frame.
    let half = encode(&HostMessage::Signal(9)).unwrap();
    host.control.write_all(&half[..half.len() - 1]).unwrap();
    for nonce in [1, u64::MAX] {
        host.send(&HostMessage::Query { nonce });
    }
    assert_eq!(host.receive(), UNDERSTANDS);
    assert_eq!(host.receive(), GuestMessage::Status { nonce: 1, state: GuestState::Ended(report) });
    assert_eq!(host.receive(), UNDERSTANDS);
    assert_eq!(host.receive(), GuestMessage::Status { nonce: u64::MAX, state: GuestState::Ended(report) });
    host.finish();
}

#[test]
fn a_status_before_the_start_says_so() {
    let mut host = Host::boot();
    host.send(&HostMessage::AcknowledgeExit); // too early: ignored
    host.send(&HostMessage::Query { nonce: 3 });
    assert_eq!(host.receive(), UNDERSTANDS);
    assert_eq!(host.receive(), GuestMessage::Status { nonce: 3, state: GuestState::AwaitingStart });
    host.run(&["true"], |_| {});
    host.finish();
}

impl Host {
    fn finish_quietly(self) {
        assert_eq!(waitpid(self.guest, None).unwrap(), WaitStatus::Exited(self.guest, 0));
    }
}

struct TempDir(std::path::PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tempdir() -> TempDir {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("sandpen-guest-test-{}-{count}", std::process::id()));
    fs::create_dir(&path).unwrap();
    TempDir(path)
}
