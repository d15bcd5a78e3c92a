//! What the documentation lists, compared with the code that decides it: a table that has grown old
//! fails here.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod crates;
mod http;
mod images;
mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandpen::actors::spec::{DiskName, SandboxKey, SandboxName, VolumeName};
use sandpen::actors::state_dir::StateDir;
use sandpen_types::session::SessionId;

type Words = BTreeSet<String>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every page for users, by its path.
fn pages() -> Vec<String> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()));
    docs.filter(|path| Path::new(path).extension().is_some_and(|extension| extension == "md"))
        .chain(["README.md".to_owned(), "CONTRIBUTING.md".to_owned()])
        .collect()
}

/// The part of a page from its heading to the next one.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    rest.split("\n#").next().unwrap()
}

/// The cells of a text's table rows, without headings.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().filter_map(|line| line.trim_start_matches("//! ").strip_prefix("| "));
    let cells = rows.map(|row| row.trim_end_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>());
    let mut cells: Vec<_> = cells.collect();
    if let Some(line) = cells.iter().position(|cells| cells[0].starts_with("---")) {
        cells.drain(..=line);
    }
    cells
}

/// What stands in backticks, split at spaces.
fn code_words(text: &str) -> Words {
    text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// The names that follow `before` and end at a character that no name has.
fn names_after(text: &str, before: &str) -> Words {
    let names = text.split(before).skip(1);
    names.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-')).collect()).collect()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Every Rust file of the project, its tests included.
fn sources() -> impl Iterator<Item = PathBuf> {
    ["src", "actors/src", "crates", "guest/src", "tests"].into_iter().flat_map(|dir| rust_files(&root().join(dir)))
}

/// What follows a declaration, in whichever file has it.
fn after(declaration: &str) -> String {
    let texts = sources().map(|file| fs::read_to_string(file).unwrap());
    // This file has it as a string, without the end of its line.
    let rest: Vec<_> =
        texts.filter_map(|text| Some(text.split_once(&format!("\n{declaration}\n"))?.1.to_owned())).collect();
    assert_eq!(rest.len(), 1, "files with {declaration:?}");
    rest.into_iter().next().unwrap()
}

/// Commands and events of an actor, from its sources: a command is a message of its own module that
/// it handles, an event one that it does not.
fn messages(actor: &str, module: &str) -> (Words, Words) {
    let (mut messages, mut handled) = (Words::new(), Words::new());
    for file in rust_files(&root().join("actors/src").join(module)) {
        if file.components().any(|part| part.as_os_str().to_string_lossy().starts_with("tests")) {
            continue;
        }
        let text = fs::read_to_string(file).unwrap();
        // What an actor tells itself has no `pub`.
        let public = |rest: &str| {
            let (before, after) = rest.split_once("struct ")?;
            before.ends_with("pub ").then(|| after.to_owned())
        };
        let names = text.split("#[rtype(").skip(1).filter_map(public);
        messages.extend(names.map(|rest| rest.chars().take_while(char::is_ascii_alphanumeric).collect()));
        for line in text.lines().filter(|line| line.ends_with(&format!("> for {actor} {{"))) {
            handled.extend(names_after(line, "Handler<"));
        }
    }
    messages.into_iter().partition(|message| handled.contains(message))
}

#[test]
fn actors_and_their_messages() {
    let actors = [
        ("Supervisor", "supervisor"),
        ("Monitor", "monitor"),
        ("JobKeeper", "jobs"),
        ("LogWriter", "log_writer"),
        ("Database", "database"),
    ];
    for page in ["docs/architecture.md", "actors/src/lib.rs"] {
        let text = read(page);
        let text = if page.starts_with("docs/") { section(&text, "## Actors and messages") } else { &text };
        let table: BTreeMap<String, (Words, Words)> = rows(text)
            .into_iter()
            .filter(|cells| cells.len() == 3)
            .map(|cells| {
                let name = cells[0].split('`').nth(1).unwrap().rsplit("::").next().unwrap().to_owned();
                (name, (code_words(cells[1]), code_words(cells[2])))
            })
            .collect();
        for (actor, module) in actors {
            assert_eq!(table.get(actor), Some(&messages(actor, module)), "{page}: {actor}");
        }
        assert_eq!(table.len(), actors.len(), "{page}");
    }
}

#[test]
fn metrics() {
    let page = read("docs/operations.md");
    let table = rows(section(&page, "## Metrics"));
    let documented: BTreeMap<String, Words> =
        table.iter().map(|cells| (cells[0].trim_matches('`').to_owned(), code_words(cells[1]))).collect();
    let mut code: BTreeMap<String, Words> = BTreeMap::new();
    for counter in sandpen_actors::telemetry::counters::Counter::ALL {
        let name = counter.name();
        let words = code.entry(name.name.to_owned()).or_default();
        words.extend(name.label.iter().flat_map(|(key, value)| [(*key).to_owned(), (*value).to_owned()]));
    }
    code.insert("sandpen_fault_active".to_owned(), Words::from(["fault", "clock_jumped"].map(str::to_owned)));
    code.insert("sandpen_sandboxes".to_owned(), Words::from(["state".to_owned()]));
    assert_eq!(documented, code);
}

#[test]
fn steps_of_a_start() {
    use sandpen_types::start_step::StartStep;
    let page = read("docs/operations.md");
    let table = rows(section(&page, "## Where the time of a start goes"));
    let documented: Vec<_> =
        table.iter().map(|cells| (cells[0].trim_matches('`'), cells[1].trim_matches('`'))).collect();
    let code: Vec<_> = StartStep::ALL.into_iter().map(|step| (step.name(), step.spender().name())).collect();
    assert_eq!(documented, code);
}

#[test]
fn the_state_directory() {
    let dir = StateDir::new("/state".into());
    let key = SandboxKey::new(SandboxName::new("NAME").unwrap());
    let page = read("docs/operations.md");
    let documented: Words = rows(section(&page, "## Files on disk"))
        .iter()
        .map(|cells| cells[0].trim_matches('`').trim_end_matches('/').to_owned())
        .collect();
    let code: Words = [
        dir.database(),
        dir.lock(),
        dir.daemon_log(),
        dir.socket(),
        dir.ssh_host_key(),
        dir.ssh_known_hosts(),
        dir.bin(),
        dir.cache(),
        dir.log(&key),
        dir.vmm_log(&key),
        dir.job_log(17, SessionId::new(7).unwrap()),
        dir.runtime(&key),
        dir.sandbox_disk(&key),
        dir.named_disk(&DiskName::new("DISK").unwrap()),
        dir.named_volume(&VolumeName::new("VOLUME").unwrap()),
    ]
    .iter()
    .map(|path| path.strip_prefix("/state").unwrap().to_str().unwrap())
    .map(|path| {
        path.replace("default", "<config>")
            .replace("NAME", "<name>")
            .replace("DISK", "<disk>")
            .replace("VOLUME", "<volume>")
            .replace("jobs/17/0000000000000007", "jobs/<row>/<job>")
    })
    .collect();
    assert_eq!(documented, code);
}

#[test]
fn what_the_doctor_looks_at() {
    let source = read("src/doctor.rs");
    let source = source.split("#[cfg(test)]").next().unwrap().to_owned() + &read("src/doctor/report.rs");
    let page = read("docs/operations.md");
    let table = rows(section(&page, "## What `sandpen doctor` looks at"));
    let documented: Words = table.iter().flat_map(|cells| code_words(cells[0])).collect();
    // Some calls break the line before the name.
    let dense: String = source.split_whitespace().collect();
    assert_eq!(documented, names_after(&dense, "Check::new(\""));
}

#[test]
fn frames_of_the_control_protocol() {
    let page = read("docs/drivers.md");
    let documented: Words = rows(section(&page, "## Control protocol"))
        .iter()
        .filter(|cells| cells.len() == 2 && cells[0].starts_with('`'))
        .flat_map(|cells| code_words(cells[0]))
        .collect();
    let mut code = Words::new();
    for messages in ["HostMessage", "GuestMessage", "StdinMessage"] {
        let variants = after(&format!("pub enum {messages} {{"));
        let variants = variants.split("\n}").next().unwrap().lines();
        // Variants are indented once, their fields twice.
        let variants = variants
            .filter_map(|line| line.strip_prefix("    "))
            .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
        code.extend(variants.map(|line| line.chars().take_while(char::is_ascii_alphanumeric).collect::<String>()));
    }
    assert_eq!(documented, code);
}

#[test]
fn the_systemd_unit() {
    let page = read("docs/operations.md");
    let shown: Vec<_> = page.split("```ini\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert_eq!(
        shown,
        [read("contrib/systemd/sandpen.service"), read("contrib/systemd/sandpen.service.d/delegate.conf")]
    );
}

#[test]
fn commands_in_the_pages_are_there() {
    let help = Command::new(env!("CARGO_BIN_EXE_sandpen")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.split_once("Commands:\n").unwrap().1.split("\n\n").next().unwrap();
    let mut known: Words = commands.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
    known.extend(["__virtiofsd", "__krun", "__confine", "__image"].map(str::to_owned));
    for page in pages() {
        let text = read(&page);
        // `sandpen WORD` in backticks, after a prompt, or in a unit file.
        for before in ["`sandpen ", "$ sandpen ", "/bin/sandpen "] {
            for command in names_after(&text, before) {
                assert!(
                    command.is_empty() || command.starts_with('-') || known.contains(&command),
                    "{page}: {command}"
                );
            }
        }
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    for page in pages() {
        let text = read(&page);
        let dir = root().join(&page).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !target.contains("://") && !target.starts_with('#') {
                let file = target.split('#').next().unwrap();
                assert!(dir.join(file).exists(), "{page} links to {target}, which is not there");
            }
        }
    }
}

#[test]
fn tests_of_faults_are_there() {
    let page = read("docs/faults.md");
    let named: Words = rows(&page).iter().skip(2).flat_map(|cells| code_words(cells.last().unwrap())).collect();
    let tests = sources().map(|file| fs::read_to_string(file).unwrap()).collect::<String>();
    assert!(!named.is_empty());
    for name in named {
        assert!(tests.contains(&format!("fn {name}(")), "there is no test {name}");
    }
}

#[test]
fn reasons_for_skips() {
    let page = read("docs/testing.md");
    let (_, rest) = page.split_once("\n| reason | why |\n").unwrap();
    let (table, _) = rest.split_once("\n\n").unwrap();
    let documented: Words = rows(table).iter().map(|cells| cells[0].trim_matches('`').to_owned()).collect();
    let code: Words = sandpen_skip::Reason::ALL.iter().map(|reason| reason.name().to_owned()).collect();
    assert_eq!(documented, code);
    for name in
        fs::read_to_string(root().join(".ci/run")).unwrap().lines().filter_map(|line| line.split_once("allowed="))
    {
        for name in name.1.trim_start_matches("$allowed").split(',').filter(|name| !name.is_empty()) {
            assert!(code.contains(name), ".ci/run: {name}");
        }
    }
}

/// No test ends early without a word: it skips, or is run by another one.
#[test]
fn ignored_tests_are_listed_and_none_prints_that_it_is_skipped() {
    let mut ignored = Words::new();
    let mut silent = Vec::new();
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        for rest in text.split("#[ignore").skip(1).filter(|rest| rest.starts_with(" = ")) {
            ignored.insert(rest.split_once("fn ").unwrap().1.split('(').next().unwrap().to_owned());
        }
        let prints = text.lines().any(|line| line.contains(concat!("println!(\"", "skipped")));
        if prints && !file.ends_with("tests/skip/src/lib.rs") {
            silent.push(file);
        }
    }
    let page = read("docs/testing.md");
    let table = rows(section(&page, "## Ignored tests"));
    let documented: Words = table.iter().map(|cells| cells[0].trim_matches('`').to_owned()).collect();
    assert_eq!(documented, ignored);
    assert!(silent.is_empty(), "{silent:?}");
}
