//! The crates and their arrows: `docs/architecture.md` against `cargo metadata`.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use super::{Words, code_words, read, root, rows, section};

/// What cargo knows of the workspace, with all features.
fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--all-features", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The workspace's crates with their folders, and the crates of the workspace that each is built with.
fn crates(metadata: &Value) -> BTreeMap<String, (String, Words)> {
    let packages = metadata["packages"].as_array().unwrap();
    let ours: Vec<_> = packages.iter().filter(|package| package["source"].is_null()).collect();
    let names: Words = ours.iter().map(|package| text(&package["name"]).to_owned()).collect();
    let described = ours.iter().map(|package| {
        let manifest = text(&package["manifest_path"]);
        let folder = manifest.strip_prefix(root().to_str().unwrap()).unwrap().trim_start_matches('/');
        let folder = folder.trim_end_matches("Cargo.toml").trim_end_matches('/');
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let built_with = dependencies.filter(|dependency| dependency["kind"] != "dev");
        let built_with = built_with.map(|dependency| text(&dependency["name"]).to_owned());
        let folder = if folder.is_empty() { "src" } else { folder };
        (
            text(&package["name"]).to_owned(),
            (folder.to_owned(), built_with.filter(|name| names.contains(name)).collect()),
        )
    });
    described.collect()
}

/// Every crate that is compiled into this one, whoever wrote it.
fn all_below(metadata: &Value, name: &str) -> Words {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let nodes: BTreeMap<_, _> = nodes.iter().map(|node| (text(&node["id"]), node)).collect();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeMap<_, _> = packages.iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
    let (root, _) = names.iter().find(|(_, of)| **of == name).unwrap_or_else(|| panic!("no crate {name}"));
    let (mut below, mut open) = (BTreeMap::new(), vec![*root]);
    while let Some(id) = open.pop() {
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            let id = text(&dependency["pkg"]);
            if kinds.iter().any(|kind| kind["kind"].is_null()) && below.insert(id, names[id]).is_none() {
                open.push(id);
            }
        }
    }
    below.into_values().map(str::to_owned).collect()
}

#[test]
fn the_crates_and_their_arrows() {
    let page = read("docs/architecture.md");
    let listed = rows(section(&page, "## The crates"));
    let listed = listed.iter().map(|cells| {
        let [name, folder, _, built_with, _] = cells[..] else { panic!("a row with other columns: {cells:?}") };
        (name.trim_matches('`').to_owned(), (folder.trim_matches('`').to_owned(), code_words(built_with)))
    });
    assert_eq!(listed.collect::<BTreeMap<_, _>>(), crates(&metadata()), "left: the page, right: cargo");
}

#[test]
fn what_must_not_be_below_a_crate_is_not() {
    let (page, metadata) = (read("docs/architecture.md"), metadata());
    for cells in rows(section(&page, "## The crates")) {
        let below = all_below(&metadata, cells[0].trim_matches('`'));
        let forbidden = code_words(cells[4]);
        let found: Vec<_> = forbidden.intersection(&below).collect();
        assert!(found.is_empty(), "{} is built with {found:?}", cells[0]);
        let packages = metadata["packages"].as_array().unwrap();
        let unknown: Vec<_> =
            forbidden.iter().filter(|name| !packages.iter().any(|package| package["name"] == ***name)).collect();
        assert!(unknown.is_empty(), "no crate is called {unknown:?}");
    }
}

#[test]
fn each_crate_says_what_it_may_know() {
    for (name, (folder, _)) in crates(&metadata()) {
        let lib = if folder == "src" { "src/lib.rs".to_owned() } else { format!("{folder}/src/lib.rs") };
        let text = read(&lib);
        let opening: Vec<_> = text.lines().take_while(|line| line.starts_with("//!")).collect();
        let opening = opening.join(" ");
        assert!(opening.contains("May know: ") && opening.contains("May not: "), "{name}: {lib} opens with {opening}");
    }
}

/// What `CONTRIBUTING.md` says to look at.
#[test]
fn files_to_look_at_are_there() {
    for word in code_words(&read("CONTRIBUTING.md")) {
        let is_path = word.contains('/') && !word.contains("NAME") && !word.contains("NNN") && !word.contains("WHAT");
        if is_path && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)) {
            assert!(root().join(&word).exists(), "CONTRIBUTING.md names {word}");
        }
    }
}
