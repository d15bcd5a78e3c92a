//! The daemon's life through the command line: automatic start, one per state directory, strangers
//! and damage in the state directory.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;

use crate::support::{self, Home, explain, finish, is_there, send, until};

fn make_state(home: &Home) {
    fs::DirBuilder::new().mode(0o700).create(home.state()).unwrap();
}

#[test]
fn the_first_command_starts_it_and_shutdown_ends_it() {
    let home = Home::new();
    assert_eq!(home.ok(&["ps", "--json"]), "[]\n");
    let pid = home.daemon_pid();
    let mode = |name: &str| fs::metadata(home.state().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(""), mode("sandpen.sock"), mode("daemon.log"), mode("sandpen.db")], [0o700, 0o600, 0o600, 0o600]);
    // It left our session, directory and pipes.
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session: u32 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_eq!(session, pid);
    home.ok(&["shutdown"]);
    assert!(!home.state().join("sandpen.sock").exists());
    until("it is gone", || !is_there(pid));
    let again = home.run(&["shutdown"]);
    assert!(
        again.status.success() && String::from_utf8_lossy(&again.stderr).contains("no daemon"),
        "{}",
        explain(&again)
    );
}

#[test]
fn many_clients_at_once_start_one_daemon() {
    let home = Home::new();
    let children: Vec<_> = (0..8)
        .map(|_| home.sandpen(&["ps", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in children {
        let output = finish(child);
        assert_eq!(output.stdout, b"[]\n", "{}", explain(&output));
        assert!(output.status.success(), "{}", explain(&output));
    }
    let daemons = home.processes();
    assert_eq!(daemons.len(), 1, "{daemons:?}");
}

#[test]
fn a_second_one_says_who_is_there() {
    let home = Home::new();
    home.ok(&["ps"]);
    let pid = home.daemon_pid();
    let error = home.fails(&["daemon"]);
    assert!(error.contains(&format!("process {pid}")), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    home.ok(&["ps"]);
    assert_eq!(home.daemon_pid(), pid);
}

#[test]
fn a_killed_one_is_replaced_by_the_next_command() {
    let home = Home::new();
    home.ok(&["ps"]);
    let first = home.daemon_pid();
    send(first, Signal::SIGKILL);
    until("it is gone", || !is_there(first));
    assert!(home.state().join("sandpen.sock").exists());
    assert_eq!(home.ok(&["ps", "--json"]), "[]\n");
    assert_ne!(home.daemon_pid(), first);
}

#[test]
fn signals_end_it_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let home = Home::new();
        let mut daemon = home.sandpen(&["daemon"]).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(daemon.stderr.take().unwrap()).lines();
        assert!(log.any(|line| line.unwrap().contains("serving")));
        home.ok(&["ps"]);
        send(daemon.id(), signal);
        let left: Vec<_> = log.map(Result::unwrap).collect();
        assert!(daemon.wait().unwrap().success(), "{signal}: {left:?}");
        assert!(!home.state().join("sandpen.sock").exists());
    }
}

#[test]
fn a_stranger_on_the_socket_is_noticed() {
    for (answer, word) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"[..], "not ours"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 76\r\n\r\n{\"name\":\"other\",\"version\":\"1\",\"api\":1,\"pid\":1,\"state_dir\":\"/\",\"padding\":0000}", "not ours"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "404"),
        (b"SSH-2.0-OpenSSH\r\n", "sandpen.sock"),
        (b"", "sandpen.sock"),
    ] {
        let home = Home::new();
        make_state(&home);
        let listener = UnixListener::bind(home.state().join("sandpen.sock")).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let stranger = std::thread::spawn({
            let done = Arc::clone(&done);
            move || {
                while let Ok((mut stream, _)) = listener.accept()
                    && !done.load(Ordering::SeqCst)
                {
                    let _ = stream.read(&mut [0; 1024]).unwrap();
                    let _ = stream.write_all(answer);
                }
            }
        });
        let output = home.run(&["run", home.path().to_str().unwrap(), "--", "true"]);
        done.store(true, Ordering::SeqCst);
        UnixStream::connect(home.state().join("sandpen.sock")).unwrap();
        stranger.join().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{}", explain(&output));
        assert!(error.contains("sandpen.sock") && error.contains("--state-dir") && error.contains(word), "{error}");
        support::until("nothing runs", || home.processes().is_empty());
    }
}

