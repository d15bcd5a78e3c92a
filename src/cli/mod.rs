//! The command line. One file per subcommand, which only reads its arguments and calls the client;
//! `print` is the only one that writes to the terminal.

mod args;
mod ask;
mod attach;
mod completion;
mod config;
mod core_dumps;
mod cp;
mod daemon;
mod defaults;
mod detach_keys;
mod df;
mod disk;
mod doctor;
mod error;
mod events;
mod exec;
mod file;
mod foreground;
mod history;
mod image;
mod inspect;
mod job;
mod jobs;
mod kernel;
mod kill;
mod login;
mod logout;
mod logs;
mod man;
mod metrics;
mod names;
mod port_forward;
mod print;
mod prune;
mod ps;
mod reconcile;
mod registry;
mod rename;
mod restart;
mod rm;
mod run;
mod secret;
mod session;
mod sessions;
mod shell;
mod shutdown;
mod signals;
mod ssh_config;
mod ssh_proxy;
mod start;
mod stats;
mod stdin;
mod stdio;
mod stop;
mod template;
mod terminal;
mod top;
mod typing;
mod volume;
mod wait;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches as _, Parser, Subcommand};
use sandpen::client::{Client, ClientOptions, DaemonCommand};
use sandpen::paths;
use sandpen_types::default_registry::DefaultRegistry;
use sandpen_types::error_chain::error_chain;

use args::KrunfwArg;
use core_dumps::CoreDumpError;
use defaults::{ConfigError, Defaults};
use error::CliError;

/// Exit code for failures of `run`, `exec`, `shell`, `attach` and `wait --job` themselves, apart from the workload's,
/// session's or job's.
const RUN_FAILED: u8 = 125;
/// Exit code for other failures.
const FAILED: u8 = 1;
/// Exit code for a command line that cannot be read.
const USAGE: u8 = 2;

/// Runs untrusted code in microVMs and keeps them running.
///
/// A sandbox is what you name and configure; it runs in a microVM of its own, with its own kernel.
/// A daemon in the background looks after all of them; it is started when it is needed.
#[derive(Debug, Parser)]
#[command(
    name = "sandpen",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  sandpen doctor                                  what works on this host, and what to do
  sandpen run ./rootfs -- echo hello              run a command and see its output
  sandpen run -it --rm debian -- sh               a shell of an image, pulled if it is not here
  docker save app | sandpen image load -          take an image, for `sandpen run app`
  sandpen run -d -n web ./rootfs -- ./server      run it in the background
  sandpen run -it --rm ./rootfs                   a shell on this terminal
  sandpen logs -f web                             follow its output
  sandpen exec web -- ps                          run another command in it
  sandpen file read web /etc/hosts                read a file of it, without any program in it
  sandpen cp web:/etc/hosts .                     copy a file out of it, or in
  sandpen shell web                               a shell in it, on this terminal
  sandpen stop web && sandpen start web           end it, and start it again as it was
  sandpen stop web && sandpen rm web              end it and remove it"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Where status, logs and the daemon's socket lie [default: $XDG_STATE_HOME/sandpen, else
    /// ~/.local/state/sandpen]
    #[arg(long, global = true, value_name = "DIR", env = "SANDPEN_STATE_DIR", hide_env_values = true)]
    state_dir: Option<PathBuf>,
    /// Where guest kernels and images lie [default: $XDG_DATA_HOME/sandpen, else ~/.local/share/sandpen]
    #[arg(long, global = true, value_name = "DIR", env = "SANDPEN_DATA_DIR", hide_env_values = true)]
    data_dir: Option<PathBuf>,
    /// The registry, HOST[:PORT], of names of images that say none; none refuses such names
    #[arg(
        long,
        global = true,
        value_name = "HOST",
        default_value_t,
        env = "SANDPEN_DEFAULT_REGISTRY",
        hide_env_values = true
    )]
    default_registry: DefaultRegistry,
    /// Show all causes of an error
    #[arg(long, global = true)]
    debug: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Exec(exec::Args),
    Cp(cp::Args),
    Shell(shell::Args),
    Commit(image::commit::Args),
    Attach(attach::Args),
    PortForward(port_forward::Args),
    SshConfig(ssh_config::Args),
    SshProxy(ssh_proxy::Args),
    Ps(ps::Args),
    Inspect(inspect::Args),
    Top(top::Args),
    Sessions(sessions::Args),
    File(file::Args),
    Jobs(jobs::Args),
    Logs(logs::Args),
    History(history::Args),
    Events(events::Args),
    Metrics(metrics::Args),
    Wait(wait::Args),
    Start(start::Args),
    Restart(restart::Args),
    Stop(stop::Args),
    Kill(kill::Args),
    Rename(rename::Args),
    Rm(rm::Args),
    Disk(disk::Args),
    Volume(volume::Args),
    Image(image::Args),
    Pull(image::pull::Args),
    Push(image::push::Args),
    Login(login::Args),
    Logout(logout::Args),
    Images(image::Ls),
    Stats(stats::Args),
    Df(df::Args),
    Prune(prune::Args),
    Reconcile(reconcile::Args),
    Doctor(doctor::Args),
    Kernel(kernel::Args),
    Daemon(daemon::Args),
    Shutdown(shutdown::Args),
    Config(config::Args),
    Completion(completion::Args),
    Man(man::Args),
}

