//! What a sandbox is: its name, its rootfs, its workload and its limits.
//!
//! Everything here is plain data, checked when it is made: a [`SandboxName`] that exists is a
//! safe file name, a [`SandboxSpec`] that passed [`SandboxSpec::check`] can be started.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Why a piece of a specification was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A sandbox or config name that is not a safe file name.
    #[error(
        "{what} name {name:?} is not allowed: use 1 to 63 of A-Z a-z 0-9 _ . -, starting with a letter or digit, without \"..\""
    )]
    Name {
        /// "sandbox" or "config".
        what: &'static str,
        /// The refused name.
        name: String,
    },
    /// A stored rootfs text that is neither `native:PATH` nor `overlayfs:A:B`.
    #[error("rootfs {0:?} is not of the form native:PATH or overlayfs:LOWER:LOWER")]
    RootfsText(String),
    /// The rootfs is not an absolute path.
    #[error("rootfs {0:?} is not an absolute path")]
    RootfsRelative(PathBuf),
    /// The rootfs does not exist or cannot be read.
    #[error("rootfs {path:?} cannot be used: {reason}")]
    RootfsUnusable {
        /// The path as given.
        path: PathBuf,
        /// "no such directory", "not a directory" or the system's words.
        reason: String,
    },
    /// Memory outside what a guest boots with.
    #[error("memory of {mib} MiB is outside {min} to {max} MiB: below that the guest kernel does not boot")]
    Memory {
        /// The refused amount.
        mib: u32,
        /// The least amount accepted.
        min: u32,
        /// The largest amount accepted.
        max: u32,
    },
    /// A number of virtual CPUs that no machine type takes.
    #[error("{0} cpus: use 1 to 64")]
    Cpus(u32),
    /// An environment entry without a name, or with `=` or NUL in it.
    #[error("environment entry {0:?} is not of the form NAME=VALUE")]
    Env(String),
    /// Nothing to execute.
    #[error("the command is empty")]
    NoCommand,
    /// A NUL byte in an argument, a value or a path.
    #[error("{what} holds a NUL byte, which no program can receive")]
    Nul {
        /// Which part.
        what: &'static str,
    },
    /// A working directory that is not absolute.
    #[error("working directory {0:?} is not an absolute path in the guest")]
    Workdir(String),
    /// The command, environment and workdir together are too large for one message.
    #[error("command and environment are {bytes} bytes together; at most {max} fit")]
    TooLarge {
        /// What was asked for.
        bytes: usize,
        /// The most that is accepted.
        max: usize,
    },
    /// Log limits that cannot hold anything.
    #[error("log files of {max_bytes} bytes, {keep} kept: use at least 4096 bytes and 1 file")]
    Log {
        /// Size at which a log is rotated.
        max_bytes: u64,
        /// Files kept.
        keep: u32,
    },
}

fn check_name(what: &'static str, name: &str) -> Result<(), SpecError> {
    let mut bytes = name.bytes();
    let starts_well = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let goes_on_well = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if starts_well && goes_on_well && name.len() <= 63 && !name.contains("..") {
        Ok(())
    } else {
        Err(SpecError::Name { what, name: name.to_owned() })
    }
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks and takes `name`.
            ///
            /// # Errors
            /// [`SpecError::Name`] unless it matches `[A-Za-z0-9][A-Za-z0-9_.-]{0,62}` without `..`.
            pub fn new(name: impl Into<String>) -> Result<Self, SpecError> {
                let name = name.into();
                check_name($what, &name)?;
                Ok(Self(name))
            }

            /// The name as text; safe as one path component.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = SpecError;
            fn try_from(name: String) -> Result<Self, SpecError> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl FromStr for $type {
            type Err = SpecError;
            fn from_str(name: &str) -> Result<Self, SpecError> {
                Self::new(name)
            }
        }
    };
}

checked_name!(
    /// A sandbox's name: unique within its config, safe as a file name.
    SandboxName,
    "sandbox"
);
checked_name!(
    /// The project file a sandbox belongs to, as a safe name; `default` where none is used.
    ConfigName,
    "config"
);

impl Default for ConfigName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// What identifies a sandbox in one state directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxKey {
    /// The project file's name.
    pub config: ConfigName,
    /// The sandbox's name.
    pub name: SandboxName,
}

impl SandboxKey {
    /// A key in the `default` config.
    pub fn new(name: SandboxName) -> Self {
        Self { config: ConfigName::default(), name }
    }
}

impl fmt::Display for SandboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.config, self.name)
    }
}

/// Bytes that are usually text: an argument, an environment value, a guest path.
///
/// In JSON a string where they are UTF-8, else `{"base64": "…"}`, so that nothing is changed.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct ByteString(Vec<u8>);

