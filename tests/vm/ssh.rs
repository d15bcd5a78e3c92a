//! OpenSSH's own programs with a real microVM that has no network: `sandpen ssh-config` says how.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::Signal;

use crate::support::echo::{echoes, pattern};
use crate::support::shell::shell_on_terminal;
use crate::support::{DEADLINE, Home, explain, feed, finish, output, said, send, spawn, succeeds, until};

/// busybox's prompt of root.
const PROMPT: &str = "~ # ";

/// A sandbox with what OpenSSH needs to find it.
struct Reached {
    home: Home,
    config: PathBuf,
}

impl Reached {
    fn new() -> Self {
        let home = Home::new();
        let rootfs = home.rootfs();
        let users = "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/tmp:/bin/sh\n";
        fs::write(Path::new(&rootfs).join("etc/passwd"), users).unwrap();
        fs::set_permissions(Path::new(&rootfs).join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        home.run_idle(&rootfs);
        let config = home.path().join("ssh config");
        fs::write(&config, home.ok(&["ssh-config", "a"])).unwrap();
        Self { home, config }
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("-F").arg(&self.config).args(args).stdin(Stdio::null()).current_dir(self.home.path());
        // As of a daemon that a test kills.
        command.env("SANDPEN_NO_KEEP", "1").env("SANDPEN_CONFIG", "");
        command
    }

    fn ssh(&self, args: &[&str]) -> Output {
        output(self.command("ssh", args))
    }

    /// Asserts what a command says and ends with.
    fn says(&self, args: &[&str], code: i32, stdout: &str, stderr: &str) {
        said(&self.ssh(args), code, stdout, stderr);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The hash of a file in the sandbox.
    fn hash(&self, path: &str) -> String {
        let hashed = self.ssh(&["a.sandpen", &format!("sha256sum < {path}")]);
        String::from_utf8_lossy(&hashed.stdout).into_owned()
    }
}

fn hash_here(path: &Path) -> String {
    let mut command = Command::new("sha256sum");
    command.stdin(fs::File::open(path).unwrap());
    String::from_utf8(succeeds(command).stdout).unwrap()
}

/// Ends with the test, however that ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The page at a port of this host; `None` where there is none.
fn page(port: u16, path: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    Some(answer.split_off(body))
}

#[test]
fn openssh_reaches_a_sandbox_without_a_network() {
    let reached = Reached::new();
    commands(&reached);
    a_terminal(&reached);
    files(&reached);
    ports(&reached);
    nonsense(&reached);
    ends(&reached);
}

fn commands(reached: &Reached) {
    reached.says(&["sandpen-a", "echo out; echo err >&2; exit 3"], 3, "out\n", "err\n");
    reached.says(&["a.sandpen", "echo $HOME $LANG; pwd"], 0, "/root\n/root\n", "");
    reached.says(&["-o", "SetEnv=LANG=C.UTF-8", "a.sandpen", "echo $LANG"], 0, "C.UTF-8\n", "");
    // As with sshd: what a signal ended ssh has no code for.
    reached.says(&["a.sandpen", "kill -9 $$"], 255, "", "");
    reached.says(&["a.sandpen", "no-such"], 127, "", "no-such");
    reached.says(&["web@a.sandpen", "id -un; pwd"], 0, "web\n/tmp\n", "");
    reached.says(&["7@a.sandpen", "id -u"], 0, "7\n", "");
    reached.says(&["nobody-here@a.sandpen", "true"], 126, "", "nobody-here");
    reached.says(&["-l", "a/b", "a.sandpen", "true"], 255, "", "is not of the form USER[:GROUP]");
    // Every byte of more than all windows together, and its end, in and out at once.
    let cat = reached.command("ssh", &["a.sandpen", "cat; echo end >&2"]);
    assert!(echoes(cat, 8 << 20).ends_with(b"end\n"));
    // New keys all the time.
    let hashed =
        reached.ssh(&["-o", "RekeyLimit=64K", "a.sandpen", "head -c 1000000 /dev/zero | tee /dev/stderr | wc -c"]);
    assert!(hashed.stdout == b"1000000\n" && hashed.stderr.len() == 1_000_000, "{}", hashed.status);
    for cipher in ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"] {
        reached.says(&["-c", cipher, "a.sandpen", "echo", cipher], 0, &format!("{cipher}\n"), "");
    }
    reached.says(&["-c", "aes128-ctr", "a.sandpen", "true"], 255, "", "no matching cipher");
    // What is left in the background lives on, and holds nothing up.
    reached.says(&["a.sandpen", "sleep 1000 >/dev/null 2>&1 & echo left"], 0, "left\n", "");
    // A login shell where there is no command.
    let mut shell = reached.command("ssh", &["-T", "a.sandpen"]);
    shell.stdin(Stdio::piped());
    let mut shell = spawn(shell);
    feed(&mut shell, b"echo in $0; exit 4\n");
    let shell = finish(shell);
    assert_eq!((shell.status.code(), &*shell.stdout), (Some(4), &b"in -sh\n"[..]), "{}", explain(&shell));
    // Over a daemon's sudden end.
    let script = "i=0; while [ $i -lt 1500 ]; do echo $i; i=$((i+1)); [ $((i%100)) = 0 ] && sleep 0.1; done; exit 3";
    let mut client = spawn(reached.command("ssh", &["a.sandpen", script]));
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    for number in 0..1500 {
        assert_eq!(lines.next().unwrap().unwrap(), number.to_string());
        if number == 500 {
            reached.home.kill_daemon();
        }
    }
    let ended = finish(client);
    assert_eq!(ended.status.code(), Some(3), "{}", explain(&ended));
}

fn a_terminal(reached: &Reached) {
    let mut client = shell_on_terminal(reached.command("ssh", &["a.sandpen"]), PROMPT);
    client.keys("exit 7\r");
    let (status, text) = client.end();
    assert_eq!(status.code(), Some(7), "{text}");
    // A client that is gone takes its terminal along, and leaves what minds no SIGHUP where there is none.
    let gone = |args: &[&str]| {
        let mut client = spawn(reached.command("ssh", args));
        let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap().trim_end(), "ready");
        send(client.id(), Signal::SIGKILL);
        finish(client);
    };
    gone(&["-tt", "a.sandpen", "trap '' HUP; echo ready; exec sleep 2001"]);
    gone(&["a.sandpen", "trap '' HUP; echo ready; exec sleep 2002"]);
    gone(&["a.sandpen", "echo ready; exec sleep 2003"]);
    let runs = |what: &str| reached.home.ok(&["top", "a"]).contains(what);
    until("what is hung up has ended", || !runs("sleep 2001") && !runs("sleep 2003"));
    assert!(runs("sleep 2002"));
}

