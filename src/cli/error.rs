//! What a subcommand can fail with.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use sandpen::api::OutputQueryError;
use sandpen::client::ClientError;
use sandpen::daemon::{DaemonError, ReplaceError};
use sandpen::kernel::KernelError;
use sandpen_types::moment::MomentError;
use sandpen_types::session::{SessionEnd, SessionId};
use sandpen_types::spec::SpecError;

use super::cp::CopyError;
use super::defaults::ConfigError;
use super::run::EnvError;
use super::template::TemplateError;

/// A failure that ends the program.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The daemon refused or cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The daemon could not start.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The daemon cannot be started again and again.
    #[error("running the daemon under its keeper")]
    Keep(#[source] std::io::Error),
    /// The daemon that runs is not replaced.
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    /// The guest kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The sandbox cannot be as it was asked for.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A time that cannot be.
    #[error(transparent)]
    Moment(#[from] MomentError),
    /// A window of time that holds nothing.
    #[error(transparent)]
    Window(#[from] OutputQueryError),
    /// A config file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A manual page cannot be written.
    #[error("writing the manual page {path:?}")]
    ManualPage {
        /// Which, or the directory for all.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The environment of the command.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// Neither a directory nor an image.
    #[error("{text:?} is no directory, which would start with \".\" or \"/\", for example ./rootfs, and no image")]
    RootfsForm {
        /// As it was given.
        text: PathBuf,
        /// Why it is no image.
        #[source]
        source: Option<sandpen_types::image::ReferenceError>,
    },
    /// What could be both.
    #[error(
        "{name:?} could be the directory of this name here or the image {image}: give ./{name} for the directory, or {image} for \
         the image"
    )]
    RootfsOrImage {
        /// As it was given.
        name: String,
        /// The image.
        image: String,
    },
    /// A flag of run that does not go with an image, or without one.
    #[error("{flag} {reason}")]
    RootFlag {
        /// Which.
        flag: &'static str,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// No name of an image.
    #[error(transparent)]
    Reference(#[from] sandpen_types::image::ReferenceError),
    /// A registry.
    #[error(transparent)]
    Registry(#[from] sandpen::registry::RegistryError),
    /// Who asks a registry.
    #[error(transparent)]
    Credentials(#[from] sandpen::registry::credentials::CredentialError),
    /// A name and a password that a registry does not take.
    #[error(
        "{registry} does not let {username} in with this password{}; nothing was kept",
        if .said.is_empty() { String::new() } else { format!(" (it says: {said})") }
    )]
    LoginDenied {
        /// Which registry.
        registry: String,
        /// Who.
        username: String,
        /// What the registry says, harmless.
        said: String,
    },
    /// A login that is not ours to forget.
    #[error(
        "{path:?} still knows {registry}; it is another tool's: use `docker logout {registry}` or `podman logout {registry}`"
    )]
    StillLoggedIn {
        /// Which registry.
        registry: String,
        /// The file.
        path: PathBuf,
    },
    /// No registry, and no default one.
    #[error("name the registry; there is no default one")]
    WhichRegistry,
    /// A password that nobody is there to type.
    #[error(
        "there is no terminal to ask for name and password on; give the name with -u, and send the password to standard \
         input with --password-stdin"
    )]
    NobodyToAsk,
    /// A password that would be seen.
    #[error("standard input is a terminal; leave out --password-stdin to be asked for the password without showing it")]
    PasswordTyped,
    /// The question was not answered.
    #[error("nothing was typed, and nothing is kept")]
    NothingTyped,
    /// Standard input fails.
    #[error("the password cannot be read from standard input")]
    PasswordRead(#[source] io::Error),
    /// No password.
    #[error("what came from standard input is no password: it {0}")]
    Password(&'static str),
    /// An archive that is not there.
    #[error("{path:?} cannot be read")]
    Archive {
        /// As it was given.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// An archive that JSON cannot carry.
    #[error("{0:?} is not UTF-8; rename it, give a symbolic link to it, or pass it on standard input with -")]
    ArchiveText(PathBuf),
    /// An archive that cannot be written.
    #[error("the archive {path:?} cannot be written; nothing of it is there")]
    ArchiveFile {
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// An archive that nobody wants to look at.
    #[error("an archive is not for a terminal; give a file with -o, or send standard output to one")]
    ArchiveOnTerminal,
    /// An archive that nobody types.
    #[error("standard input is a terminal, and an archive is not typed; give a file, or send one to standard input")]
    ArchiveFromTerminal,
    /// A rootfs that is not there.
    #[error("rootfs {path:?} cannot be used")]
    Rootfs {
        /// As it was given.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A rootfs that JSON cannot carry.
    #[error("rootfs {0:?} is not UTF-8; rename it or give a symbolic link to it")]
    RootfsText(PathBuf),
    /// A template that does not fit.
    #[error("--format: {0}")]
    Template(#[from] TemplateError),
    /// A volume that is not there.
    #[error("volume {path:?} cannot be used; make that directory or file first")]
    Volume {
        /// The host path as it was given.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A volume that JSON cannot carry.
    #[error("volume {0:?} is not UTF-8; rename it or give a symbolic link to it")]
    VolumeText(PathBuf),
    /// A kernel that is not there.
    #[error("kernel {path:?} cannot be used")]
    KernelFile {
        /// As it was given.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A kernel that JSON cannot carry.
    #[error("kernel {0:?} is not UTF-8; rename it or give a symbolic link to it")]
    KernelText(PathBuf),
    /// Both ways to name a config.
    #[error("give the config either as --config {option} or in the name {name:?}")]
    TwoConfigs {
        /// With the option.
        option: String,
        /// With the name.
        name: String,
    },
    /// Standard output is broken.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// No runtime.
    #[error("cannot start a runtime")]
    Runtime(#[source] io::Error),
    /// No signals.
    #[error("cannot take signals")]
    Signals(#[source] io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The user's terminal says nothing of itself.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    /// There is no current directory.
    #[error("cannot tell the current directory")]
    CurrentDir(#[source] io::Error),
    /// Our own path is unknown.
    #[error("cannot tell the path of this program, which is the daemon as well")]
    OwnProgram(#[source] io::Error),
    /// Input for a terminal that does not come from one.
    #[error(
        "standard input is not a terminal, which a sandbox or a session with a terminal needs; with run and exec leave out -t, \
         or -i where output is enough; with attach give --no-stdin"
    )]
    NoTerminal,
    /// A session that a user does not want to wait for.
    #[error(
        "session {id} of sandbox {name} has not ended yet; see `sandpen sessions {name}`, and have it back with `sandpen \
         attach --session {id} {name}`"
    )]
    SessionGivenUp {
        /// Which.
        id: SessionId,
        /// Of which sandbox.
        name: String,
    },
    /// The session goes on without us.
    #[error(
        "session {id} of sandbox {name} is out of sight and may go on for a while; `sandpen attach --session {id} {name}` has \
         it back"
    )]
    SessionOutOfSight {
        /// Which.
        id: SessionId,
        /// Of which sandbox.
        name: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// The job goes on without us.
    #[error("job {id} of sandbox {name} is out of sight and may go on; `sandpen attach --job {id} {name}` has it back")]
    JobOutOfSight {
        /// Which.
        id: SessionId,
        /// Of which sandbox.
        name: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// A session or job is of one sandbox.
    #[error("{0} is of one sandbox: give the name of that one alone")]
    SessionOfSeveral(SessionId),
    /// A copy.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A list of processes that cannot be read.
    #[error("what the sandbox says of its processes cannot be read")]
    Processes(#[source] serde_json::Error),
    /// A list of processes that is not whole.
    #[error("the sandbox did not tell its processes: {0}")]
    ProcessesEnd(SessionEnd),
    /// A list of processes without end.
    #[error("the sandbox tells more than {most} bytes of its processes, which no list of them has")]
    ProcessesLong {
        /// The limit.
        most: usize,
    },
    /// Events of files end without a word.
    #[error("the daemon ended; what happens to the files now is not told any more: watch them again")]
    WatchCut,
    /// A question that nobody is there to answer.
    #[error(
        "without a terminal to ask on, prune removes nothing; give -f to remove, or --dry-run to see what that would be"
    )]
    NotAsked,
    /// The key by which SSH clients know us.
    #[error(transparent)]
    HostKey(#[from] sandpen_ssh::host_key::HostKeyError),
    /// What SSH clients know us by cannot be written.
    #[error("{path:?}, which ssh looks up host keys in, cannot be written")]
    KnownHosts {
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// What ssh_config cannot hold.
    #[error(transparent)]
    SshConfig(#[from] sandpen_ssh::config::ConfigError),
    /// An SSH client.
    #[error(transparent)]
    Ssh(#[from] sandpen_ssh::ServeError),
    /// A port of the host that cannot be listened at.
    #[error("cannot listen at {address}; give another HOST port, or 0 for a free one")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A sandbox whose ports were forwarded.
    #[error("sandbox {0} has ended, and nothing is forwarded any more")]
    ForwardEnded(String),
    /// Nothing to attach to.
    #[error("sandbox {0} does not run; `sandpen start {0}` starts it again, and `sandpen logs {0}` has its output")]
    NotRunning(String),
    /// A user who does not want to wait for a kill.
    #[error("sandbox {0} has not ended yet; see `sandpen inspect {0}`")]
    GivenUp(String),
    /// The sandbox goes on without us.
    #[error("sandbox {name} is out of sight and may go on; see `sandpen logs -f {name}` and `sandpen stop {name}`")]
    OutOfSight {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: ClientError,
    },
}
