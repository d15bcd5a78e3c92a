//! What OpenSSH's clients read to come here: a block of `ssh_config`, and a line of `known_hosts`. Pure.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sandpen_types::spec::{ConfigName, SandboxKey, WorkloadUser};

use crate::host_key::HostKey;

/// What every host key of sandpen's is filed under: one of a state directory is that of all of its sandboxes.
const ALIAS: &str = "sandpen";

/// A word that no `ssh_config` can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is not text.
    #[error("{0:?} is not UTF-8, which ssh_config wants")]
    Text(PathBuf),
    /// A line has no place for it.
    #[error("{0:?} has control characters, which ssh_config has no place for")]
    Control(String),
    /// It would be taken for a variable.
    #[error("{0:?} has \"${{\", which ssh_config takes for a variable; use another state directory")]
    Variable(String),
}

/// What leads to a sandbox.
#[derive(Debug, Clone)]
pub struct SshConfig<'a> {
    /// Which.
    pub key: &'a SandboxKey,
    /// Whom its workload runs as; `None`: root.
    pub user: Option<&'a WorkloadUser>,
    /// The program and its arguments that serve.
    pub proxy: &'a [&'a OsStr],
    /// The file with the host key.
    pub known_hosts: &'a Path,
}

/// The names of a sandbox as a host: `sandpen-NAME` and `NAME.sandpen`, with the config where that is another than the default.
pub fn host_names(key: &SandboxKey) -> [String; 2] {
    let SandboxKey { config, name } = key;
    match *config == ConfigName::default() {
        true => [format!("sandpen-{name}"), format!("{name}.sandpen")],
        false => [format!("sandpen-{config}-{name}"), format!("{name}.{config}.sandpen")],
    }
}

/// The line of a `known_hosts` file.
pub fn known_hosts(key: &HostKey) -> String {
    format!("{ALIAS} {}\n", key.known())
}

impl SshConfig<'_> {
    /// The block.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn text(&self) -> Result<String, ConfigError> {
        let [first, second] = host_names(self.key);
        let user = self.user.map_or_else(|| "root".to_owned(), ToString::to_string);
        let proxy: Result<Vec<String>, ConfigError> = self.proxy.iter().map(|word| shell_word(word)).collect();
        let known_hosts = plain(self.known_hosts.as_os_str())?;
        if known_hosts.contains("${") {
            return Err(ConfigError::Variable(known_hosts.to_owned()));
        }
        let mut text = format!("# Sandbox {}, as `sandpen ssh-config` prints it\nHost {first} {second}\n", self.key);
        let options = [
            ("HostName", second),
            ("HostKeyAlias", ALIAS.to_owned()),
            ("User", quoted(&user.replace('%', "%%"))),
            ("ProxyCommand", proxy?.join(" ").replace('%', "%%")),
            ("UserKnownHostsFile", quoted(&known_hosts.replace('%', "%%"))),
            ("GlobalKnownHostsFile", "/dev/null".to_owned()),
            ("StrictHostKeyChecking", "yes".to_owned()),
            ("UpdateHostKeys", "no".to_owned()),
            ("CheckHostIP", "no".to_owned()),
            ("CanonicalizeHostname", "no".to_owned()),
            ("IdentitiesOnly", "yes".to_owned()),
            ("IdentityFile", "none".to_owned()),
            ("IdentityAgent", "none".to_owned()),
            ("ForwardAgent", "no".to_owned()),
            ("ForwardX11", "no".to_owned()),
        ];
        for (name, value) in options {
            // Into a string nothing fails.
            let _ = writeln!(text, "    {name} {value}");
        }
        Ok(text)
    }
}

fn plain(word: &OsStr) -> Result<&str, ConfigError> {
    let text = std::str::from_utf8(word.as_bytes()).map_err(|_| ConfigError::Text(word.into()))?;
    if text.chars().any(char::is_control) { Err(ConfigError::Control(text.to_owned())) } else { Ok(text) }
}

