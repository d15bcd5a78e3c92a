//! Config files: defaults for flags. A flag wins over its environment variable, that over the user's file, that over the
//! system's, and that over what is built in; and where a flag contradicts the default of another one, the flag holds.
//!
//! ```text
//!   /etc/sandpen/config.toml, ~/.config/sandpen/config.toml ─▶ entries ─▶ looked at by their flags' own parsers
//!                                                                             └─▶ default values of clap's command line,
//!                                                                                 but for those that yield to its flags
//! ```

mod file;
mod key;
mod yielding;

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use directories::BaseDirs;
use sandpen_types::error_chain::error_chain;
use serde::Serialize;

use file::Entry;
pub use key::{KEYS, Key};

/// Environment variable: the one file to read, instead of the user's and the system's; none where it is empty.
pub const VARIABLE: &str = "SANDPEN_CONFIG";
/// For all users.
const OF_SYSTEM: &str = "/etc/sandpen/config.toml";

/// Why a config file is not obeyed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The system says no.
    #[error("the config file {path:?} cannot be read")]
    Read {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// One that would soon be another.
    #[error("{VARIABLE} names {0:?}; give an absolute path, which a daemon finds too")]
    NamedRelative(PathBuf),
    /// A directory, a device.
    #[error("the config file {0:?} is no file; move it away")]
    NoFile(PathBuf),
    /// Somebody else's.
    #[error(
        "the config file {path:?} belongs to user {owner}, and only one's own and root's are obeyed; change its owner, \
         or set {VARIABLE} to another file or to nothing"
    )]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose.
        owner: u32,
    },
    /// Others decide what it says.
    #[error("the config file {0:?} can be written by others, who could decide what is run; `chmod go-w` it")]
    Writable(PathBuf),
    /// No config.
    #[error("the config file {path:?} has more than {most} bytes")]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// What it may have.
        most: u64,
    },
    /// No TOML.
    #[error("config file {path:?}, line {line}: {message}")]
    Syntax {
        /// Which.
        path: PathBuf,
        /// From 1 on.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// Nothing that could be set.
    #[error(
        "config file {path:?}, line {line}: there is no key {key:?}; {}",
        .nearest.map_or_else(|| "`sandpen config` lists them".to_owned(), |key| format!("did you mean {key}?"))
    )]
    UnknownKey {
        /// In which file.
        path: PathBuf,
        /// From 1 on.
        line: usize,
        /// As it stands there.
        key: String,
        /// What may have been meant.
        nearest: Option<&'static str>,
    },
    /// A list, a table, a date.
    #[error(
        "config file {path:?}, line {line}: {key} is {} {found}; give what would stand behind --{key}, in quotes",
        if found.starts_with('a') { "an" } else { "a" }
    )]
    Type {
        /// In which file.
        path: PathBuf,
        /// From 1 on.
        line: usize,
        /// Of what.
        key: &'static str,
        /// What TOML calls it.
        found: &'static str,
    },
    /// A path that is another one in each directory.
    #[error("config file {path:?}, line {line}: {key} is {value:?}; give an absolute path")]
    Relative {
        /// In which file.
        path: PathBuf,
        /// From 1 on.
        line: usize,
        /// Of what.
        key: &'static str,
        /// As it stands there.
        value: String,
    },
    /// What the flag would refuse too.
    #[error("config file {path:?}, line {line}: {key} cannot be {value:?}: {message}")]
    Value {
        /// In which file.
        path: PathBuf,
        /// From 1 on.
        line: usize,
        /// Of what.
        key: &'static str,
        /// As it stands there.
        value: String,
        /// What the flag says.
        message: String,
    },
}

/// A file and what it says.
#[derive(Debug)]
struct Source {
    kind: Origin,
    path: PathBuf,
    entries: Vec<Entry>,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// This command line.
    Flag,
    /// An environment variable.
    Environment,
    /// The file that [`VARIABLE`] names.
    NamedFile,
    /// The user's file.
    UserFile,
    /// The system's file.
    SystemFile,
    /// Nobody said otherwise.
    BuiltIn,
}

