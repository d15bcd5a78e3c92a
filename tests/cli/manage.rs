//! What users do with many sandboxes: labels and lists of them, other names, volumes with names.

use std::fs;

use crate::support::{Home, explain, until};

/// Over a root beside the state directory, where named volumes lie.
fn running(home: &Home, name: &str, options: &[&str]) {
    let root = home.path().join("root");
    fs::create_dir_all(&root).unwrap();
    let root = root.to_str().unwrap();
    let command = [root, "--", "/bin/sh", "-c", "echo hello; sleep 1000"];
    home.ok(&[&["run", "-d", "--driver", "process", "-n", name], options, &command].concat());
}

#[test]
fn lists_are_of_what_was_asked_for() {
    let home = Home::new();
    running(&home, "web-1", &["-l", "team=search", "--label", "tier"]);
    running(&home, "web-2", &["-l", "team=a=b"]);
    running(&home, "shop/db", &["-l", "team=search"]);
    let root = home.path().join("root");
    home.ok(&[
        "run",
        "--driver",
        "process",
        "-n",
        "job",
        "-l",
        "team=search",
        root.to_str().unwrap(),
        "--",
        "/bin/true",
    ]);
    let listed = |options: &[&str]| home.ok(&[&["ps", "-q"], options].concat());
    assert_eq!(listed(&[]), "web-1\nweb-2\nshop/db\n");
    assert_eq!(listed(&["-a", "--filter", "label=team=search"]), "web-1\nshop/db\njob\n");
    assert_eq!(listed(&["-f", "label=team=search", "-f", "label=tier"]), "web-1\n");
    assert_eq!(listed(&["-f", "label=tier="]), "web-1\n");
    assert_eq!(listed(&["-f", "name=web-2", "-f", "name=shop/*"]), "web-2\nshop/db\n");
    assert_eq!(listed(&["-f", "name=web-*", "-f", "label=team=a=b"]), "web-2\n");
    assert_eq!(listed(&["-f", "state=stopped"]), "job\n", "who asks for ended ones gets them");
    assert_eq!(listed(&["-f", "config=shop", "-f", "driver=process"]), "shop/db\n");
    assert_eq!(listed(&["-f", "health=failing"]), "");
    let format = r"{{.name}}\t{{.state}}\t{{.labels.team}}{{.hostname}}";
    let text = home.ok(&["ps", "-f", "label=team", "--format", format]);
    assert_eq!(text, "web-1\tRUNNING\tsearch\nweb-2\tRUNNING\ta=b\ndb\tRUNNING\tsearch\n");
    running(&home, "web-3", &["-l", "example.com/build-id=7"]);
    let format = "{{.labels.example.com/build-id}}{{.labels.example}}";
    assert_eq!(home.ok(&["ps", "-f", "name=web-3", "--format", format]), "7\n", "a label's key has dots");
    assert_eq!(home.inspect("web-1")["labels"], serde_json::json!({"team": "search", "tier": ""}));
    for (options, words) in [
        (["--filter", "size=1"], "KEY=VALUE"),
        (["--filter", "state=happy"], "there is no state \"happy\""),
        (["--filter", "label=a b"], "label key"),
        (["--format", "{{name}}"], "is no field"),
        (["--format", "{{.nam}}"], "there is no field \"nam\"; there are "),
    ] {
        let refused = home.run(&["ps", options[0], options[1]]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(words), "{options:?}: {}", explain(&refused));
    }
    // Labels are kept over a restart.
    home.ok(&["restart", "-t", "1", "web-2"]);
    assert_eq!(home.inspect("web-2")["labels"]["team"], "a=b");
}

