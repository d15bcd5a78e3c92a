//! Who is measured, and what each one is asked in its own words.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The exit code of the command that all run from a microVM's begin to its end.
pub const CODE: i32 = 42;
/// That command.
const COMMAND: [&str; 3] = ["sh", "-c", "echo out; exit 42"];
/// The name of the microVM that commands are run in.
const NAME: &str = "box";

/// One of those who are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A program of libkrun's that runs the command and nothing else.
    Bare,
    Sandpen,
    Microsandbox,
    Smolvm,
}

impl Subject {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 4] = [Self::Bare, Self::Sandpen, Self::Microsandbox, Self::Smolvm];

    /// Where `scripts/bench-peers` puts it, and where it is found in the emulated machine; `None` for what needs nothing.
    pub fn peer(self) -> Option<&'static str> {
        match self {
            Self::Bare | Self::Sandpen => None,
            Self::Microsandbox => Some("microsandbox"),
            Self::Smolvm => Some("smolvm"),
        }
    }

    /// Its program below that directory.
    pub fn program(self) -> &'static str {
        match self {
            Self::Bare | Self::Sandpen => "",
            Self::Microsandbox => "bin/msb",
            Self::Smolvm => "smol-vmm",
        }
    }

    /// In the emulated machine: whether it is there.
    pub fn is_there(self) -> bool {
        self.peer().is_none_or(|peer| Path::new("/root/disk").join(peer).exists())
    }

    /// Its name where whole microVMs are measured.
    pub fn boot_name(self) -> &'static str {
        match self {
            Self::Bare => "bare libkrun program",
            Self::Sandpen => "sandpen run --driver krun",
            Self::Microsandbox => "microsandbox's msb run",
            Self::Smolvm => "smolvm's machine run",
        }
    }

    /// Its name where commands are measured; `None` where it has none.
    pub fn exec_name(self) -> Option<&'static str> {
        match self {
            Self::Bare => None,
            Self::Sandpen => Some("sandpen exec"),
            Self::Microsandbox => Some("microsandbox's msb exec"),
            Self::Smolvm => Some("smolvm's machine exec"),
        }
    }

    fn command(self) -> Command {
        let Some(peer) = self.peer() else { return Command::new("sandpen") };
        let dir = PathBuf::from("/root/disk").join(peer);
        let mut command = Command::new(dir.join(self.program()));
        if self == Self::Microsandbox {
            command.env("MSB_HOME", "/root/disk/home");
        } else {
            command.env("SMOLVM_LIB_DIR", &dir).env("SMOLVM_AGENT_ROOTFS_TAR", dir.join("agent-rootfs.tar.zst"));
            command.env("HOME", "/root/disk/home");
        }
        command
    }

    /// A microVM from its begin to its end with [`CODE`].
    pub fn boot(self) -> std::io::Result<Command> {
        let mut command = self.command();
        match self {
            Self::Bare => {
                command = Command::new(std::env::current_exe()?);
                command.args(["--bare", "/root/inner", "/init"]);
                return Ok(command);
            }
            Self::Sandpen => command.args(["run", "--rm", "--driver", "krun", "/root/inner", "--"]),
            Self::Microsandbox => {
                command.args(["run", "--quiet", "--no-net", "--no-stdin", "--cpus", "1", "--memory", "256M"]);
                command.args(["/root/disk/inner", "--"])
            }
            Self::Smolvm => {
                command.args(["machine", "run", "--state-dir", "/root/disk/smol", "-I", "/root/disk/inner"]);
                command.args(["--cpus", "1", "--mem", "512", "--storage", "1", "--"])
            }
        };
        command.args(COMMAND);
        Ok(command)
    }

    /// What makes the microVM that [`Subject::exec`] speaks of, one after the other.
    pub fn make(self) -> Vec<Command> {
        let with = |arguments: &[&str]| {
            let mut command = self.command();
            command.args(arguments);
            command
        };
        match self {
            Self::Bare => vec![],
            Self::Sandpen => vec![with(&["run", "-d", "--idle", "-n", NAME, "--driver", "krun", "/root/inner"])],
            Self::Microsandbox => {
                let size = ["--cpus", "1", "--memory", "256M"];
                let create =
                    [&["create", "--quiet", "--no-net", "-n", NAME][..], &size, &["/root/disk/inner"]].concat();
                vec![with(&create)]
            }
            Self::Smolvm => {
                let of = ["--state-dir", "/root/disk/smol", "--name", NAME];
                let size = ["-I", "/root/disk/inner", "--cpus", "1", "--mem", "512", "--storage", "1"];
                vec![
                    with(&[&["machine", "create"][..], &of, &size].concat()),
                    with(&[&["machine", "start"][..], &of].concat()),
                ]
            }
        }
    }

    /// A command in it that ends with code 0.
    pub fn exec(self) -> Command {
        let mut command = self.command();
        match self {
            Self::Bare | Self::Sandpen => command.args(["exec", NAME, "--", "true"]),
            Self::Microsandbox => command.args(["exec", "--quiet", "--no-stdin", NAME, "--", "true"]),
            Self::Smolvm => {
                command.args(["machine", "exec", "--state-dir", "/root/disk/smol", "--name", NAME, "--", "true"])
            }
        };
        command
    }
}
