//! What sessions run.

use super::*;

fn pair(name: &str, value: &str) -> (Bytes, Bytes) {
    (Bytes::from(name.as_bytes()), Bytes::from(value.as_bytes()))
}

#[test]
fn a_session_has_the_workloads_surroundings_and_what_it_says_itself() {
    let mut host = Host::boot();
    host.start(&["sh", "-c", "read line; exit 5"], |start| {
        start.stdin = true;
        start.env = vec![pair("A", "workload"), pair("B", "workload"), pair("PATH", "/bin:/usr/bin")];
        start.workdir = Some(Bytes::from(b"/usr".to_vec()));
        start.rlimits = vec![Rlimit { resource: 7, soft: 77, hard: 88 }];
    });
    assert_eq!(host.receive(), GuestMessage::Started);
    let mut link = host.link(1);
    let (end, stdout, _) = link.run(1, script("echo $A $B $C; pwd; ulimit -n; umask; [ -t 0 ] || cat"));
    assert_eq!((end, stdout), (code(0), b"workload workload\n/usr\n77\n0022\n".to_vec()));
    let env = vec![pair("B", "first"), pair("C", "own"), pair("B", "last")];
    let workdir = Some(Bytes::from(b"/tmp".to_vec()));
    let (_, stdout, _) = link.run(2, RunSession { env, workdir: workdir.clone(), ..command(&["env"]) });
    let expected = "A=workload\nPATH=/bin:/usr/bin\nC=own\nB=last\nHOME=/root\n";
    assert_eq!(String::from_utf8(stdout).unwrap(), expected);
    assert_eq!(link.run(3, RunSession { workdir, ..command(&["pwd"]) }).1, b"/tmp\n");
    host.done();
}

#[test]
fn what_cannot_be_executed_is_explained_in_the_commands_own_words() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let cases: [(RunSession, i32, &str); 7] = [
        (command(&["no-such-program"]), 127, "no-such-program: not found in the command's PATH"),
        (command(&["/no/such/program"]), 127, "/no/such/program: no such file in the rootfs"),
        (command(&["/tmp"]), 126, "/tmp: is a directory"),
        (command(&[]), 126, "the command is empty"),
        (command(&["a\0b"]), 126, "a NUL byte in command, environment or workdir"),
        (
            RunSession { workdir: Some(Bytes::from(b"/no/dir".to_vec())), ..command(&["true"]) },
            126,
            "the working directory /no/dir does not exist in the rootfs",
        ),
        (
            RunSession { user: Some("no-such-user-here".into()), ..command(&["true"]) },
            126,
            "there is no user \"no-such-user-here\" in the rootfs's /etc/passwd",
        ),
    ];
    for (id, (session, code, message)) in (1..).zip(cases) {
        assert_eq!(link.failure(id, session), (code, message.to_owned()));
    }
    host.done();
}

#[test]
fn a_session_may_run_as_somebody_else() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let host = Host::with_workload();
    let mut link = host.link(1);
    let user = Some("65533:65532".to_owned());
    let text = "id -u; id -g; id -G; echo $HOME; echo again >/dev/stdout; cat /proc/self/fd/0 </dev/stdin";
    link.open(1, RunSession { user, ..fed(text) });
    link.feed(1, b"input");
    link.tell(1, SessionCommand::EndInput { total: 5 });
    let (end, stdout, stderr) = link.end(1);
    assert_eq!(String::from_utf8_lossy(&stderr), "");
    assert_eq!((end, stdout), (code(0), b"65533\n65532\n65532\n/\nagain\ninput".to_vec()));
    host.done();
}

#[test]
fn a_mebibyte_of_arguments_arrives() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    // One of them may have 128 KiB.
    let word = "x".repeat((1 << 20) / 16 - 10);
    let mut words = vec!["sh", "-c", "printf '%s' \"$*\" | wc -c", "sh"];
    words.extend(std::iter::repeat_n(word.as_str(), 16));
    let (end, stdout, _) = link.run(1, command(&words));
    assert_eq!(
        (end, String::from_utf8(stdout).unwrap().trim().to_owned()),
        (code(0), (16 * word.len() + 15).to_string())
    );
    let (code, message) = link.failure(2, command(&["true", &"x".repeat(200 << 10)]));
    assert_eq!((code, message.as_str()), (126, "true: arguments and environment are too large"));
    host.done();
}

#[test]
fn a_login_shell_is_the_users_own() {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let root = passwd.lines().find(|line| line.split(':').nth(2) == Some("0")).unwrap();
    let [name, .., home, shell] = root.split(':').collect::<Vec<_>>()[..] else { panic!("{root}") };
    let mut host = Host::boot();
    host.start(&["sh", "-c", "read line; exit 5"], |start| {
        start.stdin = true;
        start.env = vec![pair("LOGNAME", "set")];
    });
    assert_eq!(host.receive(), GuestMessage::Started);
    let mut link = host.link(1);
    link.open(1, RunSession { stdin: true, ..session(SessionProgram::Shell) });
    let line = b"echo : $0 $HOME $USER $LOGNAME $SHELL; exit 9\n";
    link.feed(1, line);
    let (end, stdout, _) = link.end(1);
    let shell_name = shell.rsplit('/').next().unwrap();
    let expected = format!(": -{shell_name} {home} {name} set {shell}\n");
    let stdout = String::from_utf8(stdout).unwrap();
    assert!(end == code(9) && stdout.ends_with(&expected), "{stdout}{expected}");
    host.done();
}

#[test]
fn processes_are_listed_one_a_line() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    link.open(1, command(&["sleep", "54321"]));
    link.started(1);
    let (end, stdout, stderr) = link.run(2, session(SessionProgram::Processes));
    let stdout = String::from_utf8(stdout).unwrap();
    assert_eq!((end, String::from_utf8(stderr).unwrap()), (code(0), String::new()));
    assert!(stdout.lines().all(|line| line.starts_with("{\"pid\":") && line.ends_with("\"}")), "{stdout}");
    let line = stdout.lines().find(|line| line.contains("\"command\":\"sleep 54321\"")).expect(&stdout);
    assert!(line.contains(&format!("\"ppid\":{},\"user\":\"root\",", host.guest)), "{line}");
    // On a terminal as well, and for as long as it likes.
    let terminal = Some(TerminalSize { rows: 5, cols: 500 });
    let (end, stdout, _) = link.run(3, RunSession { terminal, ..session(SessionProgram::Processes) });
    assert_eq!(end, code(0));
    assert!(String::from_utf8(stdout).unwrap().contains("\"command\":\"sleep 54321\"}\r\n"));
    link.tell(1, SessionCommand::Signal(9));
    assert_eq!(link.end(1).0, killed_by(9));
    host.done();
}