/// Environment variable: a daemon that a command starts is not started again when it crashes.
const NO_KEEP: &str = "SANDPEN_NO_KEEP";

impl Global {
    fn state_dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(paths::default_state_dir)
    }

    fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(paths::default_data_dir)
    }

    /// How to find the daemon, and to start one if there is none.
    fn client_options(&self) -> Result<ClientOptions, CliError> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(CliError::CurrentDir);
        let (state_dir, data_dir) = (absolute(&self.state_dir())?, absolute(&self.data_dir())?);
        let mut args: Vec<OsString> = vec!["daemon".into(), "--background".into()];
        if std::env::var_os(NO_KEEP).is_none_or(|value| value.is_empty()) {
            args.push("--keep".into());
        }
        // In the environment a relative name would soon mean another file.
        args.extend(KrunfwArg::default().path()?.into_iter().flat_map(|path| ["--krunfw".into(), path.into()]));
        args.extend(["--state-dir".into(), state_dir.clone().into(), "--data-dir".into(), data_dir.into()]);
        let program = std::env::current_exe().map_err(CliError::OwnProgram)?;
        Ok(ClientOptions { state_dir, daemon: Some(DaemonCommand { program, args }) })
    }

    async fn connect(&self) -> Result<Client, CliError> {
        Ok(Client::connect(&self.client_options()?).await?)
    }
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let dumps = core_dumps::forbid();
    let (defaults, broken) = match Defaults::load(&Cli::command()) {
        Ok(defaults) => (defaults, None),
        Err(error) => (Defaults::default(), Some(error)),
    };
    let (cli, matches) = match parse(&defaults) {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error),
    };
    let is_run = match &cli.command {
        Command::Run(_) | Command::Exec(_) | Command::Shell(_) | Command::Attach(_) => true,
        Command::Wait(args) => args.is_for_job(),
        _ => false,
    };
    let failed = if is_run { RUN_FAILED } else { FAILED };
    match dispatch(&cli, dumps, Config { defaults, broken, matches }) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            print::error(&error, cli.global.debug);
            ExitCode::from(failed)
        }
    }
}

/// Reads the command line with the defaults that hold for it.
fn parse(defaults: &Defaults) -> Result<(Cli, ArgMatches), clap::Error> {
    let mut command = defaults.apply(Cli::command(), &[]);
    let mut matches = command.try_get_matches_from_mut(std::env::args_os())?;
    let yielding = defaults.yielding(&matches);
    if !yielding.is_empty() {
        command = defaults.apply(Cli::command(), &yielding);
        matches = command.try_get_matches_from_mut(std::env::args_os())?;
    }
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((cli, matches))
}

/// What the config files had to do with this command line.
struct Config {
    defaults: Defaults,
    /// Why they have none.
    broken: Option<ConfigError>,
    matches: ArgMatches,
}

