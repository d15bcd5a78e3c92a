//! `sandpen df` and `sandpen prune`, on files that are laid out by hand beside sandboxes of the process driver.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::http_api::{refused, request};
use crate::support::pty::OnTerminal;
use crate::support::{Home, run_named as run, succeeds, until};

/// An entry of the cache, of so many KiB.
fn entry(home: &Home, name: &str, kib: usize) -> PathBuf {
    let path = home.state().join("cache").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, vec![b'x'; kib << 10]).unwrap();
    path
}

/// A data directory with an old kernel and a current one.
fn kernels(home: &Home) -> PathBuf {
    let kernel = home.path().join("data/kernel");
    for version in ["6.1.0-old", "6.1.0-new"] {
        fs::create_dir_all(kernel.join(version)).unwrap();
        fs::write(kernel.join(version).join("manifest.json"), "{}").unwrap();
        fs::write(kernel.join(version).join("vmlinux"), vec![b'x'; 100 << 10]).unwrap();
    }
    fs::write(kernel.join("lock"), "").unwrap();
    fs::write(kernel.join("current"), "6.1.0-new\n").unwrap();
    kernel
}

/// Makes a file look as if it was written so long ago.
fn age(path: &Path, minutes: u64) {
    File::options()
        .append(true)
        .open(path)
        .unwrap()
        .set_modified(SystemTime::now() - Duration::from_mins(minutes))
        .unwrap();
}

fn sandpen(home: &Home, args: &[&str]) -> std::process::Command {
    let mut command = home.sandpen(args);
    command.env("SANDPEN_DATA_DIR", home.path().join("data"));
    command
}

fn ok(home: &Home, args: &[&str]) -> String {
    String::from_utf8(succeeds(sandpen(home, args)).stdout).unwrap()
}

fn of_kind(home: &Home, kind: &str) -> Value {
    let usage: Value = serde_json::from_str(&ok(home, &["df", "--json"])).unwrap();
    usage["kinds"].as_array().unwrap().iter().find(|of| of["kind"] == kind).unwrap().clone()
}

/// An ended sandbox, a live one that uses something, and what nobody does.
fn laid_out(home: &Home) -> [PathBuf; 4] {
    let kernel = kernels(home);
    ok(home, &["ps"]);
    let mut ended = run(home, "ended", &[], "seq 1 5000");
    ended.env("SANDPEN_DATA_DIR", home.path().join("data"));
    succeeds(ended);
    let mut live = run(home, "live", &["-d"], "echo hello; sleep 1000");
    live.env("SANDPEN_DATA_DIR", home.path().join("data"));
    succeeds(live);
    let used = entry(home, "template-used", 64);
    let unused = entry(home, "template-unused", 128);
    let abandoned = entry(home, "root-images/.draft-abandoned", 16);
    fs::create_dir_all(home.state().join("cache/uses/default")).unwrap();
    fs::write(home.state().join("cache/uses/default/live.1"), "template-used\n").unwrap();
    [used, unused, abandoned, kernel]
}

