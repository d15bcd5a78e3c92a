//! `sandpen doctor`.

use sandpen::doctor::{self, Check};
use sandpen::driver::HostOptions;
use sandpen_types::error_chain::error_chain;

use super::args::{ConfinementArg, KrunfwArg};
use super::defaults::ConfigError;
use super::{CliError, FAILED, Global, print};

/// Say what works on this host and what to do about the rest
///
/// For a daemon with the same options. The exit code is 1 when no microVM can be run. The JSON of --json has `checks`, each with `name`,
/// `status` (ok, warn or fail), `detail` and `advice`, the driver that `auto` picks, and the `reason`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    confinement: ConfinementArg,
    #[command(flatten)]
    krunfw: KrunfwArg,
}

pub fn execute(global: &Global, args: &Args, broken_config: Option<&ConfigError>) -> Result<u8, CliError> {
    let require_confinement = args.confinement.require_confinement;
    let options = HostOptions { krunfw: args.krunfw.path()?, require_confinement, cache: None };
    let mut report = doctor::examine(&global.state_dir(), &global.data_dir(), &options);
    report.checks.push(Check::config_files(broken_config.map(|error| error_chain(error)).as_deref()));
    if args.json {
        print::json(&report)?;
    } else {
        print::report(&report)?;
    }
    Ok(if report.auto.is_some() && broken_config.is_none() { 0 } else { FAILED })
}
