//! Arguments that several subcommands share, and how values are read. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use nix::sys::signal::Signal;
use sandpen::kernel::krunfw;
use sandpen_actors::spec::{ByteString, ConfigName, LogBacklog, Network, RootDevice, SandboxKey, SandboxName};

use super::CliError;

/// The config of the sandboxes that are named.
#[derive(Debug, Args)]
pub struct ConfigArg {
    /// Config that the sandboxes belong to, when it is not part of the name [default: default]
    #[arg(long, value_name = "CONFIG")]
    config: Option<ConfigName>,
}

impl ConfigArg {
    /// The key of `NAME` or `CONFIG/NAME`.
    pub fn key(&self, text: &str) -> Result<SandboxKey, CliError> {
        let (config, name) = match (text.split_once('/'), &self.config) {
            (None, config) => (config.clone().unwrap_or_default(), text),
            (Some((config, name)), None) => (ConfigName::new(config)?, name),
            (Some(_), Some(option)) => {
                return Err(CliError::TwoConfigs { option: option.to_string(), name: text.to_owned() });
            }
        };
        Ok(SandboxKey { config, name: SandboxName::new(name)? })
    }
}

/// The libkrunfw to use.
#[derive(Debug, Default, Args)]
pub struct KrunfwArg {
    /// The libkrunfw.so.5 to use, the guest kernel of the krun driver [default: what SANDPEN_KRUNFW names,
    /// also for daemons that a command starts; else the installed one, else the system's]
    #[arg(long, value_name = "FILE")]
    krunfw: Option<PathBuf>,
}

impl KrunfwArg {
    /// What was named here or in the environment, absolute: a daemon leaves the current directory.
    pub fn path(&self) -> Result<Option<PathBuf>, CliError> {
        let path = self.krunfw.clone().or_else(krunfw::named_by_environment);
        path.map(|path| std::path::absolute(path).map_err(CliError::CurrentDir)).transpose()
    }
}

/// One sandbox.
#[derive(Debug, Args)]
pub struct NameArg {
    /// The sandbox: NAME or CONFIG/NAME
    name: String,
    #[command(flatten)]
    config: ConfigArg,
}

impl NameArg {
    pub fn key(&self) -> Result<SandboxKey, CliError> {
        self.config.key(&self.name)
    }

    /// The name as it was given.
    pub fn text(&self) -> &str {
        &self.name
    }
}

/// Several sandboxes.
#[derive(Debug, Args)]
pub struct NamesArg {
    /// The sandboxes: NAME or CONFIG/NAME
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    config: ConfigArg,
}

impl NamesArg {
    /// All keys, or the first error: nothing is done to half of them.
    pub fn keys(&self) -> Result<Vec<SandboxKey>, CliError> {
        self.names.iter().map(|name| self.config.key(name)).collect()
    }
}

/// How a sandbox is called on the command line: without the config where that is the default.
pub fn short_name(config: &str, name: &str) -> String {
    if config == ConfigName::default().as_str() { name.to_owned() } else { format!("{config}/{name}") }
}

/// Reads `256M`, `64KiB` or `1G`: bytes in powers of 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let form = || format!("{text:?} is not a size; give a number with K, M or G, for example 256M");
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        _ => return Err(form()),
    };
    let number: u64 = digits.parse().map_err(|_| form())?;
    number.checked_mul(1 << shift).ok_or_else(form)
}

/// Reads an amount of memory: [`bytes`] in whole MiB.
pub fn mebibytes(text: &str) -> Result<u32, String> {
    let bytes = bytes(text)?;
    let mebibytes = bytes >> 20;
    if mebibytes << 20 != bytes {
        return Err(format!("{text:?} is not a whole number of MiB"));
    }
    u32::try_from(mebibytes).map_err(|_| format!("{text:?} is more memory than any host has"))
}

