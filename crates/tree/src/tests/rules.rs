//! The rules of destinations, case by case as `docs/copying.md` has them.

use super::*;

/// A case: flags and source, destination, and what is there then, or part of the error.
struct Case {
    follow: bool,
    source: String,
    destination: String,
    result: Result<(String, String), String>,
}

/// The table of the page.
fn cases() -> Vec<Case> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/copying.md")).unwrap();
    let (_, table) = page.split_once("\n| SRC | DST | then |\n").unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let cases = rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let code = |cell: &str| cell.split('`').nth(1).unwrap_or_default().to_owned();
        let source = code(cells[0]);
        let result = match cells[2].strip_prefix("error: ") {
            Some(error) => Err(error.to_owned()),
            None => Ok((code(cells[2]), cells[2].rsplit(' ').next().unwrap().to_owned())),
        };
        Case {
            follow: source.starts_with("-L "),
            source: source.trim_start_matches("-L ").to_owned(),
            destination: code(cells[1]),
            result,
        }
    });
    cases.collect()
}

fn lay_out(root: &Path) {
    let at = |name: &str| root.join(name);
    for dir in ["from/tree", "to/dir"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    fs::write(at("from/file"), "new").unwrap();
    fs::write(at("from/tree/x"), "new").unwrap();
    symlink("file", at("from/tofile")).unwrap();
    symlink("tree", at("from/totree")).unwrap();
    fs::write(at("to/old"), "old").unwrap();
    symlink("dir", at("to/todir")).unwrap();
    symlink("old", at("to/toold")).unwrap();
    symlink("nowhere", at("to/dangling")).unwrap();
}

#[test]
fn every_row_of_the_table_is_so() {
    let cases = cases();
    assert!(cases.len() > 20, "{}", cases.len());
    for Case { follow, source, destination, result } in cases {
        let dir = tempfile::tempdir().unwrap();
        lay_out(dir.path());
        let case = format!("{source} to {destination}");
        // Not through PathBuf, to which slashes and dots say nothing.
        let path = |above: &str, name: &str| format!("{}/{above}/{name}", dir.path().display());
        let (from, to) = (path("from", &source), path("to", &destination));
        let mut tar = Vec::new();
        let packed = pack(Path::new(&from), PackOptions { follow, attributes: Attributes::User }, &mut tar);
        let destination = Destination::Path { path: Path::new(&to), name: Some(crate::top(Path::new(&from)).name()) };
        let done = packed
            .map_err(|error| crate::report::chain(&error))
            .and_then(|_| unpack(&*tar, destination, OPTIONS).map_err(|error| crate::report::chain(&error)));
        match (done, result) {
            (Ok(report), Ok((path, kind))) => {
                assert_eq!(report.problems.to_string(), "", "{case}");
                let path = dir.path().join("to").join(path);
                let there = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{case}: {path:?}: {error}"));
                match kind.as_str() {
                    "link" => assert!(there.is_symlink(), "{case}"),
                    _ => assert!(there.is_file() && fs::read(&path).unwrap() == b"new", "{case}"),
                }
            }
            (Err(error), Err(expected)) => {
                assert!(error.contains(&expected), "{case}: {error}");
                assert_eq!(fs::read(dir.path().join("to/old")).unwrap(), b"old", "{case}");
            }
            (done, result) => panic!("{case}: {done:?}, and not {result:?}"),
        }
        assert_no_temporary(dir.path());
    }
}

#[test]
fn a_directory_that_is_there_has_both_and_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    lay_out(dir.path());
    let to = dir.path().join("to/dir");
    fs::set_permissions(&to, fs::Permissions::from_mode(0o711)).unwrap();
    fs::create_dir(to.join("tree")).unwrap();
    fs::write(to.join("tree/kept"), "kept").unwrap();
    unpack(&*packed(&dir.path().join("from/.")), Destination::Path { path: &to, name: Some(b"") }, OPTIONS).unwrap();
    assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o711, "the destination is whose it is");
    assert!(to.join("tree/kept").exists() && to.join("tree/x").exists());
}
