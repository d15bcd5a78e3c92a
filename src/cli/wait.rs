//! `sandpen wait`.

use super::args::NameArg;
use super::{CliError, Global, print};

/// Wait until a sandbox has ended and print its exit code
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let sandbox = global.connect().await?.wait(&key).await?;
    print::exit_code(&sandbox)
}
