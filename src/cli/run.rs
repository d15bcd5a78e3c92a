//! `sandpen run`.

mod env;
mod health;
mod inside;
mod log;
mod net;
mod pull;
mod root;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use env::{EnvArgs, EnvError};

use health::HealthArgs;
use inside::InsideArgs;
use log::LogArgs;
use net::NetArgs;
use pull::{Bringing, PullPolicy};
use root::RootArgs;
use sandpen::api::{CreateSandbox, ErrorCode, Timings};
use sandpen::client::{Beginning, Client};
use sandpen::driver;
use sandpen_types::default_registry::DefaultRegistry;
use sandpen_types::signal::Signal;
use sandpen_types::spec::{
    ByteString, CheckedSpec, DriverChoice, Label, Resources, RestartPolicy, Rlimit, SandboxKey, SandboxSpec, Volume,
    VolumeSource,
};
use sandpen_types::units::{MemorySize, TimeSpan};

use super::args::ConfigArg;
use super::detach_keys::{self, DetachKeys};
use super::foreground::{GRACE, Shown, UNREAD, Wanted, show};
use super::image::pull::Ways;
use super::{CliError, Global, names, print, terminal};

/// Run a command in a new sandbox
///
/// In the foreground, the command's output comes byte for byte, stdout and stderr apart; a terminal gets
/// control characters as escapes, unless -t or --raw is given. The exit code is the command's: 128 + N when signal N ended it, 126 or 127 when it could not be
/// executed, 125 when sandpen itself failed. Ctrl-C stops the sandbox, a second one kills it.
///
/// With --restart it is started again when it has ended, and stays in the foreground until it has ended
/// for good; `sandpen ps` shows when the next start is due. Ctrl-C and `sandpen stop` end it for good.
///
/// With -it this terminal becomes the sandbox's: every key is the command's, Ctrl-C too. The detach
/// keys leave it running, for `sandpen attach`; a terminal that goes away ends it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen run ./rootfs -- sh -c 'echo hello; exit 3'
  sandpen run --env-fd 3 ./rootfs -- ./deploy 3< <(pass show deploy)
  sandpen run --rm debian:12 -- cat /etc/os-release
  sandpen run -it --rm --pull always debian -- sh
  sandpen run -d -P -n web nginx:1.27
  sandpen run -d --idle -n box debian:12 && sandpen exec box -- cat /etc/os-release
  sandpen run -d -n web -e PORT=8080 --memory 512M ./rootfs -- /srv/web
  sandpen run -it --rm ./rootfs -- sh
  echo data | sandpen run -i --rm ./rootfs -- wc -c
  sandpen run -v ./src:/src:ro -v ./out:/out ./rootfs -- make -C /src
  sandpen run -v cache:/root/.cache --read-only --tmpfs /tmp:size=64M -u nobody ./rootfs -- ./untrusted
  sandpen run --disk 1G ./rootfs -- sh -c 'rm -rf /bin'
  sandpen run --root image ./rootfs -- sh -c 'echo quick'
  sandpen run --overlay ./tools --keep-disk work ./rootfs -- sh
  sandpen run --root image --timings ./rootfs -- true
  sandpen run --timeout 30s ./rootfs -- ./untrusted
  sandpen run -d --restart on-failure:5 -n job ./rootfs -- ./job
  sandpen run -d --restart always --health-cmd 'wget -qO- localhost' -n web ./rootfs -- /srv/web
  sandpen run -p 8080:80 ./rootfs -- /srv/web
  sandpen run --rlimit nofile=4096 --rlimit core=0 ./rootfs -- ./job")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line are")]