/// A default and where it comes from.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// The flag, without its dashes.
    pub key: &'static str,
    /// As it would stand behind it; `None` where it would not be given.
    pub value: Option<Given>,
    /// From where.
    pub origin: Origin,
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The line in it, from 1 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The environment variable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
}

/// What stands behind a flag.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Given {
    /// Given once.
    One(String),
    /// Each time that it is given.
    Several(Vec<String>),
}

/// What the config files say, the most important one first.
#[derive(Debug, Default)]
pub struct Defaults(Vec<Source>);

impl Defaults {
    /// Reads the files, and has the flags of `command` look at every value.
    ///
    /// # Errors
    /// The first mistake.
    pub fn load(command: &Command) -> Result<Self, ConfigError> {
        let mut sources = Vec::new();
        for (kind, path) in places(std::env::var_os(VARIABLE)) {
            let is_named = kind == Origin::NamedFile;
            if is_named && !path.is_absolute() {
                return Err(ConfigError::NamedRelative(path));
            }
            let entries = match file::read(&path)? {
                None if is_named => return Err(ConfigError::Read { path, source: ErrorKind::NotFound.into() }),
                entries => entries.unwrap_or_default(),
            };
            for entry in &entries {
                check(command, &path, entry)?;
            }
            sources.push(Source { kind, path, entries });
        }
        Ok(Self(sources))
    }

    /// What holds for a key, of all files.
    fn find(&self, key: &Key) -> Option<(&Source, &Entry)> {
        let found = |source: &'_ Source| source.entries.iter().position(|entry| entry.key == key);
        self.0.iter().find_map(|source| Some((source, &source.entries[found(source)?])))
    }

    /// The keys whose defaults contradict what was given on a command line that they were applied to.
    pub fn yielding(&self, matches: &ArgMatches) -> Vec<&'static str> {
        let of_files = |name: &str| Some(self.find(Key::find(name)?)?.1.values.first()?.as_str());
        matches.subcommand_matches("run").map_or_else(Vec::new, |run| yielding::yielding(run, of_files))
    }

    /// The command line with these defaults in the place of the built-in ones, but for those of the keys `yielding`.
    pub fn apply(&self, mut command: Command, yielding: &[&str]) -> Command {
        for key in KEYS.iter().filter(|key| !yielding.contains(&key.name)) {
            let Some((_, entry)) = self.find(key) else { continue };
            // Once for the program's life, in which clap keeps it.
            let values: Vec<&'static str> = entry.values.iter().map(|value| &*value.clone().leak()).collect();
            if key.commands.is_empty() {
                command = set_default(command, key, &values);
            }
            for words in key.commands {
                command = below(command, &words.split(' ').collect::<Vec<_>>(), &|of| set_default(of, key, &values));
            }
        }
        command
    }

    /// What holds for every key on this command line, whose built-in defaults are `command`'s.
    pub fn effective(&self, command: &Command, matches: &ArgMatches) -> Vec<Effective> {
        KEYS.iter().map(|key| self.effective_value(key, command, matches)).collect()
    }

    fn effective_value(&self, key: &Key, command: &Command, matches: &ArgMatches) -> Effective {
        let nothing =
            Effective { key: key.name, value: None, origin: Origin::BuiltIn, file: None, line: None, variable: None };
        let Some(flag) = key.flag(command) else { return nothing };
        let id = flag.get_id().as_str();
        if key.commands.is_empty() && matches.value_source(id) == Some(ValueSource::CommandLine) {
            let value = matches.get_raw(id).and_then(|mut values| values.next());
            return Effective { value: value.map(one), origin: Origin::Flag, ..nothing };
        }
        if let Some(variable) = flag.get_env()
            && let Some(value) = std::env::var_os(variable)
        {
            let variable = Some(shown(variable));
            return Effective { value: Some(one(&value)), origin: Origin::Environment, variable, ..nothing };
        }
        if let Some((source, entry)) = self.find(key) {
            let (file, line) = (Some(source.path.clone()), Some(entry.line));
            let value = match entry.values.as_slice() {
                [value] if !key.is_list => Given::One(value.clone()),
                values => Given::Several(values.to_vec()),
            };
            return Effective { value: Some(value), origin: source.kind, file, line, ..nothing };
        }
        let built_in = flag.get_default_values().first().map(|value| shown(value)).or_else(|| found_out(key));
        Effective { value: built_in.map(Given::One), ..nothing }
    }
}

