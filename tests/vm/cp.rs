//! `sandpen cp` with real microVMs: the table of `docs/copying.md` in both directions, what is kept, and copies that break off.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sandpen_skip::{Reason, skip};

use crate::support::full_disk::Disk;
use crate::support::{Home, explain, finish, output, spawn};

mod broken;

/// A row of the page's table: flags and source, destination, and what is there then, or part of the error.
struct Row {
    follow: bool,
    source: String,
    destination: String,
    result: Result<(String, String), String>,
}

/// As `crates/tree/src/tests/rules.rs` reads it, which tries it without a sandbox.
fn table() -> Vec<Row> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/copying.md")).unwrap();
    let (_, table) = page.split_once("\n| SRC | DST | then |\n").unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let rows = rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let code = |cell: &str| cell.split('`').nth(1).unwrap_or_default().to_owned();
        let source = code(cells[0]);
        let result = match cells[2].strip_prefix("error: ") {
            Some(error) => Err(error.to_lowercase()),
            None => Ok((code(cells[2]), cells[2].rsplit(' ').next().unwrap().to_owned())),
        };
        let follow = source.starts_with("-L ");
        Row { follow, source: source.trim_start_matches("-L ").to_owned(), destination: code(cells[1]), result }
    });
    rows.collect()
}

/// The two sides of the table, as a shell lays them out in the current directory.
const FROM: &str =
    "mkdir -p from/tree && cd from && echo new > file && echo new > tree/x && ln -s file tofile && ln -s tree totree";
const TO: &str = "rm -rf to && mkdir -p to/dir && cd to && echo old > old && ln -s dir todir && ln -s old toold && ln -s nowhere dangling";

fn idle(home: &Home, options: &[&str]) {
    let rootfs = home.rootfs();
    fs::create_dir_all(Path::new(&rootfs).join("w")).unwrap();
    assert_eq!(home.ok(&[&["run", "-d", "--idle", "-n", "a"], options, &[rootfs.as_str()]].concat()), "a\n");
}

fn inside(home: &Home, script: &str) -> Output {
    output(home.sandpen(&["exec", "a", "--", "sh", "-c", script]))
}