#[test]
fn what_takes_room_is_shown_and_what_nothing_uses_goes() {
    let home = Home::new();
    let [used, unused, abandoned, kernel] = laid_out(&home);
    // Somebody may still be on his way to the one that was current a moment ago.
    assert_eq!(of_kind(&home, "kernels")["reclaimable_bytes"], 0);
    age(&kernel.join("current"), 20);

    let templates = of_kind(&home, "templates");
    assert_eq!((&templates["count"], &templates["bytes"]), (&2.into(), &(192_u64 << 10).into()));
    assert_eq!(templates["reclaimable_bytes"], 128_u64 << 10);
    assert_eq!(of_kind(&home, "drafts")["reclaimable_bytes"], 16_u64 << 10);
    let logs = of_kind(&home, "logs");
    assert_eq!((&logs["count"], &logs["reclaimable_bytes"]), (&2.into(), &0.into()));
    assert!(logs["with_sandboxes_bytes"].as_u64().unwrap() >= 20 << 10, "{logs}");
    assert!(of_kind(&home, "database")["bytes"].as_u64().unwrap() > 0 && of_kind(&home, "runtime")["count"] == 1);
    assert_eq!(of_kind(&home, "kernels")["count"], 2);
    let table = ok(&home, &["df"]);
    assert!(
        table.starts_with("KIND") && table.contains("\ntemplates      2      192K") && table.contains("\ntotal "),
        "{table}"
    );
    let items = ok(&home, &["df", "-v"]);
    assert!(items.contains("prune --sandboxes  default/ended") && items.contains("template-unused"), "{items}");

    let planned = ok(&home, &["prune", "--dry-run"]);
    assert!(planned.contains("template-unused: would be removed") && planned.contains("6.1.0-old"), "{planned}");
    assert!(planned.contains(" would be freed") && unused.exists());
    let done = ok(&home, &["prune", "-f"]);
    assert!(done.contains("template-unused: removed") && done.ends_with(" freed\n"), "{done}");
    assert!(used.exists() && !unused.exists() && !abandoned.exists());
    assert!(!kernel.join("6.1.0-old").exists() && kernel.join("6.1.0-new/vmlinux").exists());
    assert_eq!(ok(&home, &["prune", "-f"]), "0B freed\n", "nothing is left to remove");
    let names =
        |home: &Home| home.rows().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&home), ["ended", "live"]);

    let done: Value = serde_json::from_str(&ok(&home, &["prune", "-f", "-a", "--json"])).unwrap();
    assert_eq!(done["removed"][0]["sandbox"], "default/ended", "{done}");
    assert!(done["freed_bytes"].as_u64().unwrap() >= 20 << 10, "{done}");
    assert_eq!(names(&home), ["live"]);
    assert!(!home.state().join("logs/default/ended.log").exists() && used.exists());
    assert_eq!(ok(&home, &["logs", "live"]), "hello\n");
    // What it used goes once it has ended.
    ok(&home, &["stop", "live"]);
    let done = ok(&home, &["prune", "-f", "-a"]);
    assert!(done.contains("template-used: removed") && done.contains("default/live: removed"), "{done}");
    assert!(home.rows().is_empty());
}

#[test]
fn it_asks_on_a_terminal_and_removes_nothing_without_one() {
    let home = Home::new();
    let [_, unused, ..] = laid_out(&home);
    let refused = home.fails(&["prune"]);
    assert!(refused.contains("give -f") && refused.contains("--dry-run"), "{refused}");
    for (answer, goes) in [("n\n", false), ("\n", false), ("\u{4}", false), ("yes\n", true)] {
        assert!(unused.exists());
        let mut terminal = OnTerminal::spawn(&sandpen(&home, &["prune"]), 24, 100);
        until("it asks", || terminal.seen().contains("[y/N]"));
        assert!(terminal.seen().contains("template-unused: would be removed"), "{}", terminal.seen());
        terminal.keys(answer);
        let expected = if goes { "freed" } else { "nothing was removed" };
        let seen = || terminal.seen().split_once("[y/N]").is_some_and(|(_, after)| after.contains(expected));
        until("it says what it did", seen);
        let (status, shown) = terminal.end();
        assert!(status.success(), "{shown}");
    }
    assert!(!unused.exists());
}

/// Lets a program write to the database beside the daemon, as a newer version or a careless hand would.
fn execute(home: &Home, sql: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(home.state().join("sandpen.db"));
    actix_rt::Runtime::new().unwrap().block_on(async {
        let mut database = sqlx::ConnectOptions::connect(&options).await.unwrap();
        assert!(sqlx::query(sql).execute(&mut database).await.unwrap().rows_affected() > 0);
        sqlx::Connection::close(database).await.unwrap();
    });
}