pub struct Args {
    /// Name of the sandbox: NAME or CONFIG/NAME [default: a readable random one]
    #[arg(short, long)]
    name: Option<String>,
    #[command(flatten)]
    config: ConfigArg,
    /// Run in the background and print the name
    #[arg(short, long)]
    detach: bool,
    /// Run nothing: the sandbox waits for `sandpen exec` and `sandpen shell`, until it is stopped
    #[arg(long, conflicts_with_all = ["interactive", "tty", "entrypoint", "command"])]
    idle: bool,
    /// Remove the sandbox and its log when it has ended
    #[arg(long)]
    rm: bool,
    /// Pass standard input on; with -d keep it open, for `sandpen attach`
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal; with -i it is this one
    #[arg(short, long)]
    tty: bool,
    /// Keys that leave a sandbox on this terminal; '' for none
    #[arg(long, value_name = "KEYS", default_value = detach_keys::DEFAULT)]
    detach_keys: DetachKeys,
    /// Without -t, pass the command's control characters on to this terminal instead of showing them as
    /// escapes; a pipe or file gets every byte as it is in any case
    #[arg(long, conflicts_with = "detach")]
    raw: bool,
    // What clap would take from a docstring names the drivers.
    #[arg(long, value_name = "DRIVER", default_value_t, help = driver_help())]
    driver: DriverChoice,
    /// Virtual CPUs, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// Memory, with its unit
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    memory: MemorySize,
    /// What happens when it has ended: no, on-failure, on-failure:MAX (restarts in a row), always or
    /// unless-stopped
    #[arg(long, value_name = "POLICY", default_value_t)]
    restart: RestartPolicy,
    /// Longest time the command may run, with its unit; each start has it anew
    #[arg(long, value_name = "TIME")]
    timeout: Option<TimeSpan>,
    /// Stop it when for so long there was no session, no input and no output; an eighth of it later at most
    #[arg(long, value_name = "TIME")]
    idle_timeout: Option<TimeSpan>,
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    env: EnvArgs,
    /// Working directory in the sandbox, absolute; made where it is missing [default: /]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<OsString>,
    /// Directory or file HOST of this host at GUEST in the sandbox, or the directory that is kept under the name NAME for
    /// all sandboxes (`sandpen volume`); read-only with :ro; may be given several times
    #[arg(short, long, value_name = "HOST|NAME:GUEST[:ro]")]
    volume: Vec<OsString>,
    #[command(flatten)]
    inside: InsideArgs,
    /// What is said of the sandbox, for `sandpen ps --filter label=KEY=VALUE`; may be given several times
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<Label>,
    /// What asks the command to end at a stop, a name or number [default: TERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<Signal>,
    #[command(flatten)]
    net: NetArgs,
    /// Limit of the command's process, for example nofile=4096 or core=0:unlimited; may be given several
    /// times
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    rlimit: Vec<Rlimit>,
    #[command(flatten)]
    root: RootArgs,
    /// When an image is pulled from its registry, as `sandpen pull` does it [default: missing]
    #[arg(long, value_name = "WHEN", value_enum)]
    pull: Option<PullPolicy>,
    #[command(flatten)]
    ways: Ways,
    /// Boot this kernel, a bzImage or vmlinux, instead of the driver's; what it lacks as modules of an
    /// installed kernel of its version must be built in
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// When it has ended, show on standard error where the time went; with -d up to its start. `sandpen inspect`
    /// has the same
    #[arg(long)]
    timings: bool,
    #[command(flatten)]
    log: LogArgs,
    /// Directory that is the sandbox's root, which starts with "." or "/"; or an image, by its name or id: see
    /// `sandpen image`
    #[arg(value_name = "ROOTFS|IMAGE")]
    rootfs: OsString,
    /// The command and its arguments [default: /bin/sh, or what the image says; with an image that has an entrypoint
    /// these are its arguments]
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// How long an ended sandbox stays for a foreground that was cut off from its daemon.
const REMOVE_DELAY: Duration = Duration::from_secs(10);

impl Args {
    fn key(&self) -> Result<SandboxKey, CliError> {
        match &self.name {
            Some(name) => self.config.key(name),
            None => self.config.key(names::random()?.as_str()),
        }
    }

    /// The volumes, those of the host by their real paths as the root's.
    fn volumes(&self) -> Result<Vec<Volume>, CliError> {
        let read = |text: &OsString| {
            let mut volume = Volume::parse(text)?;
            if let VolumeSource::Host(path) = volume.source {
                let real = path.canonicalize().map_err(|source| CliError::Volume { path, source })?;
                if real.to_str().is_none() {
                    return Err(CliError::VolumeText(real));
                }
                volume.source = VolumeSource::Host(real);
            }
            Ok(volume)
        };
        self.volume.iter().map(read).collect()
    }

    /// Programs have to know whom they write to, unless the user knows better.
    fn pass_terminal_type(spec: &mut SandboxSpec) {
        let name = ByteString::from("TERM");
        if let Some(value) = std::env::var_os("TERM").filter(|value| !value.is_empty())
            && spec.env.iter().all(|(other, _)| *other != name)
        {
            spec.env.push((name, value.into()));
        }
    }

    fn spec(&self, names_of: &DefaultRegistry) -> Result<SandboxSpec, CliError> {
        let command = match self.command.as_slice() {
            [] if root::is_path(&self.rootfs) && !self.idle => vec![ByteString::from("/bin/sh")],
            command => command.iter().map(ByteString::from).collect(),
        };
        let mut spec = SandboxSpec {
            driver: self.driver.clone(),
            resources: Resources { cpus: self.cpus, memory_mib: self.memory.mebibytes() },
            env: self.env.variables(self.interactive)?,
            workdir: self.workdir.as_ref().map(ByteString::from),
            stdin: self.interactive,
            idle: self.idle,
            idle_timeout: self.idle_timeout.map(TimeSpan::duration),
            timeout: self.timeout.map(TimeSpan::duration),
            restart: self.restart,
            health: self.health.check(),
            log: self.log.limits(),
            remove_on_end: self.rm,
            // In the foreground we remove it, after its last byte and its exit code are here. If we cannot,
            // the daemon does.
            remove_delay: if self.rm && !self.detach { REMOVE_DELAY } else { Duration::ZERO },
            volumes: self.volumes()?,
            rlimits: self.rlimit.clone(),
            network: self.net.network(),
            ports: self.net.ports(),
            disk: self.root.disk(),
            root_device: self.root.device(),
            stop_signal: self.stop_signal,
            labels: self.label.iter().map(|label| (label.key.clone(), label.value.clone())).collect(),
            kernel: self.kernel.as_deref().map(real_kernel).transpose()?,
            ..SandboxSpec::new(self.key()?, self.root.rootfs(&self.rootfs, self.pull.is_some(), names_of)?, command)
        };
        self.inside.apply(&mut spec)?;
        if self.tty {
            spec.terminal = Some(terminal::size().unwrap_or_default());
            Self::pass_terminal_type(&mut spec);
        }
        // What can be refused is refused before a daemon is started for it.
        sandpen_actors::host::spec_on_host::check(&CheckedSpec::try_from(spec.clone())?)?;
        Ok(spec)
    }