fn inside_ok(home: &Home, script: &str) -> String {
    let output = inside(home, script);
    assert!(output.status.success(), "{script}: {}", explain(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn here(dir: &Path, script: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(dir);
    output(command)
}

fn cp(home: &Home, flags: &[&str], from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Command {
    let mut command = home.sandpen(&[&["cp"], flags].concat());
    command.arg(from).arg(to);
    command
}

/// Nothing is said of a copy that is as it should be.
fn copied(command: Command) {
    let output = output(command);
    assert!(output.status.success() && output.stderr.is_empty() && output.stdout.is_empty(), "{}", explain(&output));
}

/// What a copy that fails says, in lines that begin with ours.
fn failed(command: Command) -> String {
    let output = output(command);
    assert_eq!(output.status.code(), Some(1), "{}", explain(&output));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("sandpen: ") && output.stdout.is_empty(), "{said}");
    said
}

#[test]
fn the_table_of_destinations_holds_in_both_directions() {
    let home = Home::new();
    idle(&home, &["--tmpfs", "/w"]);
    let here_dir = home.path().join("table");
    fs::create_dir(&here_dir).unwrap();
    assert!(here(&here_dir, FROM).status.success());
    inside_ok(&home, &format!("cd /w && {FROM}"));
    for row in table() {
        // A link that is copied is told by what it leads to.
        let check = |path: &str, kind: &str| match kind {
            "link" => format!("cd to && test \"$(readlink {path})\" = file"),
            _ => format!("cd to && test ! -L {path} && test \"$(cat {path})\" = new"),
        };
        let flags: &[&str] = if row.follow { &["-L"] } else { &[] };
        for inwards in [true, false] {
            let case = format!("{} to {}, {}", row.source, row.destination, if inwards { "in" } else { "out" });
            let (local, sandbox) = match inwards {
                true => (format!("{}/from/{}", here_dir.display(), row.source), format!("a:/w/to/{}", row.destination)),
                false => (format!("{}/to/{}", here_dir.display(), row.destination), format!("a:w/from/{}", row.source)),
            };
            let command = if inwards {
                inside_ok(&home, &format!("cd /w && {TO}"));
                cp(&home, flags, &local, &sandbox)
            } else {
                assert!(here(&here_dir, TO).status.success());
                cp(&home, flags, &sandbox, &local)
            };
            match &row.result {
                Ok((path, kind)) => {
                    copied(command);
                    let script = check(path, kind);
                    let checked =
                        if inwards { inside(&home, &format!("cd /w && {script}")) } else { here(&here_dir, &script) };
                    assert!(checked.status.success(), "{case}: {}", explain(&checked));
                }
                Err(expected) => {
                    let said = failed(command);
                    assert!(said.to_lowercase().contains(expected), "{case}: {said}");
                    assert!(said.contains("a:") && said.lines().count() <= 2, "both ends are named: {said}");
                }
            }
        }
    }
    for (args, word) in [
        (["a:/w", "a:/x"], "not from one sandbox to another"),
        (["./x", "/y"], "NAME:PATH"),
        (["a:", "/y"], "./a:"),
        (["nobody:/x", "/y"], "nobody"),
    ] {
        let said = failed(cp(&home, &[], args[0], args[1]));
        assert!(said.contains(word), "{args:?}: {said}");
    }
    home.ok(&["stop", "a"]);
    // A helper copies then, in both directions.
    let (there, back) = (home.path().join("ended"), home.path().join("ended-back"));
    fs::write(&there, "ended\n").unwrap();
    copied(cp(&home, &[], &there, "a:/root"));
    copied(cp(&home, &[], "a:/root/ended", &back));
    assert_eq!(fs::read_to_string(&back).unwrap(), "ended\n");
    assert_eq!(home.inspect("a")["state"], "STOPPED");
}

fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = nix::sys::time::TimeSpec::new(seconds, nanos);
    let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
    nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, flags).unwrap();
}

/// A tree with something of everything.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("dir/deep")).unwrap();
    fs::write(root.join("file"), "hello").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"odd\n\x1b[31m\xff")), "odd").unwrap();
    fs::hard_link(root.join("file"), root.join("dir/same")).unwrap();
    symlink("../file", root.join("dir/link")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(3 << 30).unwrap();
    sparse.write_all_at(b"in the middle", 1 << 30).unwrap();
    fs::write(root.join("dir/deep/random"), noise(300_000)).unwrap();
    fs::set_permissions(root.join("file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(root.join("dir/deep"), fs::Permissions::from_mode(0o2750)).unwrap();
    for name in ["file", "dir/deep/random"] {
        std::os::unix::fs::chown(root.join(name), Some(1234), Some(5678)).unwrap();
    }
    fs::set_permissions(root.join("file"), fs::Permissions::from_mode(0o4751)).unwrap();
    set_time(&root.join("file"), -1_000_000, 123_456_789);
    set_time(&root.join("dir/link"), 77, 1);
    set_time(&root.join("dir/deep"), 1_234_567_890, 5);
    set_time(&root.join("dir"), 1_500_000_000, 999_999_999);
}

/// What is kept of everything below a directory, a line each.
fn told(root: &Path, with_owners: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let what = match &meta {
                meta if meta.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
                meta if meta.is_dir() => String::new(),
                // Not its holes.
                meta if meta.len() > 1 << 30 => {
                    let mut part = [0; 20];
                    File::open(&path).unwrap().read_exact_at(&mut part, (1 << 30) - 3).unwrap();
                    format!("{} {part:?} {}", meta.len(), meta.blocks() < 2048)
                }
                meta => {
                    let bytes = fs::read(&path).unwrap();
                    let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
                    format!("{} {sum:x} {}", bytes.len(), meta.nlink())
                }
            };
            let owner = if with_owners { format!("{}:{}", meta.uid(), meta.gid()) } else { String::new() };
            let mask = if with_owners { 0o7777 } else { 0o1777 };
            lines.push(format!(
                "{} {:o} {owner} {}.{:09} {what}",
                path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii(),
                meta.mode() & mask,
                meta.mtime(),
                meta.mtime_nsec()
            ));
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    lines.sort();
    lines
}

/// Bytes that are all but alike.
fn noise(count: u32) -> Vec<u8> {
    (0..count).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect()
}

#[test]
fn what_goes_in_comes_out_as_it_was() {
    if !nix::unistd::geteuid().is_root() {
        skip(Reason::NotRoot, "owners");
        return;
    }
    let home = Home::new();
    idle(&home, &["--tmpfs", "/w"]);
    let at = |name: &str| home.path().join(name);
    make_tree(&at("tree"));
    copied(cp(&home, &["-a"], at("tree"), "a:/w"));
    copied(cp(&home, &["-a"], "a:/w/tree", at("back")));
    assert_eq!(told(&at("back"), true), told(&at("tree"), true));
    let seen =
        inside_ok(&home, "cd /w/tree && stat -c '%u:%g %a %h' file && du -k sparse | cut -f1 && readlink dir/link");
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!((lines[0], lines[2]), ("1234:5678 4751 2", "../file"), "{seen}");
    assert!(lines[1].parse::<u32>().unwrap() < 1024, "{seen}");
    // Without -a it is root's there, and the caller's here, without what would give it others' rights.
    copied(cp(&home, &[], at("tree"), "a:/w/plain"));
    let seen = inside_ok(&home, "cd /w/plain && stat -c '%u:%g %a' file dir/deep/random");
    assert_eq!(seen, "0:0 4751\n0:0 644\n");
    copied(cp(&home, &[], "a:/w/tree", at("mine")));
    assert_eq!(told(&at("mine"), false), told(&at("tree"), false));
    let mine = fs::metadata(at("mine/file")).unwrap();
    assert_eq!((mine.uid(), mine.mode() & 0o7777), (nix::unistd::geteuid().as_raw(), 0o751));
    // As a tar, both ways, which the system's own tar makes and reads.
    let tar = succeeds_with(cp(&home, &[], "a:/w/tree/.", "-"), &[]);
    fs::create_dir(at("by tar")).unwrap();
    let mut command = Command::new("tar");
    command.arg("-xpf").arg("-").arg("-C").arg(at("by tar"));
    succeeds_with(command, &tar);
    assert_eq!(told(&at("by tar"), true), told(&at("tree"), true));
    let mut command = Command::new("tar");
    command.args(["-c", "--sparse", "--format=posix", "-C"]).arg(at("tree")).arg(".");
    let tar = succeeds_with(command, &[]);
    inside_ok(&home, "mkdir /w/by-tar");
    succeeds_with(cp(&home, &["-a"], "-", "a:/w/by-tar"), &tar);
    copied(cp(&home, &["-a"], "a:/w/by-tar", at("again")));
    assert_eq!(told(&at("again"), true), told(&at("tree"), true));
    let said = failed_with(cp(&home, &[], "-", "a:/w/none"), &tar);
    assert!(said.contains("\"/w/none\" cannot be the destination: it is not there"), "{said}");
    for nothing in [&b"no tar at all"[..], b""] {
        let said = failed_with(cp(&home, &[], "-", "a:/w"), nothing);
        assert!(said.contains("there is nothing in it"), "{said}");
    }
    // Devices and FIFOs come in, and not out.
    inside_ok(&home, "mkdir /w/odd && mkfifo /w/odd/fifo && mknod /w/odd/null c 1 3 && echo fine > /w/odd/file");
    let said = failed(cp(&home, &["-a"], "a:/w/odd", at("odd")));
    assert!(said.contains("odd/fifo\": it is a device or a FIFO") && said.contains("odd/null\": it is"), "{said}");
    assert_eq!(fs::read_dir(at("odd")).unwrap().count(), 1);
    many_files(&home);
    disks_that_take_nothing(&home);
}

fn many_files(home: &Home) {
    let at = |name: &str| home.path().join(name);
    for dir in 0..100 {
        let dir = at("many").join(dir.to_string());
        fs::create_dir_all(&dir).unwrap();
        (0..100).for_each(|file| fs::write(dir.join(file.to_string()), file.to_string()).unwrap());
    }
    copied(cp(home, &[], at("many"), "a:/w"));
    assert_eq!(inside_ok(home, "find /w/many -type f | wc -l; cat /w/many/7/42"), "10000\n42");
    copied(cp(home, &[], "a:/w/many", at("many back")));
    assert_eq!(told(&at("many back"), false), told(&at("many"), false));
}

fn disks_that_take_nothing(home: &Home) {
    let at = |name: &str| home.path().join(name);
    fs::write(at("two mebibytes"), noise(2 << 20)).unwrap();
    let mount = "mkdir -p /full /ro && mount -t tmpfs -o size=1m none /full && mount -t tmpfs -o ro none /ro";
    inside_ok(home, mount);
    for (dir, word) in [("full", "No space left"), ("ro", "Read-only file system")] {
        let said = failed(cp(home, &[], at("two mebibytes"), format!("a:/{dir}/name")));
        assert!(said.contains(&format!("\"/{dir}/name\" cannot be written")) && said.contains(word), "{said}");
        assert_eq!(inside_ok(home, &format!("ls -A /{dir}")), "");
    }
    let disk = Disk::new();
    if !disk.fill() {
        return;
    }
    inside_ok(home, "head -c 2000000 /dev/urandom > /w/large");
    let name = disk.path().join("name");
    let said = failed(cp(home, &[], "a:/w/large", &name));
    assert!(said.contains("name\" cannot be written") && said.contains("No space left"), "{said}");
    let names: Vec<_> = fs::read_dir(disk.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["filler"]);
}

/// Runs a command with this input; its output.
fn with_input(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped());
    let mut child = spawn(command);
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
    // Whoever wants no more has said why.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = finish(child);
    writer.join().unwrap();
    output
}

fn succeeds_with(command: Command, input: &[u8]) -> Vec<u8> {
    let output = with_input(command, input);
    assert!(output.status.success(), "{}", explain(&output));
    output.stdout
}

fn failed_with(command: Command, input: &[u8]) -> String {
    let output = with_input(command, input);
    assert_eq!(output.status.code(), Some(1), "{}", explain(&output));
    String::from_utf8(output.stderr).unwrap()
}
