//! What users do with many sandboxes: labels and lists of them, other names, volumes with names.

use std::fs;

use crate::support::{Home, explain, run_named, succeeds, until};

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
    succeeds(run_named(&home, "job", &["-l", "team=search"], "exit 0"));
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
    assert!(events.contains(r#""kind":"renamed""#) && events.contains(r#"{"to":"shop/b"}"#), "{events}");
    // It starts by its new name, and the old one is another sandbox's.
    home.ok(&["start", "shop/b"]);
    until("it has begun again", || home.ok(&["logs", "--all", "shop/b"]) == "hello\nhello\n");
    running(&home, "a", &[]);
    until("it has begun", || home.ok(&["logs", "a"]) == "hello\n");
    let logs = home.state().join("logs");
    assert!(logs.join("shop/b.log").exists() && logs.join("default/a.log").exists());
}

#[test]
fn a_rename_that_a_crash_cut_off_is_finished_by_the_next_daemon() {
    let home = Home::new();
    running(&home, "a", &[]);
    home.ok(&["stop", "-t", "1", "a"]);
    // The directory of the new name takes nothing: the row has it, and the files do not.
    let shop = home.state().join("logs/shop");
    fs::write(&shop, "").unwrap();
    let told = home.fails(&["rename", "a", "shop/b"]);
    assert!(told.contains("renamed, but not all of its files"), "{told}");
    home.kill_daemon();
    fs::remove_file(&shop).unwrap();
    assert_eq!(home.ok(&["logs", "shop/b"]), "hello\n");
    assert!(!home.state().join("logs/default/a.log").exists());
    assert_eq!(home.inspect("shop/b")["state"], "STOPPED");
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