impl ByteString {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, owned.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The bytes as the system's string type.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Debug for ByteString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl<T: Into<OsString>> From<T> for ByteString {
    fn from(text: T) -> Self {
        Self(text.into().into_vec())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ByteStringJson {
    Text(String),
    Bytes { base64: String },
}

impl Serialize for ByteString {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => ByteStringJson::Bytes { base64: BASE64.encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ByteString {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match ByteStringJson::deserialize(deserializer)? {
            ByteStringJson::Text(text) => Ok(Self(text.into_bytes())),
            ByteStringJson::Bytes { base64 } => BASE64.decode(base64).map(Self).map_err(serde::de::Error::custom),
        }
    }
}

/// Where a sandbox's root directory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// One host directory, shared read-write.
    Native(PathBuf),
    /// Read-only lower directories, topmost first, under a writable layer of the sandbox's own.
    Overlayfs(Vec<PathBuf>),
}

impl Rootfs {
    /// `native:PATH` or `overlayfs:A:B`; a backslash stands before each `:` and `\` of a path, so
    /// that the text is unambiguous.
    pub fn to_text(&self) -> String {
        let escape = |path: &Path| path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:");
        match self {
            Self::Native(path) => format!("native:{}", escape(path)),
            Self::Overlayfs(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| escape(path)).collect();
                format!("overlayfs:{}", paths.join(":"))
            }
        }
    }

    /// Reads what [`Rootfs::to_text`] wrote.
    ///
    /// # Errors
    /// [`SpecError::RootfsText`] for anything else.
    pub fn from_text(text: &str) -> Result<Self, SpecError> {
        let refused = || SpecError::RootfsText(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(refused)?;
        let mut paths = vec![String::new()];
        let mut chars = rest.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some(c @ ('\\' | ':')) => paths.last_mut().ok_or_else(refused)?.push(c),
                    _ => return Err(refused()),
                },
                ':' => paths.push(String::new()),
                c => paths.last_mut().ok_or_else(refused)?.push(c),
            }
        }
        if paths.iter().any(String::is_empty) {
            return Err(refused());
        }
        let mut paths: Vec<PathBuf> = paths.into_iter().map(PathBuf::from).collect();
        match (kind, paths.len()) {
            ("native", 1) => Ok(Self::Native(paths.remove(0))),
            ("overlayfs", _) => Ok(Self::Overlayfs(paths)),
            _ => Err(refused()),
        }
    }

    /// Every host directory that is used.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Native(path) => vec![path],
            Self::Overlayfs(paths) => paths.iter().map(PathBuf::as_path).collect(),
        }
    }
}

/// Which driver makes the microVM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverChoice {
    /// The best one that works on this host.
    #[default]
    Auto,
    /// This one or none.
    Named(String),
}

/// Least memory of a microVM in MiB: a stock kernel with its initramfs boots in it.
pub const MEMORY_MIN_MIB: u32 = 96;
/// Largest memory of a microVM in MiB that is accepted (1 TiB).
pub const MEMORY_MAX_MIB: u32 = 1 << 20;
/// Most bytes of command, environment and workdir together. The kernel's limit for one execve is
/// a quarter of the stack limit (2 MiB); half of that leaves room for pointers and padding.
pub const WORKLOAD_MAX_BYTES: usize = 1 << 20;

/// What a microVM may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Virtual CPUs, 1 to 64.
    pub cpus: u32,
    /// Memory in MiB, [`MEMORY_MIN_MIB`] to [`MEMORY_MAX_MIB`].
    pub memory_mib: u32,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: 1, memory_mib: 256 }
    }
}

/// When a sandbox that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// After FAILED or a non-zero exit, at most `max` times in a row (no limit if `None`).
    OnFailure {
        /// Most restarts in a row.
        max: Option<u32>,
    },
    /// After every end but one that was asked for.
    Always,
}

/// How large a log grows and how many files of it are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes after which a log file is rotated, at least 4096.
    pub max_bytes: u64,
    /// Rotated files kept beside the current one, at least 1.
    pub keep: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_bytes: 10 << 20, keep: 5 }
    }
}

