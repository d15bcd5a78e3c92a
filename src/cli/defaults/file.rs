//! One config file: read with care, and taken apart.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::key::Key;

/// Most bytes of a file; one with every key and a comment for each has two thousand.
const SIZE_MAX: u64 = 64 << 10;

/// What one line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: &'static Key,
    /// As they would stand behind the flag: one, but for a list.
    pub values: Vec<String>,
    /// Which line, from 1 on.
    pub line: usize,
}

/// Reads a file; `None` where none is.
pub fn read(path: &Path) -> Result<Option<Vec<Entry>>, ConfigError> {
    open(path)?.map(|file| parse(path, &text(path, file)?)).transpose()
}

fn is_out_of_sight(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Opens what is a file, and belongs to whoever may say what is done here.
fn open(path: &Path) -> Result<Option<File>, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut options = fs::OpenOptions::new();
    // A FIFO in its place is not waited for.
    let file = match options.read(true).custom_flags(nix::libc::O_NONBLOCK).open(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        // Of a home that this user may not even look into, another one's whose `HOME` is still set: not this user's file.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_out_of_sight(path) => return Ok(None),
        file => file.map_err(failed)?,
    };
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(ConfigError::NoFile(path.to_owned()));
    }
    let own = Uid::effective().as_raw();
    if meta.uid() != own && meta.uid() != 0 {
        return Err(ConfigError::Owner { path: path.to_owned(), owner: meta.uid() });
    }
    if meta.mode() & 0o022 != 0 {
        return Err(ConfigError::Writable(path.to_owned()));
    }
    Ok(Some(file))
}

fn text(path: &Path, file: File) -> Result<String, ConfigError> {
    let mut bytes = Vec::new();
    let read = file.take(SIZE_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > SIZE_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned(), most: SIZE_MAX });
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = line_of(error.as_bytes(), error.utf8_error().valid_up_to());
        ConfigError::Syntax { path: path.to_owned(), line, message: "what stands there is not UTF-8".to_owned() }
    })
}

/// The number of the line with this byte.
fn line_of(bytes: &[u8], at: usize) -> usize {
    bytes[..at.min(bytes.len())].split(|byte| *byte == b'\n').count()
}

/// Takes a file's text apart.
fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, ConfigError> {
    let line = |at: usize| line_of(text.as_bytes(), at);
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line(error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    let mut items: Vec<_> = table.get_ref().iter().collect();
    // The first mistake is the one that is told.
    items.sort_by_key(|(key, _)| key.span().start);
    let entry = |(name, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let (path, line): (PathBuf, _) = (path.to_owned(), line(name.span().start));
        let name: &str = AsRef::<str>::as_ref(name.get_ref());
        let Some(key) = Key::find(name) else {
            return Err(ConfigError::UnknownKey { path, line, key: name.to_owned(), nearest: Key::nearest(name) });
        };
        let values = match value.get_ref() {
            DeValue::Array(list) if key.is_list => list.iter().map(|value| text_of(value.get_ref())).collect(),
            value => text_of(value).map(|value| vec![value]),
        };
        let values = values.map_err(|found| ConfigError::Type { path: path.clone(), line, key: key.name, found })?;
        if key.is_path
            && let Some(value) = values.iter().find(|value| !Path::new(value).is_absolute())
        {
            return Err(ConfigError::Relative { path, line, key: key.name, value: value.clone() });
        }
        Ok(Entry { key, values, line })
    };
    items.into_iter().map(entry).collect()
}

/// A value as it would stand behind a flag; if it is none, what it is instead.
fn text_of(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(value) => Ok(value.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::Float(number) => Ok(number.to_string()),
        other => Err(other.type_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<(&'static str, String, usize)>, String> {
        let entries = parse(Path::new("/c"), text).map_err(|error| error.to_string())?;
        Ok(entries.into_iter().map(|entry| (entry.key.name, entry.values.join("|"), entry.line)).collect())
    }

    #[test]
    fn values_are_what_would_stand_behind_the_flag() {
        let text = "# ours\nmemory = \"1G\"\ncpus = 2\n\nrequire-confinement = true\ndetach-keys = ''\n\"disk\" = '''1G'''\n\
             mirror = ['a', 'b']\ninsecure-registry = 'c'\n";
        let expected = [
            ("memory", "1G", 2),
            ("cpus", "2", 3),
            ("require-confinement", "true", 5),
            ("detach-keys", "", 6),
            ("disk", "1G", 7),
            ("mirror", "a|b", 8),
            ("insecure-registry", "c", 9),
        ];
        let expected = expected.map(|(key, value, line)| (key, value.to_owned(), line));
        assert_eq!(parsed(text).unwrap(), expected);
        assert_eq!(parsed("").unwrap(), []);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, expected) in [
            ("\nmemry = '1G'", "line 2: there is no key \"memry\"; did you mean memory?"),
            ("zzz = 1", "line 1: there is no key \"zzz\"; `sandpen config` lists them"),
            ("env = ['A=B']", "line 1: there is no key \"env\""),
            ("cpus = 1\ncpus = 2", "line 2: "),
            ("cpus = [1]", "line 1: cpus is an array"),
            ("mirror = [['a']]", "line 1: mirror is an array"),
            ("mirror = [{a = 1}]", "line 1: mirror is a table"),
            ("cpus = {a = 1}", "line 1: cpus is a table"),
            ("cpus.a = 1", "line 1: cpus is a table"),
            ("[run]\ncpus = 1", "line 1: there is no key \"run\""),
            ("cpus = 1979-05-27", "line 1: cpus is a datetime"),
            ("# x\ncpus = ", "line 2: "),
            ("cpus 1", "line 1: "),
            ("state-dir = 'a/b'", "line 1: state-dir is \"a/b\""),
            ("state-dir = '~/b'", "line 1: state-dir is \"~/b\""),
            ("kernel = ''", "line 1: kernel is \"\""),
            ("a = 1\n\u{1b}[31m", "line 2: "),
        ] {
            let told = parsed(text).unwrap_err();
            assert!(told.contains(expected), "{text:?}: {told}");
        }
        let deep = format!("cpus = {}", "[".repeat(60_000));
        assert!(parsed(&deep).is_err());
    }
}