#[test]
fn another_name_has_all_that_the_old_one_had() {
    let home = Home::new();
    running(&home, "a", &["--log-max-size", "4K"]);
    running(&home, "taken", &[]);
    let refused = home.fails(&["rename", "a", "b"]);
    assert!(refused.contains("default/a is RUNNING, which cannot be renamed; stop it first"), "{refused}");
    home.ok(&["stop", "-t", "1", "a"]);
    for (from, to, words) in [
        ("a", "taken", "there is a sandbox default/taken already"),
        ("a", "a", "there is a sandbox default/a already"),
        ("nobody", "b", "there is no sandbox default/nobody"),
        ("a", "../b", "not allowed"),
    ] {
        let refused = home.fails(&["rename", from, to]);
        assert!(refused.contains(words), "{from} {to}: {refused}");
    }
    let before = home.inspect("a");
    home.ok(&["rename", "a", "shop/b"]);
    assert!(home.fails(&["inspect", "a"]).contains("there is no sandbox"), "the old name is free");
    let after = home.inspect("shop/b");
    assert_eq!((&after["name"], &after["config_file"]), (&"b".into(), &"shop".into()));
    assert_eq!((&after["created_at"], &after["generation"]), (&before["created_at"], &1.into()));
    assert_eq!(home.ok(&["logs", "shop/b"]), "hello\n");
    assert!(home.ok(&["history", "shop/b"]).lines().count() > 3);
    let events = home.ok(&["events", "--json"]);
    assert_eq!(events.matches(r#""detail":{"from":"default/a","to":"shop/b"}"#).count(), 2, "{events}");
    // It starts by its new name, and the old one is another sandbox's.
    home.ok(&["start", "shop/b"]);
    until("it has begun again", || home.ok(&["logs", "--all", "shop/b"]) == "hello\nhello\n");
    running(&home, "a", &[]);
    until("it has begun", || home.ok(&["logs", "a"]) == "hello\n");
    let logs = home.state().join("logs");
    assert!(logs.join("shop/b.log").exists() && logs.join("default/a.log").exists());
}

/// What of a sandbox's files is in the state directory, by the name that it has there.
fn files_of(home: &Home, name: &str) -> Vec<String> {
    let find =
        std::process::Command::new("find").arg(home.state()).args(["-name", &format!("{name}.*")]).output().unwrap();
    let mut found: Vec<_> = String::from_utf8(find.stdout).unwrap().lines().map(str::to_owned).collect();
    found.sort();
    found
}

#[test]
fn a_rename_that_is_refused_or_cut_off_loses_nothing() {
    let home = Home::new();
    running(&home, "a", &[]);
    home.ok(&["stop", "-t", "1", "a"]);
    let disk = |key: &str| home.state().join(format!("disks/sandbox/{key}.img"));
    fs::create_dir_all(home.state().join("disks/sandbox/default")).unwrap();
    fs::write(disk("default/a"), "what it wrote").unwrap();
    let before = files_of(&home, "a");
    // The directory of the new name takes nothing.
    let shop = home.state().join("logs/shop");
    fs::write(&shop, "").unwrap();
    let told = home.fails(&["rename", "a", "shop/b"]);
    assert!(told.contains("giving the files of a sandbox the name shop/b"), "{told}");
    fs::remove_file(&shop).unwrap();
    // Somebody's file has the name.
    fs::write(home.state().join("logs/default/b.log"), "other").unwrap();
    let told = home.fails(&["rename", "a", "b"]);
    assert!(told.contains("is there already"), "{told}");
    assert_eq!(files_of(&home, "b").len(), 1);
    fs::remove_file(home.state().join("logs/default/b.log")).unwrap();
    home.ok(&["reconcile"]);
    assert_eq!(files_of(&home, "a"), before);
    assert_eq!(home.ok(&["logs", "a"]), "hello\n");
    // As a daemon leaves it that dies in the middle: planned, and some files have both names.
    let statement = |sql: &'static str| {
        home.kill_daemon();
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(home.state().join("sandpen.db"));
        actix_rt::Runtime::new().unwrap().block_on(async {
            let mut database = sqlx::ConnectOptions::connect(&options).await.unwrap();
            assert_eq!(sqlx::query(sql).execute(&mut database).await.unwrap().rows_affected(), 1);
            sqlx::Connection::close(database).await.unwrap();
        });
    };
    fs::hard_link(disk("default/a"), disk("default/b")).unwrap();
    fs::hard_link(home.state().join("logs/default/a.log"), home.state().join("logs/default/b.log")).unwrap();
    statement("UPDATE sandboxes SET renaming_to = 'default/b' WHERE name = 'a'");
    assert_eq!(home.ok(&["logs", "a"]), "hello\n");
    assert_eq!((files_of(&home, "a"), files_of(&home, "b")), (before.clone(), Vec::new()));
    // And renamed, while its files still have the old name.
    home.ok(&["rename", "a", "b"]);
    let after = files_of(&home, "b");
    assert_eq!((after.len(), files_of(&home, "a")), (before.len(), Vec::new()));
    fs::hard_link(disk("default/b"), disk("default/a")).unwrap();
    statement("UPDATE sandboxes SET renamed_from = 'default/a' WHERE name = 'b'");
    // The old name is nobody's until that is cleared away, which the first reconciliation does.
    running(&home, "a", &[]);
    assert_eq!(fs::read_to_string(disk("default/b")).unwrap(), "what it wrote");
    home.ok(&["rm", "-f", "a"]);
    assert_eq!(files_of(&home, "b"), after);
    // One on top of another.
    home.ok(&["rename", "b", "c"]);
    home.ok(&["rename", "c", "a"]);
    assert_eq!(files_of(&home, "a").len(), before.len());
    assert_eq!(fs::read_to_string(disk("default/a")).unwrap(), "what it wrote");
    home.ok(&["rm", "a"]);
    assert!([files_of(&home, "a"), files_of(&home, "b"), files_of(&home, "c")].iter().all(Vec::is_empty));
}

#[test]
fn volumes_with_names_are_their_sandboxes_until_those_are_removed() {
    let home = Home::new();
    running(&home, "a", &["-v", "data:/data", "-v", "cache:/cache"]);
    running(&home, "b", &["-v", "data:/data:ro"]);
    let list = home.ok(&["volume", "ls"]);
    let rows: Vec<_> = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(rows[1][..2], ["cache", "default/a"], "{list}");
    assert_eq!(rows[2][..3], ["data", "default/a,", "default/b"], "{list}");
    let data = home.state().join("volumes/data");
    fs::write(data.join("kept"), "kept").unwrap();
    for name in ["data", "cache"] {
        let refused = home.fails(&["volume", "rm", name]);
        assert!(refused.contains("in use by sandbox default/a; remove that one first"), "{refused}");
    }
    home.ok(&["rm", "-f", "a"]);
    home.ok(&["stop", "-t", "1", "b"]);
    // An ended one may be started again.
    assert!(home.fails(&["volume", "rm", "data"]).contains("default/b"));
    assert!(home.fails(&["volume", "prune"]).contains("give -f"), "there is nobody to ask");
    assert_eq!(home.ok(&["volume", "prune", "--dry-run"]), "cache: would be removed\n");
    assert!(home.state().join("volumes/cache").exists());
    assert_eq!(home.ok(&["volume", "prune", "-f"]), "cache\n");
    assert_eq!(home.ok(&["volume", "prune", "-f"]), "");
    assert_eq!(home.ok(&["volume", "ls", "-q"]), "data\n");
    home.ok(&["start", "b"]);
    assert_eq!(fs::read_to_string(data.join("kept")).unwrap(), "kept");
    home.ok(&["rm", "-f", "b"]);
    home.ok(&["volume", "rm", "data"]);
    assert!(!data.exists());
    assert!(home.fails(&["volume", "rm", "data"]).contains("there is no volume data"));
    for name in ["../x", ".removed-x", "a b", ""] {
        assert!(home.fails(&["volume", "rm", name]).contains("not allowed"), "{name:?}");
    }
    // What a daemon that died was removing goes.
    home.kill_daemon();
    fs::create_dir_all(home.state().join("volumes/.removed-old/deep")).unwrap();
    home.ok(&["ps"]);
    until("it is deleted", || !home.state().join("volumes/.removed-old").exists());
}

#[test]
fn a_refusal_has_its_commands_words() {
    let home = Home::new();
    running(&home, "a", &[]);
    for (command, words) in [
        (vec!["start", "a"], "default/a is RUNNING already; `sandpen restart`"),
        (vec!["rm", "a"], "default/a is RUNNING, which cannot be removed; stop it first, or use --force"),
        (vec!["rename", "a", "b"], "cannot be renamed; stop it first"),
        (vec!["run", "-d", "-n", "a", "/", "--", "true"], "is already RUNNING; stop it first or use another name"),
    ] {
        let refused = home.fails(&command);
        assert!(refused.contains(words), "{command:?}: {refused}");
    }
}