/// Copies of kernels: one of the ended sandbox, one of the live one, one of nobody.
fn kernel_copies(home: &Home) -> [PathBuf; 3] {
    execute(
        home,
        "UPDATE sandboxes SET spec = json_set(spec, '$.kernel_sha256',
            replace(hex(zeroblob(32)), '00', CASE name WHEN 'ended' THEN 'aa' ELSE 'bb' END))",
    );
    ["aa", "bb", "cc"].map(|byte| entry(home, &format!("kernel-{}.vmlinux", byte.repeat(32)), 32))
}

#[test]
fn a_dry_run_says_what_is_removed_then_with_sandboxes_too() {
    let home = Home::new();
    laid_out(&home);
    let [of_ended, of_live, of_nobody] = kernel_copies(&home);
    // Of this one nothing is left but its row.
    succeeds(run(&home, "bare", &[], "true"));
    for file in ["bare.log", "bare.log.idx", "bare.vmm"] {
        let _ = fs::remove_file(home.state().join("logs/default").join(file));
    }
    let planned = ok(&home, &["prune", "--dry-run"]);
    assert!(planned.contains("kernel-cc") && !planned.contains("kernel-aa"), "{planned}");
    let json = |args: &[&str]| serde_json::from_str::<Value>(&ok(&home, args)).unwrap();
    let planned = json(&["prune", "--sandboxes", "--dry-run", "--json"]);
    assert!(of_ended.exists() && of_live.exists() && of_nobody.exists());
    let text = planned.to_string();
    for what in ["kernel-aa", "kernel-cc", "default/ended", "default/bare", "template-unused"] {
        assert!(text.contains(what), "{what}: {text}");
    }
    assert!(!text.contains("kernel-bb") && !text.contains("default/live"), "{text}");
    assert_eq!(json(&["prune", "--sandboxes", "-f", "--json"]), planned);
    assert!(!of_ended.exists() && of_live.exists() && !of_nobody.exists());
    assert_eq!(json(&["prune", "--sandboxes", "--dry-run", "--json"])["removed"], Value::Array(Vec::new()));
}