#[test]
fn another_api_version_is_said_and_can_be_shut_down() {
    let home = Home::new();
    make_state(&home);
    let listener = UnixListener::bind(home.state().join("sandpen.sock")).unwrap();
    let body = r#"{"name":"sandpen","version":"9.9.9","api":99,"pid":1,"state_dir":"/"}"#;
    let stranger = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    });
    let error = home.fails(&["ps"]);
    stranger.join().unwrap();
    assert!(error.contains("9.9.9") && error.contains("sandpen shutdown"), "{error}");
}

#[test]
fn a_stale_socket_or_a_file_in_its_place_is_replaced() {
    for file in [true, false] {
        let home = Home::new();
        make_state(&home);
        let path = home.state().join("sandpen.sock");
        if file {
            fs::write(&path, "x").unwrap();
        } else {
            drop(UnixListener::bind(&path).unwrap());
        }
        assert_eq!(home.ok(&["ps", "--json"]), "[]\n");
    }
}

#[test]
fn a_directory_in_the_sockets_place_is_said() {
    let home = Home::new();
    make_state(&home);
    fs::create_dir(home.state().join("sandpen.sock")).unwrap();
    let error = home.fails(&["ps"]);
    assert!(error.contains("sandpen.sock"), "{error}");
    support::until("nothing runs", || home.processes().is_empty());
}

#[test]
fn a_damaged_database_is_said_and_left_as_it_is() {
    let home = Home::new();
    make_state(&home);
    let garbage = b"this is not a database, but somebody's only copy of something\n".repeat(100);
    fs::write(home.state().join("sandpen.db"), &garbage).unwrap();
    let error = home.fails(&["ps"]);
    assert!(error.contains("database"), "{error}");
    assert!(error.lines().count() <= 2, "{error}");
    assert_eq!(fs::read(home.state().join("sandpen.db")).unwrap(), garbage);
    support::until("nothing runs", || home.processes().is_empty());
}

