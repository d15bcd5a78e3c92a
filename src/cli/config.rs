//! `sandpen config`.

use clap::{ArgMatches, CommandFactory as _};

use super::defaults::Defaults;
use super::{Cli, CliError, print};

/// Show the defaults and where each comes from
///
/// Flags win over environment variables, those over the user's file, $XDG_CONFIG_HOME/sandpen/config.toml or
/// ~/.config/sandpen/config.toml, that over /etc/sandpen/config.toml, and that over what is built in. The files are TOML;
/// their keys are the long names of flags, all that are listed here. SANDPEN_CONFIG names another file to read in the
/// place of both, or none where it is empty. A default gives way where a flag that is given contradicts it: net = "none" to
/// -p, restart = "always" to --rm.
///
/// The JSON of --json is a list, each with `key`, `value` (null where there is none, a list of those that may be given several times), `origin` (flag, environment,
/// named-file, user-file, system-file or built-in), and `file` with `line`, or `variable`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example of a file:
  state-dir = \"/srv/sandpen\"
  memory = \"1G\"
  cpus = 2
  net = \"none\"           # but with -p
  restart = \"always\"     # but with --rm")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn execute(args: &Args, defaults: &Defaults, matches: &ArgMatches) -> Result<u8, CliError> {
    let effective = defaults.effective(&Cli::command(), matches);
    if args.json { print::json(&effective) } else { print::defaults(&effective) }
}