#[test]
fn only_sandboxes_that_were_shown_are_removed() {
    let home = Home::new();
    laid_out(&home);
    let [of_ended, of_live, _] = kernel_copies(&home);
    let mut terminal = OnTerminal::spawn(&sandpen(&home, &["prune", "--sandboxes"]), 24, 100);
    until("it asks", || terminal.seen().contains("[y/N]"));
    // It was not among those that the user has seen.
    ok(&home, &["stop", "-t", "1", "live"]);
    terminal.keys("yes\n");
    until("it says what it did", || {
        terminal.seen().split_once("[y/N]").is_some_and(|(_, after)| after.contains("freed"))
    });
    let (status, shown) = terminal.end();
    assert!(status.success(), "{shown}");
    assert_eq!(home.rows().iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), ["live"]);
    assert!(!of_ended.exists() && of_live.exists());
    // The same of others, and what cannot be a list of sandboxes.
    let prune = |body: &str, words: &str| {
        let message = refused(&home, "POST", "/v1/prune", body, 400, "invalid_request");
        assert!(message.contains(words), "{message}");
    };
    prune(r#"{"only":["default/live"]}"#, "sandboxes");
    prune(r#"{"sandboxes":true,"only":["live"]}"#, "`only`");
    prune(r#"{"sandboxes":true,"only":["default/../live"]}"#, "`only`");
    prune(r#"{"sandboxes":true,"only":"default/live"}"#, "expected a sequence");
    for only in ["[]", r#"["default/nobody"]"#] {
        let body = format!(r#"{{"sandboxes":true,"only":{only}}}"#);
        assert_eq!(request(&home, "POST", "/v1/prune", &body).0, 200);
    }
    assert_eq!(home.rows().len(), 1);
}

#[test]
fn while_a_sandbox_cannot_be_read_its_kernel_and_its_volumes_stay() {
    let home = Home::new();
    let [_, unused, _, kernel] = laid_out(&home);
    age(&kernel.join("current"), 20);
    let [of_ended, _, of_nobody] = kernel_copies(&home);
    fs::create_dir_all(home.state().join("volumes/data")).unwrap();
    execute(&home, "UPDATE sandboxes SET spec = '{}' WHERE name = 'ended'");
    assert_eq!(of_kind(&home, "kernel_copies")["reclaimable_bytes"], 0);
    let planned = ok_or_not(&home, &["prune", "--dry-run", "--json"]);
    let done = ok_or_not(&home, &["prune", "-f", "--json"]);
    assert_eq!(planned, done);
    assert!(done.1.contains("1 of the sandboxes on record cannot be read") && done.0 == Some(1), "{done:?}");
    assert!(of_ended.exists() && of_nobody.exists() && kernel.join("6.1.0-old").exists() && !unused.exists());
    for args in [vec!["volume", "rm", "data"], vec!["volume", "prune", "-f"]] {
        let refused = home.fails(&args);
        assert!(refused.contains("volume data stays: 1 of the sandboxes on record cannot be read"), "{refused}");
    }
    assert!(home.state().join("volumes/data").exists());
}

/// The exit code, and what is on standard output.
fn ok_or_not(home: &Home, args: &[&str]) -> (Option<i32>, String) {
    let done = sandpen(home, args).output().unwrap();
    (done.status.code(), String::from_utf8(done.stdout).unwrap())
}

#[test]
fn volumes_are_asked_about_too_and_what_is_left_of_a_long_removal_goes_later() {
    let home = Home::new();
    ok(&home, &["ps"]);
    let volumes = home.state().join("volumes");
    let data = volumes.join("data");
    fs::create_dir_all(data.join("deep/er")).unwrap();
    for (answer, goes) in [("n\n", false), ("\u{4}", false), ("y\n", true)] {
        assert!(data.exists());
        let mut terminal = OnTerminal::spawn(&sandpen(&home, &["volume", "prune"]), 24, 100);
        until("it asks", || terminal.seen().contains("[y/N]"));
        assert!(terminal.seen().contains("data: would be removed"), "{}", terminal.seen());
        terminal.keys(answer);
        let expected = if goes { "data" } else { "nothing was removed" };
        let seen = || terminal.seen().split_once("[y/N]").is_some_and(|(_, after)| after.contains(expected));
        until("it says what it did", seen);
        let (status, shown) = terminal.end();
        assert!(status.success(), "{shown}");
    }
    assert!(!data.exists());
    // What takes long holds up neither the answer, nor the end, nor the next start.
    for i in 0..300 {
        fs::create_dir_all(data.join(format!("{i}/x/y/z"))).unwrap();
    }
    ok(&home, &["volume", "rm", "data"]);
    assert!(!data.exists());
    ok(&home, &["shutdown"]);
    ok(&home, &["ps"]);
    until("all of it is gone", || fs::read_dir(&volumes).unwrap().next().is_none());
}

/// Sandboxes that start and end while all that ended are removed, again and again: each start is whole or refused.
#[test]
fn who_starts_at_the_same_moment_loses_nothing() {
    let home = Home::new();
    ok(&home, &["ps"]);
    std::thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            for _ in 0..20 {
                ok(&home, &["prune", "-f", "--sandboxes"]);
            }
        });
        for i in 0..6 {
            let name = format!("a{i}");
            succeeds(run(&home, &name, &["-d"], "echo begun; sleep 1000"));
            until("it has said so", || home.ok(&["logs", &name]) == "begun\n");
        }
        pruner.join().unwrap();
    });
    assert_eq!(home.rows().len(), 6);
    for i in 0..6 {
        home.ok(&["rm", "-f", &format!("a{i}")]);
    }
}