    /// Has the image in the store, if it is one.
    async fn bring_image(&self, global: &Global, client: &Client, spec: &mut SandboxSpec) -> Result<(), CliError> {
        // One that is no text was refused before.
        let given = self.rootfs.to_str().unwrap_or_default();
        let bringing = Bringing { client, names_of: &global.default_registry, ways: &self.ways };
        bringing.bring(self.pull.unwrap_or_default(), given, spec).await
    }
}

/// The help of `--driver`.
fn driver_help() -> String {
    format!("What makes the microVM: auto, {}", driver::NAMES.join(", "))
}

/// A kernel by its real path, likewise.
fn real_kernel(given: &Path) -> Result<PathBuf, CliError> {
    let real = given.canonicalize().map_err(|source| CliError::KernelFile { path: given.to_owned(), source })?;
    if real.to_str().is_none() { Err(CliError::KernelText(real)) } else { Ok(real) }
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let mut timings = print::Timings::begin(args.timings);
    let mut spec = args.spec(&global.default_registry)?;
    if args.detach {
        let client = global.connect().await?;
        timings.mark("daemon_found");
        args.bring_image(global, &client, &mut spec).await?;
        let request = CreateSandbox::from(spec);
        let sandbox = client.start_sandbox(&request).await?;
        timings.mark("answered");
        let code = print::detached(&sandbox)?;
        timings.show(sandbox.timings.as_ref());
        return Ok(code);
    }
    Box::pin(foreground(global, args, spec, timings)).await
}

async fn foreground(
    global: &Global,
    args: &Args,
    mut spec: SandboxSpec,
    mut timings: print::Timings,
) -> Result<u8, CliError> {
    let wanted = Wanted { input: args.interactive, terminal: args.tty, keys: args.detach_keys.clone(), raw: args.raw };
    wanted.check()?;
    let options = global.client_options()?;
    let client = Client::connect(&options).await?;
    timings.mark("daemon_found");
    args.bring_image(global, &client, &mut spec).await?;
    let request = &CreateSandbox::from(spec);
    match show(&client, &options, &request.key, Beginning::Start(request), wanted).await? {
        Shown::Ended(sandbox) => {
            timings.mark("output_shown");
            let code = print::ended(&sandbox, !args.rm);
            // Asked for again: the first answer can be older than the last steps.
            let steps = if args.timings { wait_timings(global, &request.key).await } else { None };
            if args.rm {
                remove(&client, &request.key).await?;
                timings.mark("removed");
            }
            timings.show(steps.as_ref());
            Ok(code)
        }
        Shown::Unread => {
            if args.rm {
                // It was for this output alone.
                stop(&client, &request.key).await?;
                remove(&client, &request.key).await?;
            }
            Ok(UNREAD)
        }
        Shown::Detached(name) => {
            timings.show(client.inspect(&request.key).await.ok().and_then(|sandbox| sandbox.timings).as_ref());
            let remove = if args.rm { "; it is removed when it has ended" } else { "" };
            Ok(print::left(&format!("left sandbox {name}, which runs on; `sandpen attach {name}` comes back{remove}")))
        }
    }
}

/// What is known when it has ended; of another daemon's sandbox that is less.
async fn wait_timings(global: &Global, key: &SandboxKey) -> Option<Timings> {
    let options = global.client_options().ok()?;
    Client::connect(&options).await.ok()?.wait(&options, key).await.ok()?.timings
}

/// Ends it, if it has not ended by itself meanwhile.
async fn stop(client: &Client, key: &SandboxKey) -> Result<(), CliError> {
    match client.stop(key, GRACE).await {
        Err(error) if matches!(error.code(), Some(ErrorCode::NotFound | ErrorCode::NotLive)) => Ok(()),
        result => Ok(result.map(drop)?),
    }
}

async fn remove(client: &Client, key: &SandboxKey) -> Result<(), CliError> {
    match client.remove(key, false).await {
        // Somebody else was quicker.
        Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(()),
        result => Ok(result?),
    }
}