/// A word for a shell. With backslashes: what `ssh_config` itself makes of quotes and backslashes is another thing, and of these
/// it makes the same.
fn shell_word(word: &OsStr) -> Result<String, ConfigError> {
    let text = plain(word)?;
    if text.is_empty() {
        return Ok("''".to_owned());
    }
    let is_safe = |c: char| {
        c.is_alphanumeric() || !c.is_ascii() || matches!(c, '/' | '.' | '_' | '-' | ':' | '=' | ',' | '@' | '+' | '%')
    };
    Ok(text.chars().fold(String::new(), |mut quoted, c| {
        if !is_safe(c) {
            quoted.push('\\');
        }
        quoted.push(c);
        quoted
    }))
}

/// A word for `ssh_config`.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use sandpen_types::spec::SandboxName;

    use super::*;

    fn key(config: &str) -> SandboxKey {
        SandboxKey { config: ConfigName::new(config).unwrap(), name: SandboxName::new("we_b.1").unwrap() }
    }

    #[test]
    fn hosts_are_named_for_their_sandbox() {
        assert_eq!(host_names(&key("default")), ["sandpen-we_b.1", "we_b.1.sandpen"]);
        assert_eq!(host_names(&key("app")), ["sandpen-app-we_b.1", "we_b.1.app.sandpen"]);
    }

    #[test]
    fn what_no_config_can_hold_is_refused() {
        let text = |proxy: &str, known: &str| {
            SshConfig { key: &key("default"), user: None, proxy: &[proxy.as_ref()], known_hosts: known.as_ref() }.text()
        };
        assert_eq!(text("a\nb", "/k"), Err(ConfigError::Control("a\nb".into())));
        assert_eq!(text("a", "/k\t"), Err(ConfigError::Control("/k\t".into())));
        assert_eq!(text("a", "/${HOME}/k"), Err(ConfigError::Variable("/${HOME}/k".into())));
        let odd = OsStr::from_bytes(b"/\xff");
        let config = SshConfig { key: &key("default"), user: None, proxy: &[odd], known_hosts: "/k".as_ref() };
        assert_eq!(config.text(), Err(ConfigError::Text(odd.into())));
    }

    /// OpenSSH itself reads it, and its shell.
    #[test]
    fn every_path_comes_to_the_program_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["plain", "a b", "it's", "\"x\"", "$HOME `id`", "back\\slash\\", "50%h", "#no", "ü*?[a]{b,c}~!&;|<>()"]
        {
            let odd = dir.path().join(name);
            fs::create_dir(&odd).unwrap();
            let (seen, known) = (odd.join("seen"), odd.join("known"));
            let proxy = ["printf".as_ref(), "%s\\n".as_ref(), odd.as_os_str(), "".as_ref(), "a  b".as_ref()];
            let script = [
                "sh".as_ref(),
                "-c".as_ref(),
                "out=$1; shift; \"$@\" >\"$out\"".as_ref(),
                "sh".as_ref(),
                seen.as_os_str(),
            ];
            let proxy = [&script[..], &proxy].concat();
            let text =
                SshConfig { key: &key("default"), user: None, proxy: &proxy, known_hosts: &known }.text().unwrap();
            let file = dir.path().join("config");
            fs::write(&file, &text).unwrap();
            let ssh = |args: &[&str]| {
                Command::new("ssh").arg("-F").arg(&file).args(args).env("SHELL", "/bin/sh").output().unwrap()
            };
            let shown = ssh(&["-G", "we_b.1.sandpen"]);
            let shown_text = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(shown.status.success(), "{name}: {}", String::from_utf8_lossy(&shown.stderr));
            assert!(
                shown_text.contains("hostkeyalias sandpen\n") && shown_text.contains("user root\n"),
                "{shown_text}"
            );
            // It fails, as nobody serves, behind the proxy's start.
            ssh(&["sandpen-we_b.1", "true"]);
            let words = format!("{}\n\na  b\n", odd.display());
            assert_eq!(fs::read_to_string(&seen).unwrap(), words, "{name}: {text}");
            // The known hosts are found there.
            assert!(shown_text.contains(&format!("userknownhostsfile {}\n", known.display())), "{shown_text}");
        }
    }
}
