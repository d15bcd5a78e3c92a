//! `sandpen daemon`.

use std::time::Duration;

use sandpen::client::daemon_log::{DaemonLog, LogLimits};
use sandpen::client::{Client, ClientOptions};
use sandpen::daemon::{self, DaemonOptions};
use sandpen::driver::HostOptions;
use sandpen::kernel::{KernelError, krunfw};
use sandpen::private_dir::PrivateDir;
use sandpen_types::error_chain::error_chain;
use sandpen_types::state_dir::StateDir;
use sandpen_types::units::ByteSize;

use super::args::{ConfinementArg, KrunfwArg};
use super::core_dumps::CoreDumpError;
use super::{CliError, FAILED, Global, print};

/// Run the daemon in the foreground
///
/// The other commands start one in the background where none runs; run it yourself under a service
/// manager. Its messages go to stderr; SANDPEN_LOG=debug shows more. SIGTERM ends it and leaves the
/// sandboxes running for the next daemon. With --stop-sandboxes a second signal kills them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
systemd (a whole unit is in contrib/systemd/):
  [Service]
  Type=notify
  ExecStart=/usr/bin/sandpen daemon
  Restart=always
  KillMode=process        (any other mode would end the microVMs with the daemon)")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line are")]
pub struct Args {
    /// Stop all sandboxes when a signal ends the daemon
    #[arg(long)]
    stop_sandboxes: bool,
    /// Grace in seconds for --stop-sandboxes
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10, requires = "stop_sandboxes")]
    time: u32,
    /// Take over from the daemon that runs, for example to upgrade: it ends, the sandboxes run on. Nothing
    /// is ended when this version could not take over
    #[arg(long)]
    replace: bool,
    /// Start the daemon again whenever it crashes, where no service manager does. A daemon that another
    /// command has started is kept so, unless SANDPEN_NO_KEEP is set
    #[arg(long)]
    keep: bool,
    /// Refuse new sandboxes when less than this is free on the disk of the state directory, for example 1g
    /// [default: 64 MiB, or a twentieth of a smaller disk]
    #[arg(long, value_name = "BYTES", env = "SANDPEN_RESERVE", hide_env_values = true)]
    reserve: Option<ByteSize>,
    /// Remove what no sandbox uses from the cache of the state directory, oldest first, when it holds more than this,
    /// for example 4g [default: 16 GiB, or an eighth of a smaller disk]
    #[arg(long, value_name = "BYTES", env = "SANDPEN_CACHE", hide_env_values = true)]
    cache: Option<ByteSize>,
    /// Remove images that no sandbox has from the data directory, those that were not used for longest first, when all take
    /// more than this after something was loaded, for example 4g [default: 16 GiB, or an eighth of a smaller disk]
    #[arg(long, value_name = "BYTES", env = "SANDPEN_IMAGE_BUDGET", hide_env_values = true)]
    image_budget: Option<ByteSize>,
    #[command(flatten)]
    confinement: ConfinementArg,
    #[command(flatten)]
    krunfw: KrunfwArg,
    /// Leave the session and tell readiness on stdout
    #[arg(long, hide = true)]
    background: bool,
}

/// How often another daemon that came in between is replaced too.
const REPLACE_TRIES: u32 = 5;

/// Ends the daemon that runs, if this version can take over.
fn end_other(global: &Global) -> Result<(), CliError> {
    let options = ClientOptions { daemon: None, ..global.client_options()? };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?;
    runtime.block_on(async {
        // Before the other one is ended: root could end somebody else's, and start none in its place.
        let own = PrivateDir::of_daemon(&options.state_dir).map_err(sandpen::client::ClientError::from)?;
        daemon::check_can_take_over(own.state_dir()).await?;
        match Client::connect(&options).await {
            Ok(client) => client.shutdown(None).await.map(drop).map_err(CliError::from),
            Err(error) if error.is_not_running() => Ok(()),
            Err(error) => Err(error.into()),
        }
    })
}

/// The log of a daemon that a client has started.
fn own_log(global: &Global, args: &Args) -> Option<DaemonLog> {
    if !args.background {
        return None;
    }
    let dir = StateDir::new(std::path::absolute(global.state_dir()).ok()?);
    DaemonLog::of_stderr(&dir, log_limits())
}

#[cfg(not(feature = "testing"))]
fn log_limits() -> LogLimits {
    LogLimits::default()
}

/// Smaller ones for tests.
#[cfg(feature = "testing")]
fn log_limits() -> LogLimits {
    let wanted = std::env::var("SANDPEN_TEST_DAEMON_LOG").unwrap_or_default();
    let mut numbers = wanted.split(',').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(max_bytes)), Some(Ok(kept))) => LogLimits { max_bytes: u64::from(max_bytes), kept },
        _ => LogLimits::default(),
    }
}

pub fn execute(global: &Global, args: &Args, dumps: Result<(), CoreDumpError>) -> Result<u8, CliError> {
    // Before anything is opened: what a client had open is not the daemon's.
    let closed = if args.background { sandpen::driver::confine::close_inherited() } else { Ok(()) };
    print::start_tracing(own_log(global, args));
    if let Err(error) = closed {
        tracing::warn!(%error, "descriptors of whoever started this daemon stay open");
    }
    if let Err(error) = dumps {
        tracing::warn!("{}", error_chain(&error));
    }
    if args.keep {
        let mut command = std::process::Command::new(std::env::current_exe().map_err(CliError::OwnProgram)?);
        // Everything but `--keep`: the first daemon may replace another one, and so may the next.
        command.args(std::env::args_os().skip(1).filter(|arg| arg != "--keep"));
        return daemon::keep(command, args.background).map_err(CliError::Keep);
    }
    let options = DaemonOptions {
        state_dir: global.state_dir(),
        data_dir: global.data_dir(),
        background: args.background,
        stop_sandboxes: args.stop_sandboxes.then(|| Duration::from_secs(args.time.into())),
        reserve: args.reserve.map(ByteSize::bytes),
        image_budget: args.image_budget.map(ByteSize::bytes),
        drivers: None,
        host: HostOptions {
            krunfw: args.krunfw.path()?,
            require_confinement: args.confinement.require_confinement,
            cache: args.cache.map(ByteSize::bytes),
        },
    };
    let mut tries = if args.replace { REPLACE_TRIES } else { 0 };
    let result = loop {
        if args.replace {
            krunfw::named(options.host.krunfw.as_deref()).map_err(KernelError::from)?;
            end_other(global)?;
        }
        match daemon::run(&options) {
            // A client was faster, and started one like the one that has just ended.
            Err(error) if error.is_already_running() && tries > 0 => tries -= 1,
            result => break result,
        }
    };
    match result {
        // Several clients started one at once; the parent was told, and the log stays readable.
        Err(error) if args.background && error.is_already_running() => Ok(FAILED),
        result => result.map(|()| 0).map_err(CliError::from),
    }
}