fn dispatch(cli: &Cli, dumps: Result<(), CoreDumpError>, config: Config) -> Result<u8, CliError> {
    let global = &cli.global;
    // These say what is wrong, or have nothing to do with it.
    match (&cli.command, config.broken) {
        (Command::Doctor(args), broken) => {
            note_dumps(dumps);
            return doctor::execute(global, args, broken.as_ref());
        }
        (Command::Completion(args), _) => return completion::execute(args),
        (Command::Man(args), _) => return man::execute(args),
        (_, Some(broken)) => return Err(broken.into()),
        (Command::Config(args), None) => return config::execute(args, &config.defaults, &config.matches),
        _ => {}
    }
    // These need no client, hence no runtime of ours.
    if let Command::Daemon(args) = &cli.command {
        return daemon::execute(global, args, dumps);
    }
    note_dumps(dumps);
    if let Command::Kernel(args) = &cli.command {
        return kernel::execute(global, args);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?;
    let result = runtime.block_on(async {
        match &cli.command {
            Command::Run(args) => Box::pin(run::execute(global, args)).await,
            Command::Exec(args) => Box::pin(exec::execute(global, args)).await,
            Command::Cp(args) => Box::pin(cp::execute(global, args)).await,
            Command::Shell(args) => Box::pin(shell::execute(global, args)).await,
            Command::Commit(args) => image::commit::execute(global, args).await,
            Command::Attach(args) => Box::pin(attach::execute(global, args)).await,
            Command::PortForward(args) => Box::pin(port_forward::execute(global, args)).await,
            Command::SshConfig(args) => ssh_config::execute(global, args).await,
            Command::SshProxy(args) => Box::pin(ssh_proxy::execute(global, args)).await,
            Command::Ps(args) => ps::execute(global, args).await,
            Command::Inspect(args) => inspect::execute(global, args).await,
            Command::Top(args) => top::execute(global, args).await,
            Command::Sessions(args) => sessions::execute(global, args).await,
            Command::File(args) => file::execute(global, args).await,
            Command::Jobs(args) => jobs::execute(global, args).await,
            Command::Logs(args) => logs::execute(global, args).await,
            Command::History(args) => history::execute(global, args).await,
            Command::Events(args) => events::execute(global, args).await,
            Command::Metrics(args) => metrics::execute(global, args).await,
            Command::Wait(args) => wait::execute(global, args).await,
            Command::Start(args) => start::execute(global, args).await,
            Command::Restart(args) => restart::execute(global, args).await,
            Command::Stop(args) => stop::execute(global, args).await,
            Command::Kill(args) => kill::execute(global, args).await,
            Command::Rename(args) => rename::execute(global, args).await,
            Command::Rm(args) => rm::execute(global, args).await,
            Command::Disk(args) => disk::execute(global, args).await,
            Command::Volume(args) => volume::execute(global, args).await,
            Command::Pull(args) => image::pull::execute(global, args).await,
            Command::Push(args) => image::push::execute(global, args).await,
            Command::Login(args) => login::execute(global, args).await,
            Command::Logout(args) => logout::execute(global, args).await,
            Command::Image(args) => image::execute(global, args).await,
            Command::Images(args) => image::list(global, args).await,
            Command::Stats(args) => stats::execute(global, args).await,
            Command::Df(args) => df::execute(global, args).await,
            Command::Prune(args) => prune::execute(global, args).await,
            Command::Reconcile(args) => reconcile::execute(global, args).await,
            Command::Shutdown(args) => shutdown::execute(global, args).await,
            Command::Daemon(_)
            | Command::Config(_)
            | Command::Completion(_)
            | Command::Man(_)
            | Command::Doctor(_)
            | Command::Kernel(_) => Ok(0),
        }
    });
    runtime.shutdown_background();
    result
}

fn note_dumps(dumps: Result<(), CoreDumpError>) {
    if let Err(error) = dumps {
        print::note(&error_chain(&error));
    }
}

/// Prints what clap has to say: help on stdout, refusals on stderr.
fn usage(error: &clap::Error) -> ExitCode {
    // A terminal that is gone reads neither.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    // The exit codes of these are the workload's or session's, so their own refusals need one apart.
    let seen = Cli::command().ignore_errors(true).try_get_matches();
    // What it could not read it has not seen.
    let is_job = |arg: OsString| arg.as_encoded_bytes() == b"--job" || arg.as_encoded_bytes().starts_with(b"--job=");
    let is_run = seen.is_ok_and(|seen| match seen.subcommand_name() {
        Some("run" | "exec" | "shell" | "attach") => true,
        Some("wait") => std::env::args_os().any(is_job),
        _ => false,
    });
    ExitCode::from(if is_run { RUN_FAILED } else { USAGE })
}
