//! `sandpen attach`.

use sandpen::client::{Beginning, Client};
use sandpen_types::session::SessionId;

use super::args::NameArg;
use super::detach_keys::{self, DetachKeys};
use super::foreground::{Shown, UNREAD, Wanted, show};
use super::session::{self, check_input};
use super::{CliError, Global, job, print};

/// Bring a running sandbox to the foreground
///
/// Shows what it writes from now on (`sandpen logs` shows what it wrote before), and passes standard
/// input on where it was started with -i. On a sandbox with a terminal, this terminal becomes it: its
/// size is told, full-screen programs redraw, and every key but the detach keys is the sandbox's.
/// Several may be attached at once. The exit code is the command's, as for run; 0 after leaving it.
///
/// Signals, and Ctrl-C where the sandbox has no terminal, leave the sandbox and do not end it. The end
/// of standard input does not end the sandbox's.
///
/// With --session the same for a session of the sandbox: `sandpen sessions` lists them. All of its output comes that nobody
/// has seen yet, and whoever has it in the foreground leaves it. It is left to run in the background.
///
/// With --job the same for a job of the sandbox: `sandpen jobs` lists them. All of its output comes, from its begin, also when
/// it has ended; any number may be attached.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen run -dit -n box ./rootfs -- sh     start a shell in the background
  sandpen attach box                         use it; ctrl-p ctrl-q leaves it
  sandpen attach --no-stdin box              only watch
  sandpen attach --job $(sandpen exec -d box -- ./job) box")]
pub struct Args {
    /// Keys that leave the sandbox; '' for none
    #[arg(long, value_name = "KEYS", default_value = detach_keys::DEFAULT)]
    detach_keys: DetachKeys,
    /// Do not pass standard input on
    #[arg(long)]
    no_stdin: bool,
    /// Pass control characters on to this terminal even if the sandbox has none of its own
    #[arg(long)]
    raw: bool,
    /// A session of the sandbox in the place of its own command
    #[arg(long, value_name = "SESSION")]
    session: Option<SessionId>,
    /// A job of the sandbox in the place of its own command
    #[arg(long, value_name = "JOB", conflicts_with = "session")]
    job: Option<SessionId>,
    /// Of the job's output of before only the last N lines; 0 for none
    #[arg(long, value_name = "N", requires = "job")]
    tail: Option<usize>,
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let options = global.client_options()?;
    let client = Client::connect(&options).await?;
    if let Some(id) = args.session {
        let session = client.attach_session(&options, &key, id).await?;
        check_input(!args.no_stdin, session.info().terminal)?;
        let (name, keys) = (args.name.text().to_owned(), args.detach_keys.clone());
        let wanted = session::Wanted { name, input: !args.no_stdin, is_begun: false, keys, raw: args.raw };
        return session::show(session, wanted).await;
    }
    if let Some(id) = args.job {
        let job = client.job(&key, id).await?;
        let (name, keys) = (args.name.text().to_owned(), args.detach_keys.clone());
        let wanted = job::Wanted { name, tail: args.tail, input: !args.no_stdin, keys, raw: args.raw };
        return job::show(&client, &options, &key, job, wanted).await;
    }
    let sandbox = client.inspect(&key).await?;
    if !sandbox.is_active() {
        return Err(CliError::NotRunning(args.name.text().to_owned()));
    }
    let wanted = Wanted {
        input: sandbox.stdin && !args.no_stdin,
        terminal: sandbox.terminal.is_some(),
        keys: args.detach_keys.clone(),
        raw: args.raw,
    };
    wanted.check()?;
    match show(&client, &options, &key, Beginning::Attach(Box::new(sandbox)), wanted).await? {
        Shown::Ended(sandbox) => Ok(print::ended(&sandbox, !sandbox.remove_on_end)),
        Shown::Detached(name) => Ok(print::left(&format!("left sandbox {name}, which runs on"))),
        Shown::Unread => Ok(UNREAD),
    }
}
