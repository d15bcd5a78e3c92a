//! The package of which a program is built: the real one's `main`, and how it is built.

use std::fs;
use std::path::Path;

use crate::EmbedError;

/// Writes it into `directory`. What is as it shall be is left alone, so that nothing is built again.
pub(crate) fn write(directory: &Path, package: &str, source: &Path) -> Result<(), EmbedError> {
    let library = package.replace('-', "_");
    let program = format!("fn main() -> impl std::process::Termination {{\n    {library}::main()\n}}\n");
    fs::create_dir_all(directory).map_err(EmbedError::file(directory))?;
    for (name, text) in [("Cargo.toml", manifest(package, source)), ("main.rs", program)] {
        let path = directory.join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        fs::write(&path, text).map_err(EmbedError::file(&path))?;
    }
    Ok(())
}

fn manifest(package: &str, source: &Path) -> String {
    format!(
        r#"# Written by sandpen's build: {package} as it is embedded.
[package]
name = "embedded-{package}"
version = "0.0.0"
edition = "2024"

[[bin]]
name = "{package}"
path = "main.rs"

[dependencies]
{package} = {{ path = {source} }}

[workspace]

# One is in every sandbox's memory: small. A panic of PID 1 ends the machine anyway, after its hook has reported it;
# one of the waiter is a killed waiter.
[profile.embedded]
inherits = "release"
opt-level = "z"
lto = true
codegen-units = 1
panic = "abort"
debug = false
strip = true
"#,
        source = quoted(&source.to_string_lossy()),
    )
}

/// As a string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.extend(format!("\\u{:04x}", u32::from(c)).chars()),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_string() {
        assert_eq!(quoted("/a b/c"), r#""/a b/c""#);
        assert_eq!(quoted("/a\"b\\c\n"), r#""/a\"b\\c\u000a""#);
    }

    #[test]
    fn what_has_not_changed_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let written = || fs::metadata(dir.path().join("main.rs")).unwrap().modified().unwrap();
        write(dir.path(), "sandpen-waiter", Path::new("/a")).unwrap();
        let before = written();
        write(dir.path(), "sandpen-waiter", Path::new("/b")).unwrap();
        assert_eq!(written(), before);
        let manifest = fs::read_to_string(dir.path().join("Cargo.toml")).unwrap();
        assert!(manifest.contains(r#"sandpen-waiter = { path = "/b" }"#), "{manifest}");
    }
}
