//! What a config file may say: the long names of flags that make sense as a default.
//!
//! Left out is what names one sandbox (`name`, `publish`, `volume`, `keep-disk`), what may be secret (`env`), switches,
//! which no flag could take back, and what may be given several times, but for what says how registries are asked.

/// A key, which is the long name of a flag.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// The name.
    pub name: &'static str,
    /// The commands that have the flag, each with its words; none for a global one.
    pub commands: &'static [&'static str],
    /// Whether it is a path of this host. In a file that has to be an absolute one: commands are given anywhere.
    pub is_path: bool,
    /// Whether the flag may be given several times: a file may have a list of values.
    pub is_list: bool,
}

const fn key(name: &'static str, commands: &'static [&'static str]) -> Key {
    Key { name, commands, is_path: false, is_list: false }
}

const fn path(name: &'static str, commands: &'static [&'static str]) -> Key {
    Key { name, commands, is_path: true, is_list: false }
}

const fn list(name: &'static str, commands: &'static [&'static str]) -> Key {
    Key { name, commands, is_path: false, is_list: true }
}

/// All of them, as `sandpen config` lists them.
pub const KEYS: &[Key] = &[
    path("state-dir", &[]),
    path("data-dir", &[]),
    key("default-registry", &[]),
    key("driver", &["run"]),
    key("cpus", &["run"]),
    key("memory", &["run"]),
    key("disk", &["run"]),
    key("root", &["run"]),
    path("kernel", &["run"]),
    key("net", &["run"]),
    key("restart", &["run"]),
    key("timeout", &["run"]),
    key("stop-signal", &["run"]),
    key("shm-size", &["run"]),
    key("workdir", &["run"]),
    key("health-interval", &["run"]),
    key("health-timeout", &["run"]),
    key("health-retries", &["run"]),
    key("health-start-period", &["run"]),
    key("log-max-size", &["run"]),
    key("log-keep", &["run"]),
    key("log-backlog", &["run"]),
    key("detach-keys", &["run", "exec", "shell", "attach"]),
    list("mirror", &["run", "pull", "image pull"]),
    list("insecure-registry", &["run", "pull", "image pull", "push", "image push", "login"]),
    key("reserve", &["daemon"]),
    key("cache", &["daemon"]),
    key("image-budget", &["daemon"]),
    key("require-confinement", &["daemon", "doctor"]),
];

impl Key {
    /// The key of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The one whose name is most like this, if any is.
    pub fn nearest(name: &str) -> Option<&'static str> {
        let similarity = |key: &Self| strsim::jaro_winkler(key.name, name);
        let nearest = KEYS.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
        // As clap judges flags.
        (similarity(nearest) > 0.7).then_some(nearest.name)
    }

    /// Its flag in a command line that is not built yet, where the first of its commands has it.
    pub fn flag<'a>(&self, command: &'a clap::Command) -> Option<&'a clap::Arg> {
        let command = match self.commands.first() {
            None => command,
            Some(words) => words.split(' ').try_fold(command, |command, word| command.find_subcommand(word))?,
        };
        command.get_arguments().find(|flag| flag.get_long() == Some(self.name))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_key_is_a_flag_of_its_commands_that_takes_a_value() {
        let command = Cli::command();
        for key in KEYS {
            for commands in if key.commands.is_empty() { vec![&[][..]] } else { key.commands.chunks(1).collect() } {
                let here = Key { commands, ..*key };
                let flag = here.flag(&command).unwrap_or_else(|| panic!("--{} of {commands:?}", key.name));
                match flag.get_action() {
                    clap::ArgAction::Set => assert!(!key.is_list, "{}", key.name),
                    clap::ArgAction::Append => assert!(key.is_list, "{}", key.name),
                    other => panic!("{}: {other:?}", key.name),
                }
            }
        }
    }

    /// A flag that is added is thought about.
    #[test]
    fn every_other_flag_of_run_was_left_out_on_purpose() {
        let left_out = [
            "name",
            "config",
            "detach",
            "rm",
            "interactive",
            "idle",
            "idle-timeout",
            "tty",
            "raw",
            "health-cmd",
            "env",
            "env-file",
            "env-fd",
            "volume",
            "hostname",
            "user",
            "read-only",
            "tmpfs",
            "add-host",
            "sysctl",
            "label",
            "publish",
            "rlimit",
            "overlay",
            "keep-disk",
            "timings",
            "entrypoint",
            "no-healthcheck",
            "publish-all",
            "pull",
        ];
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        for name in run.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(left_out.contains(&name) != Key::find(name).is_some(), "--{name}");
        }
    }

    /// What one command obeys, another one of the same flag does as well, unless its flag is about something else.
    #[test]
    fn a_key_is_of_all_commands_that_have_its_flag() {
        let about_something_else = ["exec --workdir", "exec --timeout", "commit --workdir", "kernel install --kernel"];
        let mut others = vec![];
        find_others(&Cli::command(), "", &mut others);
        assert_eq!(others, about_something_else);
    }

    fn find_others(command: &clap::Command, words: &str, found: &mut Vec<String>) {
        for name in command.get_arguments().filter_map(clap::Arg::get_long) {
            let key = Key::find(name).filter(|key| !key.commands.is_empty());
            if key.is_some_and(|key| !key.commands.contains(&words.trim_start())) {
                found.push(format!("{} --{name}", words.trim_start()));
            }
        }
        for below in command.get_subcommands() {
            find_others(below, &format!("{words} {}", below.get_name()), found);
        }
    }

    #[test]
    fn a_slip_is_recognised() {
        assert_eq!(Key::nearest("memry"), Some("memory"));
        assert_eq!(Key::nearest("state_dir"), Some("state-dir"));
        assert_eq!(Key::nearest("zzz"), None);
    }
}
