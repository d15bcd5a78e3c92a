//! The options of the command's environment. Values may be secrets: they are shown nowhere, and a file or descriptor
//! keeps them off the command line, which every user of the host can read.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::builder::TypedValueParser;
use nix::fcntl::OFlag;
use sandpen_types::spec::{ByteString, ENV_LIST_MAX_BYTES, EnvItem, EnvListError};

use crate::cli::stdio::Blocking;

/// Why an environment cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// A file is not there, or not to be read.
    #[error("environment file {path:?} cannot be read")]
    File {
        /// As it was given.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file that might never end.
    #[error("environment file {0:?} is not a regular file; give a pipe as a descriptor, for example --env-fd 3")]
    NotAFile(PathBuf),
    /// A descriptor that this program did not get.
    #[error("descriptor {0} of --env-fd is not open for reading; give it as in `sandpen run --env-fd 3 … 3<FILE`")]
    NotOpen(RawFd),
    /// One that cannot be read.
    #[error("descriptor {fd} of --env-fd cannot be read; it must be a pipe or a file")]
    Descriptor {
        /// Its number.
        fd: RawFd,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Standard input for two.
    #[error("--env-fd 0 reads all of standard input, and -i passes it on; give another descriptor")]
    StandardInput,
    /// More than any environment.
    #[error("{list} holds more than {ENV_LIST_MAX_BYTES} bytes")]
    TooLarge {
        /// The file or descriptor.
        list: String,
    },
    /// What is in it is no list of variables.
    #[error("{list}: {error}")]
    List {
        /// The file or descriptor.
        list: String,
        /// Where and why.
        error: EnvListError,
    },
}

/// The command's environment.
#[derive(Debug, clap::Args)]
pub struct EnvArgs {
    /// Environment of the command; may be given several times. NAME alone takes the value from this
    /// command's own environment, and is left out where that has none
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = ItemParser)]
    env: Vec<EnvItem>,
    /// File with one NAME=VALUE or NAME in each line, without quotes; lines that begin with # are comments.
    /// Of a variable that is given twice, the later one holds: files come first, then --env-fd, then -e
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// The same from a descriptor that this command inherits, a pipe or file: secrets are in no file and on no
    /// command line then. If there are NUL bytes, each entry ends with one, as `env -0` writes it
    #[arg(long, value_name = "N", value_parser = descriptor)]
    env_fd: Vec<RawFd>,
}

/// Reads one `-e`, whose value is not shown in an error, as clap would.
#[derive(Debug, Clone)]
struct ItemParser;

impl TypedValueParser for ItemParser {
    type Value = EnvItem;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<EnvItem, clap::Error> {
        EnvItem::parse(value).map_err(|error| {
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{error}\n")).with_cmd(command)
        })
    }
}

fn descriptor(text: &str) -> Result<RawFd, String> {
    match text.parse() {
        Ok(fd) if fd == 0 || fd > 2 => Ok(fd),
        _ => Err("the number of a descriptor for reading: 0, or 3 and more".to_owned()),
    }
}

impl EnvArgs {
    /// All variables, each once. To be called once: descriptors are read to their end.
    ///
    /// # Errors
    /// [`EnvError`].
    pub fn variables(&self, passes_stdin: bool) -> Result<Vec<(ByteString, ByteString)>, EnvError> {
        let mut items = Vec::new();
        for path in &self.env_file {
            items.extend(read_file(path)?);
        }
        for fd in &self.env_fd {
            if *fd == 0 && passes_stdin {
                return Err(EnvError::StandardInput);
            }
            items.extend(read_descriptor(*fd)?);
        }
        items.extend(self.env.iter().cloned());
        let mut variables: Vec<(ByteString, ByteString)> = Vec::new();
        for item in items {
            let (name, value) = match item {
                EnvItem::Entry(entry) => (entry.name, Some(entry.value)),
                EnvItem::Inherited(name) => {
                    let value = std::env::var_os(OsStr::from_bytes(name.as_bytes())).map(ByteString::from);
                    (name, value)
                }
            };
            variables.retain(|(other, _)| *other != name);
            variables.extend(value.map(|value| (name, value)));
        }
        Ok(variables)
    }
}

fn read_file(path: &Path) -> Result<Vec<EnvItem>, EnvError> {
    let failed = |source| EnvError::File { path: path.to_owned(), source };
    // A FIFO is opened at once, and then refused.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if kind.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    if !kind.is_file() {
        return Err(EnvError::NotAFile(path.to_owned()));
    }
    let list = || format!("environment file \"{}\"", path.display());
    let bytes = read(file).map_err(failed)?.ok_or_else(|| EnvError::TooLarge { list: list() })?;
    EnvItem::lines(&bytes).map_err(|error| EnvError::List { list: list(), error })
}

fn read_descriptor(fd: RawFd) -> Result<Vec<EnvItem>, EnvError> {
    let failed = |source| EnvError::Descriptor { fd, source };
    if !is_inherited(fd) {
        return Err(EnvError::NotOpen(fd));
    }
    // A descriptor of our own for the same, so that nothing of it is changed for whoever else has it. Not opened to
    // wait: a FIFO's last writer may have gone.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let path = format!("/proc/self/fd/{fd}");
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(failed)?;
    let list = || format!("what descriptor {fd} gave");
    let bytes = read(file).map_err(failed)?.ok_or_else(|| EnvError::TooLarge { list: list() })?;
    if fd != 0 {
        // A daemon that is started next has no use for it. Nobody in this process has it: it was inherited.
        nix::unistd::close(fd).map_err(|errno| failed(errno.into()))?;
    }
    EnvItem::entries_or_lines(&bytes).map_err(|error| EnvError::List { list: list(), error })
}

/// Whether whoever started us gave us this, to read: what we opened ourselves would not outlive an exec.
fn is_inherited(fd: RawFd) -> bool {
    let Ok(info) = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")) else { return false };
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).map(OFlag::from_bits_retain);
    flags.is_some_and(|flags| !flags.contains(OFlag::O_CLOEXEC) && (flags & OFlag::O_ACCMODE) != OFlag::O_WRONLY)
}

/// Reads to the end; `None` where there is more than any environment has.
fn read(file: File) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    Blocking(file).take(ENV_LIST_MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= ENV_LIST_MAX_BYTES).then_some(bytes))
}
