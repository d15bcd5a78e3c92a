//! Arguments that several subcommands share. What a value can be, its type in `sandpen-types` says. Pure.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use sandpen::kernel::krunfw;
use sandpen_types::image::{ImageReference, ReferenceError};
use sandpen_types::signal::Signal;
use sandpen_types::spec::{ConfigName, SandboxKey, SandboxName};

use super::{CliError, Global};

/// The config of the sandboxes that are named.
#[derive(Debug, Args)]
pub struct ConfigArg {
    /// Group of names, no config file, that the sandboxes are in where a name does not say it as CONFIG/NAME [default: default]
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

/// The name of an image as it was typed. What it is without a registry is known when all of the command line is.
#[derive(Debug, Clone)]
pub struct ImageNameArg(String);

impl FromStr for ImageNameArg {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        text.parse::<ImageReference>().map(|_| Self(text.to_owned()))
    }
}

impl ImageNameArg {
    /// The whole name.
    pub fn name(&self, global: &Global) -> Result<ImageReference, CliError> {
        Ok(global.default_registry.name(&self.0)?)
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

/// What is demanded of the confinement of microVMs.
#[derive(Debug, Args)]
pub struct ConfinementArg {
    /// Whether microVMs are started only where their processes can be put into jails and have lists of system calls.
    /// Landlock and cgroups are used where they are there, and `sandpen inspect` tells what holds [default: yes for root
    /// with CAP_SYS_ADMIN in the initial namespace, else no]
    #[arg(
        long,
        value_name = "yes|no",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "yes",
        value_parser = clap::builder::BoolishValueParser::new(),
        env = "SANDPEN_REQUIRE_CONFINEMENT",
        hide_possible_values = true,
        hide_env_values = true
    )]
    pub require_confinement: Option<bool>,
}

/// How sandboxes are asked to end.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Grace in seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u32,
    /// Name or number of the signal that asks the command to end [default: that of `run --stop-signal`, else TERM]
    #[arg(short, long)]
    pub signal: Option<Signal>,
}

impl StopArgs {
    /// How long the command may take.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.time.into())
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

#[cfg(test)]
mod tests {
    use sandpen_types::signal::Signal;

    use super::*;

    #[test]
    fn signals_are_those_of_the_system() {
        for signal in nix::sys::signal::Signal::iterator() {
            let ours: Signal = signal.as_str().parse().unwrap();
            assert_eq!((ours.number(), format!("SIG{ours}").as_str()), (signal as i32, signal.as_str()));
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