/// Everything that is needed to start a sandbox. `Debug` shows the names of the environment only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Name and config.
    pub key: SandboxKey,
    /// The root directory.
    pub rootfs: Rootfs,
    /// The driver.
    #[serde(default)]
    pub driver: DriverChoice,
    /// CPUs and memory.
    #[serde(default)]
    pub resources: Resources,
    /// Program and arguments; looked up in the guest's `PATH` when the program has no slash.
    pub command: Vec<ByteString>,
    /// Environment of the workload. Values may be secrets: never in argv, logs or errors.
    #[serde(default)]
    pub env: Vec<(ByteString, ByteString)>,
    /// Working directory in the guest, absolute.
    #[serde(default)]
    pub workdir: Option<ByteString>,
    /// Whether the workload gets a standard input; without, it reads its end at once.
    #[serde(default)]
    pub stdin: bool,
    /// Longest time the workload may run.
    #[serde(default)]
    pub timeout: Option<Duration>,
    /// What happens after the end.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Log size and rotation.
    #[serde(default)]
    pub log: LogLimits,
    /// Remove row and log when the sandbox has ended and nobody waits for it any more.
    #[serde(default)]
    pub remove_on_end: bool,
    /// When the project file was last changed; `None` where none is used.
    #[serde(default)]
    pub config_last_modified: Option<DateTime<Utc>>,
}

impl fmt::Debug for SandboxSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxSpec")
            .field("key", &self.key)
            .field("rootfs", &self.rootfs)
            .field("driver", &self.driver)
            .field("resources", &self.resources)
            .field("command", &self.command)
            .field("env", &self.env.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("workdir", &self.workdir)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}

impl SandboxSpec {
    /// A specification with defaults, in the `default` config.
    pub fn new(name: SandboxName, rootfs: Rootfs, command: Vec<ByteString>) -> Self {
        Self {
            key: SandboxKey::new(name),
            rootfs,
            driver: DriverChoice::default(),
            resources: Resources::default(),
            command,
            env: Vec::new(),
            workdir: None,
            stdin: false,
            timeout: None,
            restart: RestartPolicy::default(),
            log: LogLimits::default(),
            remove_on_end: false,
            config_last_modified: None,
        }
    }

    /// Checks every part against this host. Reads file metadata: not for an arbiter thread.
    ///
    /// # Errors
    /// The first [`SpecError`] found.
    pub fn check(&self) -> Result<(), SpecError> {
        self.check_values()?;
        for path in self.rootfs.paths() {
            if !path.is_absolute() {
                return Err(SpecError::RootfsRelative(path.to_owned()));
            }
            let unusable = |reason: String| SpecError::RootfsUnusable { path: path.to_owned(), reason };
            match std::fs::metadata(path) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => return Err(unusable("not a directory".into())),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    return Err(unusable("no such directory".into()));
                }
                Err(e) => return Err(unusable(e.to_string())),
            }
        }
        Ok(())
    }

    /// Checks everything that needs no look at the host's files.
    ///
    /// # Errors
    /// The first [`SpecError`] found.
    pub fn check_values(&self) -> Result<(), SpecError> {
        let Resources { cpus, memory_mib } = self.resources;
        if !(1..=64).contains(&cpus) {
            return Err(SpecError::Cpus(cpus));
        }
        if !(MEMORY_MIN_MIB..=MEMORY_MAX_MIB).contains(&memory_mib) {
            return Err(SpecError::Memory { mib: memory_mib, min: MEMORY_MIN_MIB, max: MEMORY_MAX_MIB });
        }
        if self.log.max_bytes < 4096 || self.log.keep < 1 {
            return Err(SpecError::Log { max_bytes: self.log.max_bytes, keep: self.log.keep });
        }
        if self.command.is_empty() || self.command[0].as_bytes().is_empty() {
            return Err(SpecError::NoCommand);
        }
        let has_nul = |text: &ByteString| text.as_bytes().contains(&0);
        if self.command.iter().any(has_nul) {
            return Err(SpecError::Nul { what: "the command" });
        }
        for (name, value) in &self.env {
            if name.as_bytes().is_empty() || name.as_bytes().contains(&b'=') || has_nul(name) {
                return Err(SpecError::Env(String::from_utf8_lossy(name.as_bytes()).into_owned()));
            }
            if has_nul(value) {
                return Err(SpecError::Nul { what: "an environment value" });
            }
        }
        if let Some(workdir) = &self.workdir {
            if workdir.as_bytes().first() != Some(&b'/') {
                return Err(SpecError::Workdir(String::from_utf8_lossy(workdir.as_bytes()).into_owned()));
            }
            if has_nul(workdir) {
                return Err(SpecError::Nul { what: "the working directory" });
            }
        }
        let bytes = self.command.iter().map(|part| part.as_bytes().len() + 1).sum::<usize>()
            + self.env.iter().map(|(k, v)| k.as_bytes().len() + v.as_bytes().len() + 2).sum::<usize>()
            + self.workdir.as_ref().map_or(0, |dir| dir.as_bytes().len());
        if bytes > WORKLOAD_MAX_BYTES {
            return Err(SpecError::TooLarge { bytes, max: WORKLOAD_MAX_BYTES });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