/// Reads the kind of a network.
pub fn network(text: &str) -> Result<Network, String> {
    Network::ALL.into_iter().find(|network| network.as_str() == text).ok_or_else(|| {
        let known = Network::ALL.map(Network::as_str).join(", ");
        format!("there is no network {text:?}; there are {known}")
    })
}

/// Reads how a root reaches the guest.
pub fn root_device(text: &str) -> Result<RootDevice, String> {
    RootDevice::ALL.into_iter().find(|device| device.as_str() == text).ok_or_else(|| {
        let known = RootDevice::ALL.map(RootDevice::as_str).join(", ");
        format!("a root cannot come by {text:?}; it can by {known}")
    })
}

/// Reads what happens to output that cannot be written.
pub fn log_backlog(text: &str) -> Result<LogBacklog, String> {
    match text {
        "block" => Ok(LogBacklog::Block),
        "drop" => Ok(LogBacklog::Drop),
        _ => Err(format!("{text:?} is neither block nor drop")),
    }
}

/// Reads `30s`, `5m` or `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err(format!("{text:?} is no time at all")),
        Ok(duration) => Ok(duration),
        Err(_) => Err(format!("{text:?} is not a duration; give one with its unit, for example 30s, 5m or 1h30m")),
    }
}

/// Reads `TERM`, `SIGTERM` or `15`.
pub fn signal(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(format!("signal {number} does not exist")) };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    match Signal::from_str(&name) {
        Ok(signal) => Ok(signal as i32),
        Err(_) => Err(format!("there is no signal {text:?}; give a name such as TERM or a number from 1 to 64")),
    }
}

/// An environment entry as it was given, byte for byte.
#[derive(Debug, Clone)]
pub struct EnvEntry {
    pub name: ByteString,
    pub value: ByteString,
}

/// Reads `NAME=VALUE`. The value is never shown, also not in the error.
#[derive(Debug, Clone)]
pub struct EnvParser;

impl clap::builder::TypedValueParser for EnvParser {
    type Value = EnvEntry;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<EnvEntry, clap::Error> {
        let bytes = value.as_bytes();
        match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) if at > 0 => Ok(EnvEntry {
                name: OsString::from_vec(bytes[..at].to_vec()).into(),
                value: OsString::from_vec(bytes[at + 1..].to_vec()).into(),
            }),
            found => {
                // Without `=` it is a name, with an empty name the rest may be a secret.
                let shown = if found.is_some() { "=…".to_owned() } else { format!("{}", value.display()) };
                let message = format!("environment entry {shown:?} is not of the form NAME=VALUE\n");
                Err(clap::Error::raw(clap::error::ErrorKind::ValueValidation, message).with_cmd(command))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(bytes("10M"), Ok(10 << 20));
        assert_eq!(bytes("64KiB"), Ok(64 << 10));
        assert_eq!(mebibytes("1G"), Ok(1024));
        for text in ["", "M", "1", "-1M", "1.5G", "1T", "99999999999999999999M", "18014398509481985K", "ä", "1ä"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(mebibytes("1K").is_err());
        assert!(mebibytes("99999999G").is_err());
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["KILL", "SIGKILL", "kill", "9"] {
            assert_eq!(signal(text), Ok(9), "{text}");
        }
        for text in ["", "0", "65", "-9", "SIG", "NOPE", "9999999999"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for text in ["", "0s", "30", "-1s", "soon", "99999999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_config_is_named_once() {
        let none = ConfigArg { config: None };
        assert_eq!(none.key("a").unwrap().to_string(), "default/a");
        assert_eq!(none.key("c/a").unwrap().to_string(), "c/a");
        for text in ["", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a b", "-a"] {
            assert!(none.key(text).is_err(), "{text}");
        }
        let some = ConfigArg { config: Some(ConfigName::new("c").unwrap()) };
        assert_eq!(some.key("a").unwrap().to_string(), "c/a");
        assert!(some.key("c/a").is_err());
    }
}