/// Not a test of its own: needs to be somebody whom permissions hold.
#[test]
#[ignore = "run by a_state_directory_that_cannot_be_written_is_said as another user"]
fn without_permission() {
    let dir = std::env::var("SANDPEN_TEST_DIR").unwrap();
    let state = format!("{dir}/state");
    fs::DirBuilder::new().mode(0o700).create(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o500)).unwrap();
    for (path, word) in [(state.clone(), "not writable"), (format!("{state}/below"), "Permission denied")] {
        let output = support::output({
            let mut command = std::process::Command::new(format!("{dir}/sandpen"));
            command.args(["--state-dir", &path, "ps"]).stdin(Stdio::null());
            command
        });
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{}", explain(&output));
        assert!(error.contains(word) && error.contains(&path) && error.contains("--state-dir"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
    fs::remove_dir(&state).unwrap();
}

#[test]
fn a_state_directory_that_cannot_be_written_is_said() {
    const NOBODY: u32 = 65534;
    let home = Home::new();
    let (program, binary) = (home.path().join("test"), home.path().join("sandpen"));
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_sandpen"), &binary).unwrap();
    let mut command = std::process::Command::new(&program);
    command
        .args(["--ignored", "--exact", "daemon::without_permission"])
        .env("SANDPEN_TEST_DIR", home.path())
        .current_dir("/");
    if nix::unistd::geteuid().is_root() {
        for path in [home.path(), &program, &binary] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        // As /tmp is: everybody makes directories here, and nobody puts another one in the place of theirs.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        command.uid(NOBODY);
    }
    let output = support::output(command);
    assert!(output.status.success(), "{}", explain(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "it ran: {}", explain(&output));
}

#[test]
fn a_newer_database_is_said_and_left_as_it_is() {
    let home = Home::new();
    home.ok(&["ps"]);
    home.ok(&["shutdown"]);
    let path = home.state().join("sandpen.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
        let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     VALUES (99990101000000, 'from the future', 1, x'00', 1)";
        sqlx::query(newer).execute(&mut connection).await.unwrap();
        sqlx::Connection::close(connection).await.unwrap();
    });
    let before = fs::read(&path).unwrap();
    let error = home.fails(&["ps"]);
    assert!(error.contains("newer sandpen") && error.contains(path.to_str().unwrap()), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(fs::read(&path).unwrap() == before);
    support::until("nothing runs", || home.processes().is_empty());
}

#[test]
fn a_state_directory_that_cannot_be_one_is_said() {
    let home = Home::new();
    let file = home.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = home.fails(&["--state-dir", path.to_str().unwrap(), "ps"]);
        assert!(error.contains("not a directory") && error.contains("--state-dir"), "{error}");
    }
    let error = home.fails(&["--state-dir", "/proc/no/such", "ps"]);
    assert!(error.contains("/proc/no/such") && error.contains("--state-dir"), "{error}");

    let long = home.path().join("x".repeat(120));
    let error = home.fails(&["--state-dir", long.to_str().unwrap(), "ps"]);
    assert!(error.contains("shorter --state-dir"), "{error}");
    assert!(!long.exists());

    let open = home.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    for command in ["ps", "daemon"] {
        let error = home.fails(&["--state-dir", open.to_str().unwrap(), command]);
        assert!(error.contains("open to other users"), "{error}");
    }
    assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
}

#[test]
fn a_relative_state_directory_means_the_callers() {
    let home = Home::new();
    let mut command = home.sandpen(&["ps", "--json"]);
    command.env("SANDPEN_STATE_DIR", "state").current_dir(home.path());
    let output = support::output(command);
    assert_eq!(output.stdout, b"[]\n", "{}", explain(&output));
    assert!(home.state().join("sandpen.sock").exists());
}

/// With the parent that starts it again, and without.
#[test]
fn one_that_a_command_starts_keeps_nothing_of_it() {
    const SCRIPT: &str =
        "exec 9> \"$HELD\"; flock -n 9 || exit 9; umask 0; ulimit -Sf 4096; cd \"$ELSEWHERE\"; exec \"$@\"";
    for is_kept in [false, true] {
        let home = Home::new();
        let (held, elsewhere) = (home.path().join("held"), home.path().join("elsewhere"));
        fs::create_dir(&elsewhere).unwrap();
        let inner = home.sandpen(&["ps", "--json"]);
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", SCRIPT, "bash"]).arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
        shell.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if is_kept {
            shell.env_remove("SANDPEN_NO_KEEP");
        }
        shell.env("HELD", &held).env("ELSEWHERE", &elsewhere).env("A_TOKEN", "a secret of a job");
        let output = support::output(shell);
        assert!(output.status.success(), "{}", explain(&output));

        let daemon = home.daemon_pid();
        let all: Vec<u32> = home.processes().into_iter().map(|(pid, _)| pid).collect();
        assert_eq!((all.len(), all.contains(&daemon)), (1 + usize::from(is_kept), true), "{all:?}");
        for pid in all {
            let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap();
            let text = |name: &str| String::from_utf8(read(name)).unwrap();
            let open = support::confinement::descriptors(pid, &[]);
            assert!(!open.iter().any(|target| target == held.to_str().unwrap()), "{open:?}");
            assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
            assert!(!String::from_utf8_lossy(&read("environ")).contains("A_TOKEN"));
            if pid == daemon {
                assert!(text("status").contains("Umask:\t0077\n"), "{}", text("status"));
                let limits = text("limits");
                let sizes = limits.lines().find(|line| line.starts_with("Max file size")).unwrap();
                let mut words = sizes.split_whitespace().skip(3);
                assert_eq!(words.next(), words.next(), "soft is hard: {sizes}");
            }
        }
        fs::File::options().write(true).open(&held).unwrap().try_lock().unwrap();
        home.ok(&["shutdown"]);
    }
}

#[test]
fn what_it_cannot_change_back_is_told() {
    let home = Home::new();
    // Whoever runs the tests may be nice already.
    let nice = 7 + own_niceness();
    let limited = |args: &[&str]| {
        let inner = home.sandpen(args);
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", "ulimit -f 1000000; exec nice -n 7 \"$@\"", "bash"]);
        shell.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
        shell.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        support::output(shell)
    };
    let doctor: serde_json::Value = serde_json::from_slice(&limited(&["doctor", "--json"]).stdout).unwrap();
    let check = doctor["checks"].as_array().unwrap().iter().find(|check| check["name"] == "inherited").unwrap();
    let detail = check["detail"].as_str().unwrap();
    assert!(check["status"] == "warn" && detail.contains("file size is limited to 1024000000"), "{check}");
    assert!(detail.contains(&format!("nice {nice} ")), "{check}");
    let output = limited(&["ps"]);
    assert!(output.status.success(), "{}", explain(&output));
    let log = fs::read_to_string(home.state().join("daemon.log")).unwrap();
    assert!(log.contains("file size is limited") && log.contains(&format!("nice {nice} ")), "{log}");
}

/// Of this process, as nice(1) says it.
fn own_niceness() -> i32 {
    let said = support::output(std::process::Command::new("nice"));
    // More than 19 is not counted.
    String::from_utf8(said.stdout).unwrap().trim().parse::<i32>().unwrap().min(12)
}