fn files(reached: &Reached) {
    let big = reached.path("big");
    fs::write(&big, pattern(3_000_001)).unwrap();
    fs::write(reached.path("it's \"odd\""), "odd").unwrap();
    let batch = "put big /tmp/big\nput \"it's \\\"odd\\\"\" /tmp/\nls -l /tmp\nmkdir /tmp/dir\nrename /tmp/big /tmp/dir/moved\n\
                 symlink moved /tmp/dir/link\nls -l /tmp/dir\nget /tmp/dir/link back\nchmod 600 /tmp/dir/moved\ncd /tmp\n\
                 pwd\ndf\nrm dir/link\n-get no-such\n";
    let mut sftp = reached.command("sftp", &["-b", "-", "a.sandpen"]);
    sftp.stdin(Stdio::piped());
    let mut sftp = spawn(sftp);
    feed(&mut sftp, batch.as_bytes());
    let done = finish(sftp);
    assert!(done.status.success(), "{}", explain(&done));
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let lists =
        |line: &str| out.lines().any(|known| known.split_whitespace().collect::<Vec<_>>().join(" ").contains(line));
    assert!(lists("0 0 3000001") && lists("it's \"odd\""), "{out}");
    assert!(
        out.contains("Remote working directory: /tmp") && err.contains("\"/tmp/no-such\" not found"),
        "{}",
        explain(&done)
    );
    assert_eq!(fs::read(reached.path("back")).unwrap(), pattern(3_000_001));
    assert_eq!(reached.hash("/tmp/dir/moved"), hash_here(&big));
    reached.says(
        &["a.sandpen", "ls /tmp/dir; stat -c %a /tmp/dir/moved; cat \"/tmp/it's \\\"odd\\\"\""],
        0,
        "moved\n600\nodd",
        "",
    );
    // Trees, both ways.
    let tree = reached.path("tree");
    for number in 0..20 {
        let dir = tree.join(format!("d {number}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("file"), pattern(number * 10_000)).unwrap();
    }
    fs::write(tree.join("ü\n\u{1b}"), "odd").unwrap();
    let copy = |args: &[&str]| {
        let copied = output(reached.command("scp", args));
        assert!(copied.status.success(), "{}", explain(&copied));
    };
    copy(&["-q", "-r", "tree", "a.sandpen:/tmp/tree"]);
    copy(&["-q", "-r", "-p", "a.sandpen:/tmp/tree", "tree2"]);
    succeeds({
        let mut diff = Command::new("diff");
        diff.arg("-r").arg(&tree).arg(reached.path("tree2"));
        diff
    });
    copy(&["-q", "a.sandpen:/tmp/dir/moved", "again"]);
    assert_eq!(hash_here(&reached.path("again")), hash_here(&big));
    copy(&["-q", "big", "a.sandpen:~/"]);
    assert_eq!(reached.hash("/root/big"), hash_here(&big));
    // Another user may do what it may.
    let refused = output(reached.command("scp", &["-q", "big", "web@a.sandpen:/root/no"]));
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("ermission denied"),
        "{}",
        explain(&refused)
    );
    copy(&["-q", "big", "web@a.sandpen:/tmp/web"]);
    reached.says(&["a.sandpen", "stat -c %u /tmp/web"], 0, "33\n", "");
}

fn ports(reached: &Reached) {
    reached.says(&["a.sandpen", "mkdir /srv; cp /root/big /srv/; httpd -p 127.0.0.1:80 -h /srv"], 0, "", "");
    let (port, closed) = (free_port(), free_port());
    let (one, two) = (format!("{port}:localhost:80"), format!("{closed}:127.0.0.1:81"));
    let forwards = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", &one, "-L", &two, "a.sandpen"];
    let client = Killed(spawn(reached.command("ssh", &forwards)));
    until("the port is forwarded", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    for _ in 0..3 {
        assert!(page(port, "/big").unwrap() == pattern(3_000_001));
    }
    // One that reads nothing holds up nobody.
    let mut slow = TcpStream::connect(("127.0.0.1", port)).unwrap();
    slow.write_all(b"GET /big HTTP/1.0\r\n\r\n").unwrap();
    assert!(page(port, "/big").unwrap() == pattern(3_000_001));
    let mut late = Vec::new();
    slow.read_to_end(&mut late).unwrap();
    assert!(late.ends_with(&pattern(3_000_001)));
    assert_eq!(page(closed, "/"), None);
    drop(client);
    let refused = reached.ssh(&["-W", "127.0.0.1:81", "a.sandpen"]);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("nothing in the sandbox listens on port 81"),
        "{}",
        explain(&refused)
    );
    let refused = reached.ssh(&["-W", "example.com:80", "a.sandpen"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("another host"), "{}", explain(&refused));
    let refused = reached.ssh(&["-o", "ExitOnForwardFailure=yes", "-R", "9000:localhost:80", "a.sandpen", "true"]);
    assert_eq!(refused.status.code(), Some(255), "{}", explain(&refused));
}

/// What no SSH client says.
fn nonsense(reached: &Reached) {
    let proxy = |input: &[u8]| {
        let mut proxy = reached.home.sandpen(&["ssh-proxy", "a"]);
        proxy.stdin(Stdio::piped());
        let mut proxy = spawn(proxy);
        // It may end before it has read all.
        let _ = proxy.stdin.take().unwrap().write_all(input);
        let ended = finish(proxy);
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (code, said) = proxy(b"GET / HTTP/1.1\r\n\r\n");
    assert!(code == Some(1) && said.contains("does not speak SSH 2"), "{code:?}: {said}");
    let (code, said) = proxy(b"SSH-2.0-x\r\n\xff\xff\xff\xff\xff");
    assert!(code == Some(1) && said.contains("a packet of 4294967295 bytes"), "{code:?}: {said}");
    let (code, said) = proxy(&[&b"SSH-2.0-x\r\n"[..], &pattern(100_000)].concat());
    assert!(code == Some(1) && said.contains("cannot be served"), "{code:?}: {said}");
    assert_eq!(proxy(b""), (Some(0), String::new()), "a client that leaves");
}

/// The sandbox ends, and is not there.
fn ends(reached: &Reached) {
    let mut client = spawn(
        reached
            .command("ssh", &["a.sandpen", "trap 'echo the end; exit 5' HUP; echo ready; while :; do sleep 0.1; done"]),
    );
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let idle = Killed(spawn(reached.command("ssh", &["-N", "a.sandpen"])));
    reached.home.ok(&["stop", "a"]);
    assert_eq!(lines.next().unwrap().unwrap(), "the end");
    assert_eq!(finish(client).status.code(), Some(5));
    let mut idle = idle;
    assert_eq!(idle.0.wait().unwrap().code(), Some(255));
    let mut said = String::new();
    idle.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("sandbox a has ended") || said.contains("sandbox default/a has ended"), "{said}");
    reached.says(&["a.sandpen", "true"], 255, "", "does not run");
}
