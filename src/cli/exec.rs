//! `sandpen exec`.

use std::ffi::OsString;

use sandpen::client::Client;
use sandpen_types::session::SessionSpec;
use sandpen_types::spec::{ByteString, WorkloadUser};
use sandpen_types::units::TimeSpan;

use super::args::NameArg;
use super::detach_keys::{self, DetachKeys};
use super::run::EnvArgs;
use super::session::{Wanted, check_input, on_this_terminal, show};
use super::{CliError, Global, job};

/// Run a command in a running sandbox
///
/// Beside the sandbox's own command, with streams of its own: they come byte for byte, stdout and stderr apart, and are in
/// no log, but for those of a job in the background (-d), which are in a log of its own. Environment, user, limits and working directory are those of the sandbox's command, unless said otherwise. The
/// exit code is the command's: 128 + N when signal N ended it, 126 or 127 when it could not be executed, 124 when its time
/// was up, 125 when sandpen itself failed. Signals are passed on; a second one ends it.
///
/// A daemon that dies or is replaced meanwhile makes no difference. The command ends with the sandbox, and half a minute
/// after this program was killed, unless it runs in the background or was left with the detach keys.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen exec web -- ps
  sandpen exec -it web -- sh                    a shell on this terminal; ctrl-p ctrl-q leaves it
  tar c . | sandpen exec -i web -- tar x -C /srv
  sandpen exec -u nobody -w /srv -e MODE=check --timeout 30s web -- ./check
  id=$(sandpen exec -d web -- ./job) && sandpen logs -f --job $id web")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line are")]
pub struct Args {
    /// Pass standard input on; with -d keep it open, for `sandpen attach --job`
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal; with -i it is this one
    #[arg(short, long)]
    tty: bool,
    /// Run in the background, as a job, and print its id: `sandpen jobs` lists it, and `sandpen logs --job` shows its
    /// output
    #[arg(short, long)]
    detach: bool,
    /// User, and perhaps group, that it runs as, names or numbers of the sandbox's /etc/passwd and /etc/group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<WorkloadUser>,
    #[command(flatten)]
    env: EnvArgs,
    /// Working directory in the sandbox, absolute; it must be there
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<OsString>,
    /// Longest time it may run, with its unit
    #[arg(long, value_name = "TIME")]
    timeout: Option<TimeSpan>,
    /// Keys that leave it on this terminal; '' for none
    #[arg(long, value_name = "KEYS", default_value = detach_keys::DEFAULT)]
    detach_keys: DetachKeys,
    /// Without -t, pass its control characters on to this terminal instead of showing them as escapes; a pipe or file gets
    /// every byte as it is in any case
    #[arg(long, conflicts_with = "detach")]
    raw: bool,
    #[command(flatten)]
    name: NameArg,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Args {
    fn spec(&self) -> Result<SessionSpec, CliError> {
        let mut spec = SessionSpec {
            env: self.env.variables(self.interactive)?,
            user: self.user.clone(),
            workdir: self.workdir.as_ref().map(ByteString::from),
            stdin: self.interactive,
            detached: self.detach,
            timeout: self.timeout.map(TimeSpan::duration),
            ..SessionSpec::command(&self.command)
        };
        if self.tty {
            on_this_terminal(&mut spec);
        }
        // What can be refused is refused before a daemon is asked.
        spec.check()?;
        Ok(spec)
    }
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let (key, spec) = (args.name.key()?, args.spec()?);
    if !args.detach {
        check_input(args.interactive, args.tty)?;
    }
    let options = global.client_options()?;
    let client = Client::connect(&options).await?;
    if args.detach {
        return job::started(&client.start_job(&options, &key, spec).await?);
    }
    let session = client.exec(&options, &key, spec).await?;
    let (name, keys) = (args.name.text().to_owned(), args.detach_keys.clone());
    show(session, Wanted { name, input: args.interactive, is_begun: true, keys, raw: args.raw }).await
}
