//! `sandpen wait`.

use super::args::NameArg;
use super::{CliError, Global, print};

/// Daemons in a row that may die before the answer.
const RECONNECTS: u32 = 3;

/// Wait until a sandbox has ended and print its exit code
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let mut deaths = 0;
    loop {
        match global.connect().await?.wait(&key).await {
            // The sandbox runs on, and waiting changes nothing: it is waited for at the next daemon.
            Err(error) if error.is_cut() && deaths < RECONNECTS => deaths += 1,
            sandbox => return print::exit_code(&sandbox?),
        }
    }
}