/// Built-in defaults that depend on the user.
fn found_out(key: &Key) -> Option<String> {
    match key.name {
        "state-dir" => Some(shown(sandpen::paths::default_state_dir().as_os_str())),
        "data-dir" => Some(shown(sandpen::paths::default_data_dir().as_os_str())),
        _ => None,
    }
}

fn one(text: &OsStr) -> Given {
    Given::One(shown(text))
}

fn shown(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

/// Where files are looked for, the most important one first.
fn places(named: Option<OsString>) -> Vec<(Origin, PathBuf)> {
    match named {
        Some(named) if named.is_empty() => Vec::new(),
        Some(named) => vec![(Origin::NamedFile, named.into())],
        None => {
            let user = BaseDirs::new().map(|dirs| (Origin::UserFile, dirs.config_dir().join("sandpen/config.toml")));
            user.into_iter().chain([(Origin::SystemFile, OF_SYSTEM.into())]).collect()
        }
    }
}

/// Changes a command below another one, by its words.
fn below(command: Command, words: &[&str], change: &dyn Fn(Command) -> Command) -> Command {
    match words {
        [] => change(command),
        [word, rest @ ..] => command.mut_subcommand(word, |command| below(command, rest, change)),
    }
}

fn set_default(command: Command, key: &Key, values: &[&'static str]) -> Command {
    let flag = command.get_arguments().find(|flag| flag.get_long() == Some(key.name));
    match flag.map(|flag| flag.get_id().clone()) {
        Some(id) => command.mut_arg(id, |flag| flag.default_values(values.to_vec())),
        None => command,
    }
}

/// Has the flag's parser look at the values.
fn check(command: &Command, path: &Path, entry: &Entry) -> Result<(), ConfigError> {
    let Some(flag) = entry.key.flag(command) else { return Ok(()) };
    entry.values.iter().try_for_each(|value| check_value(flag, path, entry, value))
}

fn check_value(flag: &Arg, path: &Path, entry: &Entry, value: &str) -> Result<(), ConfigError> {
    let alone = Arg::new("value").long(entry.key.name).value_parser(flag.get_value_parser().clone());
    let alone = Command::new("config").no_binary_name(true).arg(alone);
    let Err(error) = alone.try_get_matches_from([format!("--{}={}", entry.key.name, value)]) else {
        return Ok(());
    };
    let message = match std::error::Error::source(&error) {
        Some(source) => error_chain(source),
        // One of a few words: clap's own message says which there are.
        None => error
            .to_string()
            .lines()
            .skip(1)
            .map(str::trim)
            .find(|line| !line.is_empty())
            .unwrap_or_default()
            .to_owned(),
    };
    let (path, key, value) = (path.to_owned(), entry.key.name, value.to_owned());
    Err(ConfigError::Value { path, line: entry.line, key, value, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_name_is_no_file() {
        assert_eq!(places(Some("".into())), []);
        assert_eq!(places(Some("/a".into())), [(Origin::NamedFile, "/a".into())]);
        assert_eq!(places(None).last().unwrap(), &(Origin::SystemFile, OF_SYSTEM.into()));
    }
}
