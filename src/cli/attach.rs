//! `sandpen attach`.

use sandpen::client::{Beginning, Client};

use super::args::NameArg;
use super::detach_keys::{self, DetachKeys};
use super::foreground::{Shown, UNREAD, Wanted, show};
use super::{CliError, Global, print};

/// Bring a running sandbox to the foreground
///
/// Shows what it writes from now on (`sandpen logs` shows what it wrote before), and passes standard
/// input on where it was started with -i. On a sandbox with a terminal, this terminal becomes it: its
/// size is told, full-screen programs redraw, and every key but the detach keys is the sandbox's.
/// Several may be attached at once. The exit code is the command's, as for run; 0 after leaving it.
///
/// Signals, and Ctrl-C where the sandbox has no terminal, leave the sandbox and do not end it. The end
/// of standard input does not end the sandbox's.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen run -dit -n box ./rootfs -- sh     start a shell in the background
  sandpen attach box                         use it; ctrl-p ctrl-q leaves it
  sandpen attach --no-stdin box              only watch")]
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
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let options = global.client_options()?;
    let client = Client::connect(&options).await?;
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
